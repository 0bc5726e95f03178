"""The first process of the cluster's pid namespace: it prepares the mounts, runs the programs, and starts them again.

Everything in the cluster is this process's descendant and lives in its namespaces, so its end is the end of all of it:
the kernel kills the processes, and mounts, interfaces and firewall rules go with the namespaces. Run by up.py, with the
standard library alone; says `ready` when the mounts are made, and starts the programs once it is told `go`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

PRIVATE = ("/run", "/var/lib", "/var/log")

KERNEL_DEFAULTS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What the kubelet wants, and would set for the whole machine."""


class Program:
    """A program of the list: waiting for another, running, or ended and soon started again."""

    def __init__(self, entry: dict[str, Any], logs: Path) -> None:
        self.name: str = entry["name"]
        self.after: dict[str, Any] | None = entry.get("after")
        self._arguments: list[str] = entry["arguments"]
        self._log = logs / f"{self.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.not_before = 0.0

    def start(self) -> None:
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD}),
            )
        say(f"{self.name} started, pid {self.process.pid} here")

    def ended(self, status: int) -> None:
        """Takes note of the end; the program is started again, not more often than twice a second."""
        say(f"{self.name} ended with status {os.waitstatus_to_exitcode(status)}; its log is {self._log}")
        self.process = None
        self.after = None
        self.not_before = time.monotonic() + 0.5


def main() -> None:
    listed, logs = Path(sys.argv[1]), Path(sys.argv[2])
    programs = [Program(entry, logs) for entry in json.loads(listed.read_text())]
    socket.sethostname(sys.argv[3])
    prepare_mounts()
    print("ready", flush=True)
    if sys.stdin.readline() != "go\n":
        return
    os.close(0)
    os.open(os.devnull, os.O_RDWR)
    os.dup2(0, 1)
    # Blocked, so that the wait below sees it; a child's end that comes between two waits is not lost.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        waiting = False
        for program in programs:
            if not program.process:
                if time.monotonic() >= program.not_before and answers(program.after):
                    program.start()
                else:
                    waiting = True
        if waiting:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        else:
            signal.sigwait({signal.SIGCHLD})
        reap(programs)


def reap(programs: list[Program]) -> None:
    """Collects every child that has ended; most are not ours but were left to the first process."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        for program in programs:
            if program.process and program.process.pid == pid:
                program.process.returncode = os.waitstatus_to_exitcode(status)
                program.ended(status)


def answers(what: dict[str, Any] | None) -> bool:
    """Whether a port is open, or a URL is answered with success."""
    try:
        if what and "port" in what:
            socket.create_connection(("127.0.0.1", what["port"]), timeout=1).close()
        elif what:
            context = ssl.create_default_context(cafile=what["authority"])
            direct = urllib.request.build_opener(
                urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
            )
            direct.open(what["url"], timeout=2).close()
    except OSError:  # urllib's errors are among these
        return False
    return True


def prepare_mounts() -> None:
    """Private places for whatever the programs leave behind; shared among their pods as on an ordinary node."""
    hierarchies = cgroup_mounts()
    mount("--make-rslave", "/")
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")
    if any(folder == "/sys/fs/cgroup" for folder, *_ in hierarchies):
        hierarchies = [entry for entry in hierarchies if entry[0] == "/sys/fs/cgroup"]
    else:
        mount("-t", "tmpfs", "-o", "mode=755", "cgroup", "/sys/fs/cgroup")
    for folder, kind, options in hierarchies:
        Path(folder).mkdir(exist_ok=True)
        mount("-t", kind, *(["-o", options] if options else []), "cgroup", folder)
    for folder in PRIVATE:
        mount("-t", "tmpfs", "-o", "mode=755", "mirror-cluster", folder)
    for folder in ("/run/lock", "/run/tmp", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers"):
        Path(folder).mkdir()
    os.environ["TMPDIR"] = "/run/tmp"
    if Path("/etc/resolv.conf").exists():
        # Whoever looks for a cloud around it would wait for this machine's name servers, which are out of reach.
        Path("/run/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        mount("--bind", "/run/resolv.conf", "/etc/resolv.conf")
    for name, value in KERNEL_DEFAULTS.items():
        setting = Path("/proc/sys", name)
        if setting.exists():
            stand_in = Path("/run", name.replace("/", "."))
            stand_in.write_text(value + "\n")
            mount("--bind", str(stand_in), str(setting))
    mount("--make-rshared", "/")


def cgroup_mounts() -> list[tuple[str, str, str]]:
    """Folder, type and controllers of every cgroup hierarchy that this machine has mounted."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        folder, (kind, _, options) = left.split()[4], right.split(" ", 2)
        if kind == "cgroup2":
            found.append((folder, kind, ""))
        elif kind == "cgroup":
            controllers = [word for word in options.split(",") if word not in ("rw", "ro", "xattr", "clone_children")]
            controllers = [word for word in controllers if not word.startswith("release_agent=")]
            found.append((folder, kind, ",".join(controllers)))
    return found


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
