"""A thread inside the target's network namespace, for what can only be begun there.

A socket belongs to the namespace in which it was made, whatever thread uses it afterwards, and `setns` is per
thread. So one thread of its own enters the namespace and makes sockets (and the keeper process) on demand; trio's
pool of threads would mix them up. Nothing else runs there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import queue
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import trio

from mirror.agent import libc

T = TypeVar("T")

_CAP_NET_ADMIN = 12
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_CAPGET, _SYS_CAPSET = {"x86_64": (125, 126)}.get(platform.machine(), (90, 91))
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2


class NamespaceThread:
    """Runs functions in the network namespace `net_fd` refers to; None: that of the process.

    Raises:
        OSError: The namespace may not be entered (EPERM: CAP_SYS_ADMIN in the user namespace that owns it, and in
            the caller's own, is missing).
    """

    def __init__(self, net_fd: int | None) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        entered: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, args=(net_fd, entered), name="target-net", daemon=True)
        self._thread.start()
        if refusal := entered.get():
            self._thread.join()
            raise refusal

    def close(self) -> None:
        """Ends the thread after what it is doing."""
        self._calls.put(None)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function(*args)` there and waits for it, blocking the caller's thread."""
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
        self._calls.put(lambda: answers.put(_outcome(function, args)))
        result, error = answers.get()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function(*args)` there and waits for it in trio. Not cancellable: use it for what is quick."""
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        outcome: list[tuple[T | None, BaseException | None]] = []

        def answer() -> None:
            outcome.append(_outcome(function, args))
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        self._calls.put(answer)
        with trio.CancelScope(shield=True):
            await done.wait()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def _serve(self, net_fd: int | None, entered: queue.SimpleQueue[OSError | None]) -> None:
        try:
            if net_fd is not None and not _is_own(net_fd):
                libc.setns(net_fd, libc.CLONE_NEWNET)
        except OSError as error:
            entered.put(error)
            return
        entered.put(None)
        while (call := self._calls.get()) is not None:
            call()


@contextlib.contextmanager
def in_namespace(net_fd: int | None) -> Iterator[NamespaceThread]:
    """A `NamespaceThread` for the length of a block."""
    thread = NamespaceThread(net_fd)
    try:
        yield thread
    finally:
        thread.close()


def _is_own(net_fd: int) -> bool:
    """Entering one's own namespace needs the same capabilities as any other; staying needs none."""
    return os.path.samestat(os.fstat(net_fd), os.stat("/proc/self/ns/net"))


def keep_net_admin() -> None:
    """Lets programs that the calling thread starts have its CAP_NET_ADMIN (an ambient capability).

    A process that has entered a user namespace where its uid is not 0 has capabilities, but exec takes them away.
    Where this thread lacks the capability too, nothing happens: the program will say so.
    """
    header = struct.pack("@Ii", _CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    if libc.library.syscall(_SYS_CAPGET, header, data) != 0:
        return
    words = list(struct.unpack("@6I", data))
    words[2] |= 1 << _CAP_NET_ADMIN
    libc.library.syscall(_SYS_CAPSET, header, struct.pack("@6I", *words))
    zero = ctypes.c_ulong(0)
    capability = ctypes.c_ulong(_CAP_NET_ADMIN)
    libc.library.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(_PR_CAP_AMBIENT_RAISE), capability, zero, zero)


def _outcome(function: Callable[..., T], args: tuple[Any, ...]) -> tuple[T | None, BaseException | None]:
    try:
        return function(*args), None
    except Exception as error:  # handed to whoever asked
        return None, error
