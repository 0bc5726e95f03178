"""The hooked processes and their connections: who may connect, frames in, handlers, frames out.

A layer has one exchange at a time on each of its connections, so each connection is one task here, and a handler
runs in it. What a handler can answer from memory costs no trip through the scheduler: the next frame is first
looked for without waiting.

The socket is abstract (no file to be left behind), so anybody on the machine could connect: only processes of our
own user, or descendants of the session's processes, are served. Of a daemon's workers, which have another user and no
parent in the session, the lifeline is the proof. What the requests mean is the parts' affair.
"""

from __future__ import annotations

import array
import errno
import os
import secrets
import socket
import struct
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import FrameReader, LocalProtocolError, ProtocolError, encode_frame
from mirror.protocol.messages import Failed, LayerMessage, Message, Register
from mirror.protocol.stream import RequestFailed

_READ_BYTES = 64 << 10
_MOST_DESCRIPTORS = 8
"""That one read may bring; a frame brings at most one."""
_DESCRIPTORS_BYTES = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
_BACKLOG = 512
_DEEPEST_DESCENT = 64


class Reply(NamedTuple):
    """What a handler gives back."""

    message: Message
    fds: Sequence[int] = ()
    """Sent beside the frame."""
    close: bool = False
    """Whether `fds` are to be closed once they are sent; else they stay the handler's."""


class Process:
    """One process of the session, whatever programs it has executed.

    Attributes:
        pid: As seen from here.
        ended: Set when it is dead.
        state: Whatever the parts keep for a process, by keys of their own.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended = trio.Event()
        self.state: dict[object, Any] = {}


class LayerConnection:
    """One connection of a process.

    Attributes:
        pid: The process that made it; a forked child may not use it.
        uid: The user it belongs to.
        process: The same object for all connections of a process.
    """

    def __init__(self, channel: socket.socket, pid: int, uid: int, process: Process) -> None:
        self.pid = pid
        self.uid = uid
        self.process = process
        self.is_registered = False
        self._socket = channel
        self._reader = FrameReader(LayerMessage)

    async def serve(self, answer: Callable[[LayerConnection, Message, list[int]], Awaitable[Reply | None]]) -> None:
        """Answers until the process closes the connection or breaks its rules."""
        try:
            while await self._receive():
                for request_id, message, descriptors in self._reader:
                    reply = await answer(self, message, list(descriptors))
                    if request_id and reply is not None:
                        await self._send(request_id, reply)
        finally:
            for fd in self._reader.close():
                os.close(fd)

    async def _receive(self) -> bool:
        while True:
            try:
                data, extra, flags, _ = self._socket.recvmsg(_READ_BYTES, _DESCRIPTORS_BYTES, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._socket)
                continue
            descriptors = array.array("i")
            for level, kind, content in extra:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            self._reader.feed(data, descriptors)
            return bool(data) and not flags & socket.MSG_CTRUNC

    async def _send(self, request_id: int, reply: Reply) -> None:
        try:
            rest = memoryview(_encode(-request_id, reply.message))
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", reply.fds))] if reply.fds else []
            while rest:
                try:
                    sent = self._socket.sendmsg([rest], extra, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
                    continue
                rest = rest[sent:]
                extra = []
        finally:
            if reply.close:
                for fd in reply.fds:
                    os.close(fd)


def _encode(request_id: int, message: Message) -> bytes:
    try:
        return encode_frame(request_id, message)
    except LocalProtocolError as error:
        return encode_frame(request_id, Failed(errno.EOVERFLOW, str(error)))


Handler = Callable[[LayerConnection, Any, list[int]], Awaitable[Reply | None]]
"""Answers one kind of message, which is its second argument. The descriptors are its own to close. None: no answer."""


class Layers:
    """The server for the session's processes.

    Args:
        hold: A context manager that keeps the session going, held while a process lives.
        holds_lifeline: Whether a process, by its pid, holds a lifeline of the session.

    Attributes:
        address: What the layer connects to: an abstract socket's name without its leading NUL.
        processes: Those that live, by pid; the program itself first.
    """

    def __init__(self, hold: Callable[[], Any], holds_lifeline: Callable[[int], bool]) -> None:
        self.address = f"mirror-{secrets.token_hex(16)}"
        self.processes: dict[int, Process] = {}
        self._handlers: dict[type[Message], Handler] = {}
        self._hold = hold
        self._holds_lifeline = holds_lifeline
        self._nursery: trio.Nursery | None = None

    def add_handlers(self, handlers: Mapping[type[Message], Handler]) -> None:
        """Lets a part answer some kinds of messages."""
        assert not handlers.keys() & self._handlers.keys(), "two parts answer one message"
        self._handlers.update(handlers)

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.setblocking(False)
            listener.bind("\0" + self.address)
            listener.listen(_BACKLOG)
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(listener)
                    try:
                        channel, _ = listener.accept()
                    except OSError:  # it has gone away, or there are no more descriptors for the moment
                        await trio.sleep(0.01)
                        continue
                    self._nursery.start_soon(self._serve, channel)

    async def follow(self, process: Process, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the session until a process is dead.

        Raises:
            ProcessLookupError: It is dead already.
        """
        pidfd = os.pidfd_open(process.pid)
        try:
            self.processes[process.pid] = process
            with self._hold():
                task_status.started()
                await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
            process.ended.set()
            if self.processes.get(process.pid) is process:
                del self.processes[process.pid]

    async def _serve(self, channel: socket.socket) -> None:
        with channel:
            channel.setblocking(False)
            pid, uid, _ = struct.unpack("iII", channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if pid <= 0 or not (uid == os.getuid() or self._descends(pid)):
                return
            try:
                layer = LayerConnection(channel, pid, uid, await self._process(pid))
                await layer.serve(self._answer)
            except (OSError, ProtocolError) as error:
                # It is gone, or it does not speak our language: its own connection ends, nobody else's.
                if not isinstance(error, ConnectionError | ProcessLookupError):
                    print(f"connection of process {pid}: {error!r}", file=sys.stderr)

    async def _process(self, pid: int) -> Process:
        process = self.processes.get(pid)
        if process is None:
            process = Process(pid)
            assert self._nursery is not None
            await self._nursery.start(self.follow, process)
        return process

    def _descends(self, pid: int) -> bool:
        """Whether a process belongs to the session, though another user's: it may have changed its user."""
        line = list(_ancestry(pid))
        return not self.processes.keys().isdisjoint(line) or any(map(self._holds_lifeline, line))

    async def _answer(self, layer: LayerConnection, message: Message, fds: list[int]) -> Reply | None:
        handler = self._handlers.get(type(message))
        if handler is None or not (layer.is_registered or isinstance(message, Register)):
            for fd in fds:
                os.close(fd)
            return Reply(Failed(errno.ENOSYS, f"mirror's proxy does not expect {type(message).__name__} here"))
        try:
            return await handler(layer, message, fds)
        except RequestFailed as error:
            return Reply(Failed(error.errno, error.reason))
        except ConnectionLost:  # for too long, which the user has been told
            return Reply(Failed(errno.EIO))
        except OSError as error:
            traceback.print_exc()
            return Reply(Failed(error.errno or errno.EIO))
        except Exception:
            # One request that we cannot handle must not take the session with it.
            traceback.print_exc()
            return Reply(Failed(errno.EIO, f"mirror's proxy failed in {type(message).__name__}; please report it"))


def _ancestry(pid: int) -> Iterator[int]:
    """A process, its parent, and so on."""
    for _ in range(_DEEPEST_DESCENT):
        yield pid
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
