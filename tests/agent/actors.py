"""Real targets and real agents for the tests.

`Target` is a process of tests/agent/target_program.py, which says what it sees itself. `Agent` is `python -m
mirror.agent` with this process as its client. With root's rights, "an ordinary user" is uid NOBODY, which both become
after they have imported everything: the interpreter may be out of that user's reach.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from mirror.protocol import messages as m
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.stream import Channel, Peer

NOBODY = 65534
IS_ROOT = os.geteuid() == 0

_AS_NOBODY = """
import ctypes, importlib, os, sys
for name in ("mirror.agent.service", "mirror.agent.main"):
    importlib.import_module(name)
os.setgroups([])
os.setresgid({uid}, {uid}, {uid})
os.setresuid({uid}, {uid}, {uid})
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which exec would have set
import mirror.agent.__main__
"""

WRITE_TITLE = (
    "(lambda numbers: (ctypes.memset(numbers[0], 0, numbers[2] - numbers[0] + {reach}),"
    " ctypes.memmove(numbers[0], b'worker: idle', 12))[1] > 0)"
    "([int(field) for field in open('/proc/self/stat').read().rpartition(')')[2].split()[45:49]])"
)
"""What a target may be asked to do: as setproctitle(3bsd) does, over its arguments and `reach` bytes of its
environment. Fields: proc_pid_stat(5)."""


class Target:
    """A process to stand in for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def ask(self, code: str) -> Any:
        """The value of an expression, or None for statements, evaluated in the target.

        Raises:
            OSError: As the code in the target raised it; also socket.gaierror and socket.herror.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(code) + "\n")
        self._process.stdin.flush()
        kind, value = json.loads(self._process.stdout.readline())
        match kind:
            case "value":
                return ast.literal_eval(value) if value != "None" else None
            case "errno":
                raise OSError(value, os.strerror(value))
            case "gaierror":
                raise socket.gaierror(value, "")
            case "herror":
                raise socket.herror(value, "")
            case _:
                raise AssertionError(value)

    def end(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def open_target(**wanted: Any) -> Iterator[Target]:
    """A target for the length of a block; see target_program.enter for what may be wanted."""
    environment = {"PATH": os.environ["PATH"], **wanted.pop("environment", {})}
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("target_program.py"), json.dumps(wanted)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Target(process)
        finally:
            process.kill()


class Agent:
    """An agent, and this process as its client."""

    welcome: m.Welcome
    farewell: str = ""
    """Why the agent has ended the connection, in a `ListeningAgent.client`."""
    ended: trio.Event

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, user: str = "", session: str = ""
    ) -> None:
        self.process = process
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self.peer = Peer(stream, is_client=True, handler=self._hear, user=user, session=session)
        self.notices: list[str] = []
        self.noticed = trio.Event()
        self.arrivals: list[tuple[m.Accepted, Channel]] = []
        self.arrived = trio.Event()

    async def _hear(self, message: m.Message) -> None:
        if isinstance(message, m.Notice):
            self.notices.append(message.text)
            self.noticed.set()
        elif isinstance(message, m.Accepted):
            self.arrivals.append((message, self.peer.accept_channel(message.channel)))
            self.arrived.set()

    async def read_file(self, path: bytes, **options: Any) -> tuple[m.FileOpened, bytes]:
        """Opens and reads to the end."""
        channel = self.peer.open_channel()
        try:
            opened = await self.peer.request(
                m.OpenFile(path, options.pop("flags", 0), channel=channel.id, **options), m.FileOpened
            )
            content = opened.content
            if not opened.complete:
                while part := await channel.receive():
                    content += part
            return opened, content
        finally:
            await channel.aclose()

    def worker_pid(self) -> int:
        """The pid of the worker process."""
        return worker_pid_of(self.process.pid)


def worker_pid_of(agent_pid: int) -> int:
    """The pid of the worker process of an agent."""
    return int(Path(f"/proc/{agent_pid}/task/{agent_pid}/children").read_text().split()[0])


@contextlib.contextmanager
def spawn_agent(
    pid: int, *, uid: int | None = None, without: str = "", fault: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """An agent process and the other end of its connection.

    Args:
        pid: Of the target.
        uid: Who it runs as; None for the user of the tests.
        without: Capabilities it lacks, as setpriv(1) wants them: `-sys_chroot,-setuid`.
        fault: Code that plants an error in the agent, for the user of the tests only.
    """
    ours, theirs = socket.socketpair()
    start = ["-m", "mirror.agent"] if uid is None else ["-c", _AS_NOBODY.format(uid=uid)]
    if fault:
        start = ["-c", f"{fault}\nimport mirror.agent.__main__"]
    limit = ["setpriv", f"--bounding-set={without}", "--"] if without else []
    process = subprocess.Popen(
        [*limit, sys.executable, *start, "--pid", str(pid), "--fd", str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    theirs.close()
    with process, ours:
        try:
            yield process, ours
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def open_agent(pid: int, *, uid: int | None = None, without: str = "", fault: str = "") -> AsyncIterator[Agent]:
    """An agent for the length of a block, introduced. What it says on stderr is a fault's traceback or nothing."""
    with spawn_agent(pid, uid=uid, without=without, fault=fault) as (process, connection), trio.fail_after(180):
        agent = Agent(process, connection)
        async with trio.open_nursery() as nursery:
            try:
                agent.welcome = await nursery.start(agent.peer.run)
            except ConnectionLost as lost:
                assert process.stderr is not None
                raise AssertionError(f"{lost}\n{process.stderr.read().decode()}") from None
            yield agent
            await agent.peer.aclose()
        assert await trio.to_thread.run_sync(process.wait) == 0
        assert process.stderr is not None
        errors = process.stderr.read()
        assert b"Traceback" in errors if fault else errors == b""


class ListeningAgent:
    """An agent that anybody may connect to."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port

    def connect(self) -> socket.socket:
        """A connection to it."""
        return socket.create_connection(("127.0.0.1", self.port))

    @contextlib.asynccontextmanager
    async def client(self, user: str = "", session: str = "") -> AsyncIterator[Agent]:
        """A client for the length of a block; that the agent ends its connection is noted, and no error."""
        client = Agent(self.process, self.connect(), user, session)
        ended = trio.Event()

        async def run(*, task_status: trio.TaskStatus[m.Hello | m.Welcome]) -> None:
            try:
                await client.peer.run(task_status=task_status)
            except ConnectionLost as lost:
                client.farewell = str(lost)
            ended.set()

        async with trio.open_nursery() as nursery:
            client.welcome = await nursery.start(run)
            client.ended = ended
            yield client
            await client.peer.aclose()

    async def wait(self) -> tuple[int, str]:
        """Its exit status, and what it wrote to its standard error."""
        _, errors = await trio.to_thread.run_sync(self.process.communicate)
        return self.process.returncode, errors.decode()


@contextlib.contextmanager
def listen_agent(
    *arguments: str, limit: Sequence[str] = (), fault: str = "", uid: int | None = None
) -> Iterator[ListeningAgent]:
    """An agent that is there, and listens, for the length of a block at most.

    Args:
        arguments: Of its command line, beside `--listen`.
        limit: A program that starts it with fewer rights, and its arguments.
        fault: Code to be run in it before it begins.
        uid: Who it runs as; None for the user of the tests.
    """
    start = ["-c", f"{fault}\nimport mirror.agent.__main__"] if fault else ["-m", "mirror.agent"]
    if uid is not None:
        start = ["-c", _AS_NOBODY.format(uid=uid)]
    process = subprocess.Popen(
        [*limit, sys.executable, *start, "--listen", "0", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline().decode()
            if not said:
                assert process.stderr is not None
                raise AssertionError(process.stderr.read().decode())
            yield ListeningAgent(process, int(said.rpartition(":")[2]))
        finally:
            process.kill()


needs_root = pytest.mark.skipif(not IS_ROOT, reason="takes another user's place, which only root may: sudo make test")
