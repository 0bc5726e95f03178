"""The agent's end of its worker process: requests under way, how many of which kind, and how long they may take.

A file system that hangs or a name server that is silent keeps threads of the worker for as long as the kernel or
the resolver wait, and nothing can get them back earlier. So each kind of work has its own share of threads, given
back only when the worker has really answered; what comes after a caller has given up is dropped.
What the worker does is in `worker_process`.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import trio

from mirror.agent import worker_process
from mirror.agent.entry import Ready
from mirror.agent.worker_process import ANSWER_BYTES
from mirror.protocol import messages as m
from mirror.protocol.frame import MAX_REQUEST_ID, FrameDecoder, encode_frame
from mirror.protocol.stream import RequestFailed

_LENGTH_BYTES = 4
"""Of a frame's head, which datagrams do without."""
_INT = struct.Struct("@i")


@dataclass(frozen=True)
class Share:
    """What one kind of work may have of the worker."""

    threads: int
    timeout_s: float
    """How long a caller waits, for a thread and for the answer."""
    slow: str
    """What is slow then, for the sentence that the user sees."""


FILES = Share(64, 60, "the target's file system")
NAMES = Share(64, 180, "name resolution in the target")
"""resolv.conf(5): 3 servers, 2 attempts of 5 s each, for each of 6 search domains."""
SOCKETS = Share(32, 10, "the target's network")

_SHARES: Mapping[type[m.Message], Share] = {
    m.OpenFile: FILES,
    m.StatFile: FILES,
    m.CheckAccess: FILES,
    m.ReadLink: FILES,
    m.ResolvePath: FILES,
    m.StatFilesystem: FILES,
    m.LookUpAddress: NAMES,
    m.LookUpHost: NAMES,
    m.LookUpHostByAddress: NAMES,
    m.LookUpName: NAMES,
    m.Connect: SOCKETS,
}
assert sum(share.threads for share in (FILES, NAMES, SOCKETS)) <= worker_process.MAX_THREADS


class WorkerLost(Exception):
    """The worker has ended by itself: a sentence."""


@dataclass
class _Errand:
    """One request under way."""

    threads: trio.Semaphore
    done: trio.Event = field(default_factory=trio.Event)
    answer: m.Message | None = None
    """None after `done`: the worker has ended."""
    fd: int | None = None
    is_abandoned: bool = False

    def abandon(self) -> None:
        """Nobody wants the answer any more; it may have come already."""
        self.is_abandoned = True
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Worker:
    """Asks the worker process.

    Args:
        pid: Of the process, a child of this one.
        link: The socket that `worker_process.start` gave; closed when `run` ends.
    """

    def __init__(self, pid: int, link: socket.socket) -> None:
        self._pid = pid
        self._link = link
        self._link.setblocking(False)
        self._decoder = FrameDecoder(worker_process.Answer)
        self._threads = {share.slow: trio.Semaphore(share.threads) for share in (FILES, NAMES, SOCKETS)}
        self._errands: dict[int, _Errand] = {}
        self._last_id = 0
        self._buffer = bytearray(ANSWER_BYTES)

    async def ready(self) -> Ready:
        """The worker's first message; to be asked for once, before `run`.

        Raises:
            WorkerLost: There is none.
        """
        received = await self._receive()
        if received is None or not isinstance(received[1], Ready):
            raise WorkerLost(f"the agent's worker process ended before it was ready: {await self._how_it_ended()}")
        return received[1]

    async def run(self) -> None:
        """Takes in the answers.

        Raises:
            WorkerLost: The worker has ended. Nothing can be answered any more.
        """
        try:
            while (received := await self._receive()) is not None:
                request_id, answer, fd = received
                errand = self._errands.pop(-request_id)
                errand.threads.release()
                errand.answer, errand.fd = answer, fd
                errand.done.set()
                if errand.is_abandoned:
                    errand.abandon()
        finally:
            self._link.close()
            for errand in self._errands.values():
                errand.done.set()
        raise WorkerLost(f"the agent's worker process ended: {await self._how_it_ended()}")

    async def ask(self, request: m.Message) -> tuple[m.Message, int | None]:
        """Has the worker answer `request`.

        Returns:
            The answer, never `Failed`, and the descriptor that came with it, which the caller closes.

        Raises:
            RequestFailed: The worker answered `Failed`; or ETIMEDOUT or EIO, as it did not answer.
        """
        share = _SHARES[type(request)]
        with trio.move_on_after(share.timeout_s):
            errand = await self._send(request, self._threads[share.slow])
            try:
                await errand.done.wait()
            except trio.Cancelled:
                errand.abandon()
                raise
            if errand.answer is None:
                raise RequestFailed(errno.EIO, "the agent's worker process has ended")
            if isinstance(errand.answer, m.Failed):
                raise RequestFailed(errand.answer.errno, errand.answer.reason)
            return errand.answer, errand.fd
        raise RequestFailed(errno.ETIMEDOUT, f"{share.slow} did not answer within {share.timeout_s:.0f} s")

    async def _send(self, request: m.Message, threads: trio.Semaphore) -> _Errand:
        """Sends one request as soon as a thread is free for it."""
        await threads.acquire()
        self._last_id = self._last_id % MAX_REQUEST_ID + 1
        request_id = self._last_id
        errand = self._errands[request_id] = _Errand(threads)
        try:
            frame = memoryview(encode_frame(request_id, request))[_LENGTH_BYTES:]
            while True:
                try:
                    self._link.send(frame)
                    return errand
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._link)
        except BaseException as error:
            # Not sent, so that no answer will give the thread back.
            del self._errands[request_id]
            threads.release()
            if isinstance(error, OSError):
                raise RequestFailed(errno.EIO, "the agent's worker process has ended") from None
            raise

    async def _receive(self) -> tuple[int, m.Message, int | None] | None:
        """The next datagram: its id, message and descriptor; None when the worker has ended."""
        while True:
            try:
                size_bytes, ancillary, _, _ = self._link.recvmsg_into(
                    [self._buffer], socket.CMSG_SPACE(_INT.size), socket.MSG_CMSG_CLOEXEC
                )
                break
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._link)
            except ConnectionResetError:  # it ended with requests unread
                return None
        if not size_bytes:
            return None
        with memoryview(self._buffer) as view, view[:size_bytes] as datagram:
            request_id, message = self._decoder.decode(datagram)
        return request_id, message, _INT.unpack(ancillary[0][2])[0] if ancillary else None

    async def _how_it_ended(self) -> str:
        with trio.move_on_after(1):
            _, status = await trio.to_thread.run_sync(os.waitpid, self._pid, 0, abandon_on_cancel=True)
            code = os.waitstatus_to_exitcode(status)
            return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return "it does not end"
