"""`mirror exec` on a real process: the program must not be able to tell, but by what it sees of the target."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import environment
from mirror.cli.errors import EXIT_CANNOT_RUN, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_USAGE
from tests.cli.conftest import MIRROR, Target, wait_until

PYTHON = sys.executable
SESSIONS = 20
"""More than would all be slow by chance."""


def plain_and_mirrored(target: Target, *command: str, **how: Any) -> tuple[str, str]:
    """What a program prints as it is, and under mirror."""
    arguments: dict[str, Any] = {"capture_output": True, "text": True, "env": target.variables, "timeout": 60}
    plain = subprocess.run(command, check=True, **{**arguments, **how})
    mirrored = target.run(*command, **how)
    assert mirrored.returncode == 0, mirrored.stderr
    return plain.stdout, mirrored.stdout


# --- what the program is ----------------------------------------------------------------------------------


def test_environment_of_the_target(target: Target) -> None:
    result = target.run("sh", "-c", 'echo "$ONLY_IN_TARGET $MODE $ADDED"', options=["--env", "ADDED=x"])
    assert result.stdout == f"{target.mark} target x\n"
    assert result.stderr == ""


def test_environment_is_otherwise_the_users(target: Target) -> None:
    variables = {**target.variables, "LC_ALL": "C"}  # Python then adds LC_CTYPE to its own
    plain, mirrored = (
        dict(environment.parse_block(output.encode()))
        for output in plain_and_mirrored(target, "env", "-0", env=variables)
    )
    for name in ("ONLY_IN_TARGET", "MODE", "UV_USE_IO_URING", "_"):
        plain.pop(name, None)
        mirrored.pop(name, None)
    assert mirrored == plain


def test_same_process_group_session_and_parent(target: Target) -> None:
    program = "import os; print(os.getpid(), os.getppid(), os.getpgrp(), os.getsid(0))"
    with target.start(PYTHON, "-c", program) as process:
        output, _ = process.communicate(timeout=60)
    assert output.split() == [str(number) for number in (process.pid, os.getpid(), os.getpgrp(), os.getsid(0))]


def test_no_child_that_it_did_not_make(target: Target) -> None:
    result = target.run(PYTHON, "-c", "import os; os.wait()")
    assert "ChildProcessError" in result.stderr


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status(target: Target, status: int) -> None:
    assert target.run("sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGSEGV])
def test_death_by_signal(target: Target, number: signal.Signals) -> None:
    assert target.run("sh", "-c", f"ulimit -c 0; kill -{number.value} $$").returncode == -number


def test_signal_dispositions_mask_and_umask(target: Target) -> None:
    def prepare() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.umask(0o027)

    # SIGSETXID, of which glibc lets no program know, is caught as soon as there is a second thread.
    program = (
        "import re; status = open('/proc/self/status').read(); print(re.findall('Umask.*', status),"
        "[int(mask, 16) & ~(1 << 32) for mask in re.findall('Sig(?:Blk|Ign|Cgt):(.*)', status)])"
    )
    for preparation in (None, prepare):
        plain, mirrored = plain_and_mirrored(target, PYTHON, "-c", program, preexec_fn=preparation)
        assert mirrored == plain


def test_limits_and_directory(target: Target, tmp_path: Path) -> None:
    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, 900))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    plain, mirrored = plain_and_mirrored(target, "sh", "-c", "ulimit -a; pwd", cwd=tmp_path, preexec_fn=prepare)
    assert mirrored == plain


def test_descriptors_keep_their_numbers(target: Target, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inherited")
    inherited = os.open(tmp_path / "file", os.O_RDONLY)
    program = (
        f"import os; print(os.read({inherited}, 99)); a = os.open('/dev/null', 0); b = os.dup(a); print(a, b);"
        "print(sorted(int(n) for n in os.listdir('/proc/self/fd') if int(n) < 700))"
    )
    outputs = []
    for command in ((PYTHON, "-c", program), target.command(PYTHON, "-c", program)):
        os.lseek(inherited, 0, os.SEEK_SET)
        outputs.append(
            subprocess.run(command, capture_output=True, env=target.variables, pass_fds=[inherited], check=True).stdout
        )
    os.close(inherited)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_descriptors(target: Target, tmp_path: Path, closed: str) -> None:
    listing = f"ls /proc/self/fd > {tmp_path}/"
    command = " ".join(f"'{word}'" for word in target.command("sh", "-c", listing + "mirrored"))
    for name, line in (("plain", f"sh -c '{listing}plain' {closed}"), ("mirrored", f"{command} {closed}")):
        subprocess.run(["sh", "-c", line], env=target.variables, check=True, timeout=60)
        assert (tmp_path / name).exists()
    plain, mirrored = ((tmp_path / name).read_text().split() for name in ("plain", "mirrored"))
    assert [number for number in mirrored if int(number) < 500] == plain


# --- pipes ------------------------------------------------------------------------------------------------


def test_standard_streams_are_the_programs_own(target: Target) -> None:
    result = target.run("sh", "-c", "cat; echo error >&2", input="through the pipe")
    assert (result.stdout, result.stderr) == ("through the pipe", "error\n")


def test_reader_that_goes_away(target: Target) -> None:
    command = " ".join(target.command("yes"))
    line = f"{command} | head -n 2; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", line], env=target.variables, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"y\ny\n{128 + signal.SIGPIPE}\n"
    assert result.stderr == ""


def test_pipes_end_with_the_program(target: Target) -> None:
    """Nobody else holds them, so that a reader sees their end while the session still lives by a child."""
    program = "import os, sys, time\nif os.fork() == 0:\n os.close(1); os.close(2); sys.stdin.read(); os._exit(0)\n"
    with target.start(PYTHON, "-c", program) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        assert process.stdout.read() == ""
        assert process.stderr.read() == ""
        assert target.proxies()
        process.stdin.close()


# --- debuggers --------------------------------------------------------------------------------------------


def test_gdb(target: Target) -> None:
    result = target.run("gdb", "-q", "-batch", "-ex", "run", "--args", "sh", "-c", "echo in $ONLY_IN_TARGET; exit 7")
    assert f"in {target.mark}" in result.stdout
    assert "exited with code 07" in result.stdout


def test_strace(target: Target, tmp_path: Path) -> None:
    result = target.run("strace", "-f", "-o", str(tmp_path / "trace"), "sh", "-c", "echo in $ONLY_IN_TARGET; exit 7")
    assert result.stdout == f"in {target.mark}\n"
    assert result.returncode == 7
    assert "exited with 7" in (tmp_path / "trace").read_text()


# --- the end ----------------------------------------------------------------------------------------------


def waiting(target: Target) -> subprocess.Popen[str]:
    """A program that has said that it runs, and waits for a line."""
    process = target.start("sh", "-c", "echo runs; read line; echo $line")
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


def test_killed_program_leaves_nothing(target: Target) -> None:
    with waiting(target) as process:
        assert target.proxies()
        assert target.agents()
        process.kill()
        process.wait()
        target.wait_alone()


def test_nothing_is_left_after_a_second(target: Target) -> None:
    """On a busy machine one session may take longer to end, but not one after the other."""
    for _ in range(SESSIONS):
        with waiting(target) as process:
            process.kill()
            ended_at = time.monotonic()
            target.wait_alone()
            if time.monotonic() - ended_at < 1:
                return
    pytest.fail(f"{SESSIONS} sessions took more than a second to end")


def test_session_lives_as_long_as_any_child(target: Target) -> None:
    # The shell would give the child /dev/null to read.
    process = target.start("sh", "-c", "exec 3<&0; (read line; cat) <&3 & echo runs")
    with process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "runs\n"
        process.wait()
        assert process.stdout.read(0) == ""
        assert target.proxies()
    target.wait_alone()


def test_killed_proxy_ends_the_agent_and_the_program_goes_on(target: Target) -> None:
    with waiting(target) as process:
        for pid in target.proxies():
            os.kill(pid, 9)
        wait_until(lambda: not target.agents(), "the agent is left")
        output, _ = process.communicate("still here\n", timeout=60)
        assert output == "still here\n"
        assert process.returncode == 0


def test_killed_agent_is_told_once(target: Target) -> None:
    program = (
        "import sys, os\nprint('runs', flush=True)\nfor _ in range(3):\n sys.stdin.readline()\n"
        " try: os.stat('/srv/only/in/target')\n except OSError as error: print(error.errno, flush=True)\n"
    )
    with target.start(PYTHON, "-c", program) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "runs\n"
        for pid in target.agents():
            os.kill(pid, 9)
        assert "agent" in process.stderr.readline()
        output, errors = process.communicate("\n\n\n", timeout=60)
        assert output == "5\n5\n5\n"
        assert errors == ""


@pytest.mark.parametrize("order", list(itertools.permutations(["program", "proxy", "agent"])), ids="-".join)
def test_everything_killed_in_any_order(target: Target, order: tuple[str, ...]) -> None:
    with waiting(target) as process:
        pids = {"program": [process.pid], "proxy": target.proxies(), "agent": target.agents()}
        for who in order:
            for pid in pids[who]:
                with contextlib.suppress(ProcessLookupError):  # what was killed first has ended it
                    os.kill(pid, 9)
        process.wait()
        target.wait_alone()


@pytest.mark.parametrize("killed", ["program", "proxy"])
def test_nothing_is_left_of_the_demo_target(target: Target, killed: str) -> None:
    target.name = "demo"
    with waiting(target) as process:
        (proxy,) = target.proxies()
        helpers = descendants(proxy)
        assert len(helpers) >= 2
        os.kill(process.pid if killed == "program" else proxy, 9)
        wait_until(lambda: not alive([proxy, *helpers]), "something of the sandbox is left")


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on."""
    children: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return children + [other for child in children for other in descendants(child)]


def alive(pids: list[int]) -> list[int]:
    """Those that run; what only waits for its parent to notice is dead."""

    def state(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return "X"

    return [pid for pid in pids if state(pid) not in ("X", "Z")]


# --- the start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["command line", "program", "target is", "agent"])
def test_interrupted_start(target: Target, step: str) -> None:
    process = target.start("sleep", "100", options=["-v"])
    with process:
        assert process.stderr is not None
        while step not in (line := process.stderr.readline()):
            assert line
        process.send_signal(signal.SIGINT)
        process.wait()
        assert process.returncode == -signal.SIGINT
        target.wait_alone()


def test_killed_proxy_during_the_start(target: Target) -> None:
    read, write = full_pipe()
    # It stops at the first line that -v has it say.
    with open(read) as errors, target.start("true", options=["-v"], stderr=write) as process:
        os.close(write)
        wait_until(target.proxies, "there is no proxy")
        (proxy,) = target.proxies()
        os.kill(proxy, 9)
        assert "proxy ended" in errors.read()
        process.wait()
        assert process.returncode == EXIT_FAILED


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing until it is read from."""
    read, write = os.pipe()
    size_bytes = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
    assert os.write(write, b"\n" * size_bytes) == size_bytes
    return read, write


def fails(*arguments: str, status: int, words: str) -> None:
    result = subprocess.run([*MIRROR, *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (status, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    if status != EXIT_USAGE:
        assert result.stderr.startswith("mirror: ")
        assert result.stderr.count("\n") == 1


def test_errors_before_the_start(tmp_path: Path) -> None:
    pid = f"pid/{os.getpid()}"
    (tmp_path / "text").write_text("x")
    fails("exec", "-t", pid, "--", "no-such-program", status=EXIT_NOT_FOUND, words="no-such-program")
    fails("exec", "-t", pid, "--", str(tmp_path / "text"), status=EXIT_CANNOT_RUN, words="executed")
    fails("exec", "-t", pid, "--", str(tmp_path), status=EXIT_CANNOT_RUN, words="directory")
    fails("exec", "-t", "pid/4194304", "--", "true", status=EXIT_FAILED, words="no process 4194304")
    fails("exec", "-t", "pid/x", "--", "true", status=EXIT_USAGE, words="pid/x")
    fails("exec", "-t", "planet/x", "--", "true", status=EXIT_USAGE, words="planet")
    fails("exec", "--kubeconfig", "/no/such/file", "--", "true", status=EXIT_USAGE, words="no target was named")
    fails(
        "exec", "-t", "pod/x", "--kubeconfig", "/no/such/file", "--", "true", status=EXIT_USAGE, words="/no/such/file"
    )
    fails("exec", "-t", "pod/x/y", "--", "true", status=EXIT_USAGE, words="pod/NAME/container/NAME")
    fails("exec", "-t", pid, status=EXIT_USAGE, words="Missing argument")
    fails("exec", "-t", pid, "--no-such-option", "--", "true", status=EXIT_USAGE, words="No such option")
    fails("exec", "-t", pid, "-f", "/no/such/file", "--", "true", status=EXIT_USAGE, words="/no/such/file")
    fails("exec", "-t", pid, "--env", "X", "--", "true", status=EXIT_USAGE, words="NAME=VALUE")
    fails("exec", "-t", pid, "-s", "A", "-x", "B", "--", "true", status=EXIT_USAGE, words="not both")
    if not os.path.exists("/proc/2/exe"):  # it is the kernel's, or there is none
        fails("exec", "-t", "pid/2", "--", "true", status=EXIT_FAILED, words="process 2")


def test_more_variables_than_a_program_may_have(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "mirror.json"
    file.write_text(json.dumps({"feature": {"env": {"override": {f"LARGE_{i}": "v" * 100_000 for i in range(70)}}}}))
    result = target.run("true", options=["-f", str(file)])
    assert result.returncode == EXIT_CANNOT_RUN
    assert result.stderr.startswith("mirror: true: Argument list too long, ")
    assert result.stderr.endswith("leave some out with --env-exclude\n")


def test_no_nesting(target: Target) -> None:
    result = target.run(*MIRROR, "exec", "-t", target.name, "--", "true")
    assert result.returncode == EXIT_USAGE
    assert "already runs under" in result.stderr


def test_configuration_file(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(f'target = "{target.name}"\n[feature.env]\nexclude = ["MODE"]\noverride = {{ X = "file" }}\n')
    command = [*MIRROR, "exec", "-f", str(file), "--", "sh", "-c", 'echo "$ONLY_IN_TARGET $MODE $X"']
    result = subprocess.run(command, env=target.variables, capture_output=True, text=True, timeout=60)
    assert result.stdout == f"{target.mark} user file\n"


@pytest.mark.parametrize("arguments", [["--help"], ["exec", "--help"], ["--version"]])
def test_help(arguments: list[str]) -> None:
    result = subprocess.run([*MIRROR, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0
    assert "mirror" in result.stdout
    assert "\\b" not in result.stdout
    assert result.stderr == ""
