"""A small proxy for tests of the layer: real sockets, real Frida, a few remote files, a record of who came."""

from __future__ import annotations

import array
import errno
import os
import secrets
import socket
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from subprocess import CompletedProcess
from typing import Any

import trio

from mirror.cli.inject import InjectFailed, Injector
from mirror.layer import library_path
from mirror.protocol.frame import FrameReader, encode_frame
from mirror.protocol.messages import (
    Done,
    Failed,
    FileOpened,
    FileStatted,
    LayerMessage,
    Message,
    OpenFile,
    Refused,
    Register,
    Registered,
    Rule,
    SocketAddress,
    Stat,
    StatFile,
)

WITHIN_S = 180.0
"""Bounds a wait on a busy machine."""
REMOTE = b"/pod"
"""Below it everything is the target's."""


def stat_of(content: bytes, number: int) -> Stat:
    """A regular file's, with times that no local file has."""
    return Stat(9, number, 0o100644, 1, 0, 0, 0, len(content), 4096, 8, 1_000_000_001, 2_000_000_002, 3_000_000_003)


@dataclass
class Arrival:
    """One Register message."""

    pid: int
    cause: str
    program: str
    lifeline_port: int


class Started:
    """A running program."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self._read = b""

    async def line(self) -> str:
        """The next line of its output, which may come in pieces; what there was, at the end."""
        while b"\n" not in self._read and (piece := await self.stdout.receive_some()):
            self._read += piece
        line, newline, self._read = self._read.partition(b"\n")
        return (line + newline).decode()

    async def rest(self) -> tuple[str, str]:
        """What else it prints, to its end: standard output and standard error."""
        await self.stdin.aclose()
        output = b"".join([self._read, *[piece async for piece in self.stdout]])
        errors = b"".join([piece async for piece in self.stderr])
        await self.process.wait()
        return output.decode(), errors.decode()


@dataclass
class LayerProxy:
    """The running proxy; change its attributes at any time."""

    name: str
    lifeline_port: int
    injector: Injector
    files: dict[bytes, bytes] = field(default_factory=dict)
    arrivals: list[Arrival] = field(default_factory=list)
    requests: list[tuple[int, Message]] = field(default_factory=list)
    """With the pid that the kernel says has asked."""
    refuse: str = ""
    """If set, what every process is refused with."""
    recipes: bool = True
    """Whether processes put the hooks in by themselves where they can; else Frida does it in each."""
    incoming: bool = False
    """Whether processes tell where they listen."""
    reason: str = ""
    """Sent with each failure."""
    hold: trio.Event | None = None
    """If set, requests for files are answered only after it."""
    next_arrival: trio.Event = field(default_factory=trio.Event)
    """Set, and replaced by another, when a process has come."""
    asked: trio.Event = field(default_factory=trio.Event)
    """Set when a request for a file has come."""
    lifelines: defaultdict[int, trio.Event] = field(default_factory=lambda: defaultdict(trio.Event))
    """Port of the process's end: set when the last holder is gone. It may be named before it is accepted."""

    def environment(self, **more: str) -> dict[str, str]:
        """What a program needs to be in the session."""
        return {
            **os.environ,
            "LD_PRELOAD": str(library_path()),
            "MIRROR_SOCKET": self.name,
            "MIRROR_LIFELINE": str(self.lifeline_port),
            **more,
        }

    async def run(self, *command: str, **options: Any) -> CompletedProcess[str]:
        """Runs a program in the session to its end."""
        environment = options.pop("env", None) or self.environment()
        with trio.fail_after(WITHIN_S):
            done = await trio.run_process(
                list(command), env=environment, capture_stdout=True, capture_stderr=True, check=False, **options
            )
        return CompletedProcess(command, done.returncode, done.stdout.decode(), done.stderr.decode())

    async def python(self, code: str, *arguments: str, **options: Any) -> CompletedProcess[str]:
        """Runs Python code in the session."""
        return await self.run(sys.executable, "-S", "-c", code, *arguments, **options)

    @asynccontextmanager
    async def start(self, *command: str) -> AsyncGenerator[Started]:
        """Starts a program in the session, with pipes; what it has not ended by itself ends with the block."""
        process = await trio.lowlevel.open_process(
            list(command),
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Started(process)
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            for pipe in process.stdin, process.stdout, process.stderr:
                assert pipe is not None
                await trio.aclose_forcefully(pipe)

    def causes(self) -> list[str]:
        """Of all arrivals, in order."""
        return [arrival.cause for arrival in self.arrivals]

    def hooked(self) -> list[str]:
        """The base names of the programs that were hooked, in order."""
        return [os.path.basename(arrival.program) for arrival in self.arrivals if arrival.cause == "exec"]

    # --- serving ------------------------------------------------------------------------------------------------

    async def _serve(self, channel: trio.socket.SocketType) -> None:
        reader = FrameReader(LayerMessage)
        pid = struct.unpack("3i", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        with channel:
            while True:
                try:
                    data, control, _flags, _address = await channel.recvmsg(65536, 1024)
                except ConnectionResetError:
                    return
                if not data:
                    return
                descriptors = array.array("i")
                for _level, _type, content in control:
                    descriptors.frombytes(content)
                reader.feed(data, list(descriptors))
                for frame in reader:
                    for descriptor in frame.descriptors:
                        os.close(descriptor)
                    answer, fd = await self._answer(pid, frame.message)
                    await self._send(channel, encode_frame(-frame.request_id, answer), fd)

    async def _send(self, channel: trio.socket.SocketType, frame: bytes, fd: int | None) -> None:
        rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]).tobytes())]
        try:
            sent = await channel.sendmsg([frame], rights)
            while sent < len(frame):
                sent += await channel.send(frame[sent:])
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            if fd is not None:
                os.close(fd)

    async def _answer(self, pid: int, message: Message) -> tuple[Message, int | None]:
        if isinstance(message, Register):
            return await self._register(pid, message), None
        self.requests.append((pid, message))
        self.asked.set()
        if self.hold is not None:
            await self.hold.wait()
        match message:
            case OpenFile(path=path) if path in self.files:
                return FileOpened(self._stat(path), path=path), self._memfd(self.files[path])
            case StatFile(path=path) if path in self.files:
                return FileStatted(self._stat(path)), None
            case OpenFile() | StatFile():
                return Failed(errno.ENOENT, self.reason), None
        return Done(), None

    def _stat(self, path: bytes) -> Stat:
        return stat_of(self.files[path], 1000 + list(self.files).index(path))

    def _memfd(self, content: bytes) -> int:
        writable = os.memfd_create("test")
        try:
            os.write(writable, content)
            return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writable)

    async def _register(self, pid: int, message: Register) -> Message:
        self.arrivals.append(Arrival(pid, message.cause, os.fsdecode(message.program), message.lifeline_port))
        self.next_arrival.set()
        self.next_arrival = trio.Event()
        if self.refuse:
            return Refused(self.refuse)
        recipe = b""
        if message.cause == "exec":
            try:
                recipe = await self.injector.hook(pid, message.libc if self.recipes else b"")
            except InjectFailed as error:
                return Refused(str(error))
        rules = (
            Rule("prefix", REMOTE, "any", "remote", "the pod's"),
            Rule("any", b"", "any", "local", "all else"),
        )
        return Registered(
            rules,
            outgoing=False,
            names=False,
            incoming=self.incoming,
            stub=SocketAddress(b"\x7f\0\0\1", 1),
            delivery=b"\x7f\1\2\3",
            listeners=(),
            recipe=recipe,
        )

    async def _watch_lifeline(self, stream: trio.SocketStream) -> None:
        port = stream.socket.getpeername()[1]
        gone = self.lifelines[port]
        async with stream:
            await stream.receive_some()
        gone.set()


@asynccontextmanager
async def open_proxy() -> AsyncGenerator[LayerProxy]:
    """A proxy that listens until the block is left."""
    name = f"mirror-test-{secrets.token_hex(8)}"
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        await listener.bind("\0" + name)
        listener.listen(512)
        async with trio.open_nursery() as nursery:
            lifelines = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            injector = Injector()
            proxy = LayerProxy(name, lifelines.socket.getsockname()[1], injector)

            async def accept() -> None:
                while True:
                    channel, _ = await listener.accept()
                    nursery.start_soon(proxy._serve, channel)

            nursery.start_soon(accept)
            nursery.start_soon(trio.serve_listeners, proxy._watch_lifeline, [lifelines])
            try:
                yield proxy
            finally:
                injector.close()
                nursery.cancel_scope.cancel()
