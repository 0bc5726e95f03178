"""Incoming traffic of a whole session: a pod with callers, `mirror exec`, and whatever may end in between.

The pod is the demo's, whose own server calls itself `orders`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mirror.cli.proxy.ports import free_port
from mirror.cli.targets.demo import scene
from tests.cli.conftest import MIRROR, wait_until

THREADS = 8

SERVER = """
import socket, sys, threading

def serve(listener):
    while True:
        try:
            threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
        except OSError:
            return

def answer(connection):
    with connection:
        path = connection.recv(1000).split()[1].decode()
        connection.sendall(b"HTTP/1.0 200 OK\\r\\nServer: thief\\r\\n\\r\\n")
        if path.startswith("/mark"):
            print(path, flush=True)

for line in sys.stdin:
    if line == "close\\n":
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    else:
        listener = socket.create_server((line.strip(), PORT))
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
    print("done", flush=True)
""".replace("PORT", str(scene.POD_PORT))

STEPS = """
import errno, socket, sys, threading

def serve(listener):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 200 OK\\r\\nServer: NAME\\r\\n\\r\\n")

def take(step, port, option):
    global made
    if step == "bind":
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        made.bind(("0.0.0.0", port))
    elif step == "listen":
        made.listen()
        threading.Thread(target=serve, args=(made,), daemon=True).start()
    else:
        made.shutdown(socket.SHUT_RDWR)
        made.close()

for line in sys.stdin:
    step, port, option = line.split()
    try:
        take(step, int(port), option)
        print("done", flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
"""

CALLER = (
    """
import http.client, json, sys, threading, time

def call(path, port=PORT):
    connection = http.client.HTTPConnection("ADDRESS", port, timeout=60)
    try:
        connection.request("GET", path)
        return (connection.getresponse().getheader("Server") or "nobody").strip()
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()

def call_until_given_back(stolen, calls):
    for wanted in "thief", "orders":
        answers = 0
        while answers < 5:
            began_at = time.monotonic()
            answer = call("/")
            calls.append((began_at, time.monotonic(), answer))
            answers += answer == wanted
        stolen.release()

for line in sys.stdin:
    if line != "load\\n":
        *port, path = line.split()
        print(call(path, *map(int, port)), flush=True)
        continue
    stolen, calls = threading.Semaphore(0), []
    threads = [threading.Thread(target=call_until_given_back, args=(stolen, calls)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for _ in threads:
        stolen.acquire()
    print("stolen", flush=True)
    for thread in threads:
        thread.join()
    print(json.dumps(calls), flush=True)
""".replace("PORT", str(scene.POD_PORT))
    .replace("ADDRESS", scene.POD_ADDRESS)
    .replace("THREADS", str(THREADS))
)


class Conversation:
    """A program that answers each line with a line."""

    def __init__(self, command: Sequence[str], errors: Path | None = None) -> None:
        with contextlib.ExitStack() as stack:
            stderr = stack.enter_context(errors.open("w")) if errors is not None else None
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
            )

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        with self.process:  # which closes the pipes and waits
            self.process.kill()


class Pod:
    """A sandbox with a caller in it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        command = [sys.executable, "-m", "mirror.cli.targets.demo"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            pytest.skip("no sandbox can be made here")
        self.pid = int(line)
        stack.callback(self._close)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        (cluster_pid,) = (child for child in children if child != str(self.pid))
        entering = ("nsenter", "--preserve-credentials", "-U", "-n", "-t", cluster_pid)
        self.caller = self._start([*entering, sys.executable, "-c", CALLER])

    def program(self, option: str = "--steal", errors: Path | None = None, code: str = SERVER) -> Conversation:
        """The server under `mirror exec`. It listens where it is told to."""
        command = [*MIRROR, "exec", "-t", f"pid/{self.pid}", option, "--", sys.executable, "-c", code]
        return self._start(command, errors)

    def agents(self) -> list[int]:
        """The agents of all sessions."""
        return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if self._is_agent(pid)]

    def _is_agent(self, pid: int) -> bool:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            # A worker has the same command line, and an agent for a parent.
            return f"mirror.agent\0--pid\0{self.pid}\0".encode() in arguments and not self._is_agent(parent_of(pid))
        except OSError:
            return False

    def _start(self, command: Sequence[str], errors: Path | None = None) -> Conversation:
        started = Conversation(command, errors)
        self._stack.callback(started.close)
        return started

    def _close(self) -> None:
        try:
            wait_until(lambda: not self.agents(), "an agent is left")
        finally:
            self._process.communicate()  # it ends with its standard input


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def pod() -> Iterator[Pod]:
    with contextlib.ExitStack() as stack:
        yield Pod(stack)


@pytest.mark.parametrize("victim", ["program", "proxy", "agent"])
def test_pod_has_its_traffic_back_whoever_is_killed_under_load(pod: Pod, victim: str) -> None:
    program = pod.program()
    program.tell("0.0.0.0")
    assert pod.caller.tell("load") == "stolen"
    (agent,) = pod.agents()
    killed_at = time.monotonic()
    os.kill({"program": program.process.pid, "proxy": parent_of(agent), "agent": agent}[victim], signal.SIGKILL)
    calls: list[tuple[float, float, str]] = json.loads(pod.caller.hear())
    back_at = min(ended_at for _, ended_at, answer in calls if answer == "orders")
    assert back_at > killed_at
    # Who had asked by then may be cut off, but nobody else.
    cut_off = [call for call in calls if call[2] not in ("thief", "orders")]
    assert all(began_at < back_at and ended_at > killed_at for began_at, ended_at, _ in cut_off), cut_off


def test_pod_serves_while_the_program_does_not_listen(pod: Pod) -> None:
    program = pod.program()
    assert pod.caller.tell("/") == "orders"
    for _ in range(3):
        program.tell("0.0.0.0")
        assert pod.caller.tell("/") == "thief"
        program.tell("close")
        wait_until(lambda: pod.caller.tell("/") == "orders", "the pod does not answer")


def test_one_steals_and_two_mirror(pod: Pod) -> None:
    mirrors = [pod.program("--mirror") for _ in range(2)]
    thief = pod.program("--steal")
    for program in *mirrors, thief:
        assert program.tell("0.0.0.0") == "done"
    assert pod.caller.tell("/mark/1") == "thief"
    assert [program.hear() for program in (*mirrors, thief)] == ["/mark/1"] * 3
    thief.close()
    wait_until(lambda: pod.caller.tell("/") == "orders", "the pod does not answer")
    assert pod.caller.tell("/mark/2") == "orders"
    assert [program.hear() for program in mirrors] == ["/mark/2"] * 2
    mirrors[0].close()
    assert pod.caller.tell("/mark/3") == "orders"
    assert mirrors[1].hear() == "/mark/3"


def test_program_on_loopback_is_told_once_whom_it_misses(pod: Pod, tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    program = pod.program(errors=errors)
    for _ in range(2):
        program.tell("127.0.0.1")
        assert pod.caller.tell("/") == "orders"
        program.tell("close")
    told = (
        f"mirror: the program listens on 127.0.0.1:{scene.POD_PORT} only, so callers from outside go to the target"
        " alone: let it bind 0.0.0.0 to get them\n"
    )
    wait_until(lambda: errors.read_text(), "nothing was told")
    program.close()
    assert errors.read_text() == told


@pytest.mark.parametrize("option", ["SO_REUSEADDR", "SO_REUSEPORT"])
def test_two_sessions_share_a_port_in_any_order(option: str) -> None:
    """Each has the callers of its own pod, while it listens, whatever the other does at the same port."""
    with contextlib.ExitStack() as stack:
        pods = [Pod(stack) for _ in range(2)]
        programs = [pod.program(code=STEPS.replace("NAME", f"program {number}")) for number, pod in enumerate(pods)]
        turns: tuple[int, ...]
        for turns in sorted(set(itertools.permutations((0, 1) * 3))):
            port = free_port()
            steps = [iter(("bind", "listen", "close")) for _ in programs]
            expected = ["ConnectionRefusedError"] * 2
            for number in turns:
                step = next(steps[number])
                story = f"{turns}: program {number} {step}"
                assert programs[number].tell(f"{step} {port} {option}") == "done", story
                if step == "listen":
                    expected[number] = f"program {number}"
                    assert [pods[number].caller.tell(f"{port} /") for _ in range(4)] == [expected[number]] * 4, story
                if step == "close":
                    expected[number] = "ConnectionRefusedError"
                for pod, answer in zip(pods, expected, strict=True):
                    wait_until(functools.partial(is_told, pod, port, answer), f"{story}: not {answer}")


def is_told(pod: Pod, port: int, answer: str) -> bool:
    return pod.caller.tell(f"{port} /") == answer
