"""The process that is in the target: it has its root, network, ids and capabilities, and does what may block.

Forked by the agent while that is small and has one thread; it enters the target (`entry`), says what of it worked
(`Ready`), and then answers requests that come over a socket pair, one datagram each, descriptors beside it. They are
messages of the protocol as the client sent them.

Threads all wait for the next datagram themselves, so no queue lies between: as long as none is idle another is
started, up to MAX_THREADS. What limits each kind of work, so that hanging file systems do not stop name
look-ups, is the agent's side, `worker`.

The process ends when its socket does, or with its parent.
"""

from __future__ import annotations

import errno
import functools
import gc
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from typing import Any, NoReturn

from mirror.agent import files, libc, names, resolver, sockets
from mirror.agent.entry import Ready, enter
from mirror.agent.target import Target, TargetError
from mirror.protocol import messages as m
from mirror.protocol.features import FEATURES
from mirror.protocol.frame import FrameDecoder, LocalProtocolError, RemoteProtocolError, encode_frame

MAX_THREADS = 160
"""The sum of what `worker` lets through of each kind."""

ANSWER_BYTES = 200 << 10
"""More than an answer ever has: `files.FIRST_PART_BYTES` and what describes it."""

_REQUEST_BYTES = 16 << 10
"""More than a request ever has: a path of 4 KiB, or two names."""

_STACK_BYTES = 512 << 10
"""glibc's resolver takes up to some 70 KiB of stack (MAXPACKET in resolv/nss_dns)."""

_LENGTH_BYTES = 4
"""Of a frame's head, which datagrams do without."""


Request = (
    m.OpenFile | m.StatFile | m.CheckAccess | m.ReadLink | m.ResolvePath | m.StatFilesystem
    | m.LookUpAddress | m.LookUpHost | m.LookUpHostByAddress | m.LookUpName | m.Connect
)  # fmt: skip
"""What the agent asks. `Connect` is answered with a socket, made and bound, and Done."""

Answer = (
    Ready | m.Failed | m.Done | m.FileOpened | m.FileStatted | m.LinkRead | m.PathResolved | m.FilesystemStatted
    | m.AddressLookedUp | m.HostLookedUp | m.NameLookedUp | m.LookUpFailed
)  # fmt: skip

_Handler = Callable[[Any], tuple[m.Message, int | None]]


def start(target: Target, features: Collection[str] = FEATURES) -> tuple[int, socket.socket]:
    """Forks the worker.

    Args:
        target: What it is to enter.
        features: What it is to enter that for.

    Returns:
        Its pid, and the socket on which `Ready` will come.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ANSWER_BYTES)
    parent_pid = os.getpid()
    pid = os.fork()
    if pid:
        theirs.close()
        return pid, ours
    try:
        ours.close()
        _run(target, features, theirs, parent_pid)
    except TargetError:
        pass  # the agent meets the same and says so
    except BaseException as error:  # must not return into the agent's own code
        print(f"mirror agent: the worker failed: {error!r}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def _run(target: Target, features: Collection[str], link: socket.socket, parent_pid: int) -> NoReturn:
    # Ctrl-C on a terminal reaches the agent too, which then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    descriptors_fd = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY)
    ready = enter(target, features)
    _close_others(link.fileno(), descriptors_fd)
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    # Taking other ids clears it (prctl(2)), so it comes late, and its parent may be gone by now.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
    gc.freeze()
    gc.enable()
    link.sendall(encode_frame(0, ready)[_LENGTH_BYTES:])
    threading.stack_size(_STACK_BYTES)
    _Crew(link, _handlers(descriptors_fd, ready.reasons, is_foreign=target.root_fd is not None)).work()


def _close_others(*kept: int) -> None:
    """Closes all descriptors but the standard ones and these: directories outside the root above all."""
    after = 3
    for fd in sorted(kept):
        os.closerange(after, fd)
        after = fd + 1
    os.closerange(after, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


_FILES: dict[type[m.Message], Callable[[Any], m.Message]] = {
    m.StatFile: files.stat_file,
    m.CheckAccess: files.check_access,
    m.ReadLink: files.read_link,
    m.ResolvePath: files.resolve_path,
    m.StatFilesystem: files.stat_filesystem,
}
_NAMES: dict[type[m.Message], Callable[[Any], m.Message]] = {
    m.LookUpAddress: names.look_up_address,
    m.LookUpHost: names.look_up_host,
    m.LookUpHostByAddress: names.look_up_host_by_address,
    m.LookUpName: names.look_up_name,
}


def _handlers(descriptors_fd: int, reasons: dict[str, str], *, is_foreign: bool) -> dict[type[m.Message], _Handler]:
    """What answers each kind of request.

    Args:
        descriptors_fd: See `files.open_file`.
        reasons: Of `Ready`. What could not be entered must not be answered from the agent's own surroundings.
        is_foreign: Whether the root is not the agent's own.
    """

    def plain(function: Callable[[Any], m.Message]) -> _Handler:
        return lambda request: (function(request), None)

    def resolving(function: Callable[[Any], m.Message]) -> _Handler:
        def handle(request: m.Message) -> tuple[m.Message, None]:
            if is_foreign:
                resolver.keep_foreign_modules_out()
            return function(request), None

        return handle

    by_capability: dict[str, dict[type[m.Message], _Handler]] = {
        "files": {
            m.OpenFile: functools.partial(files.open_file, descriptors_fd=descriptors_fd),
            **{kind: plain(function) for kind, function in _FILES.items()},
        },
        "names": {kind: resolving(function) for kind, function in _NAMES.items()},
        "outgoing": {m.Connect: lambda request: (m.Done(), sockets.make_socket(request))},
    }
    handlers: dict[type[m.Message], _Handler] = {}
    for capability, rows in by_capability.items():
        for kind, handler in rows.items():
            handlers[kind] = _refusing(reasons[capability]) if capability in reasons else handler
    return handlers


def _refusing(reason: str) -> _Handler:
    return lambda request: (m.Failed(errno.EOPNOTSUPP, reason), None)


class _Crew:
    """The threads."""

    def __init__(self, link: socket.socket, handlers: dict[type[m.Message], _Handler]) -> None:
        self._link = link
        self._handlers = handlers
        self._decoder = FrameDecoder(Request)
        self._lock = threading.Lock()
        self._idle = 1
        self._all = 1

    def work(self) -> NoReturn:
        """Serves requests in this thread, for ever."""
        try:
            while datagram := self._link.recv(_REQUEST_BYTES):
                self._leave_idle()
                self._serve(datagram)
                with self._lock:
                    self._idle += 1
        except (OSError, RemoteProtocolError):
            pass  # the agent is gone, or not the one that forked this process
        os._exit(0)

    def _leave_idle(self) -> None:
        with self._lock:
            self._idle -= 1
            if self._idle or self._all >= MAX_THREADS:
                return
            self._idle += 1
            self._all += 1
        try:
            threading.Thread(target=self.work, daemon=True).start()
        except RuntimeError:  # the target's user or cgroup has all the threads it may have
            with self._lock:
                self._idle -= 1
                self._all -= 1

    def _serve(self, datagram: bytes) -> None:
        """Answers one request. Raises OSError if the answer cannot be sent."""
        request_id, request = self._decoder.decode(datagram)
        answer, fd = _answer(self._handlers[type(request)], request)
        try:
            try:
                frame = encode_frame(-request_id, answer)
            except LocalProtocolError as error:
                frame = encode_frame(-request_id, m.Failed(errno.EMSGSIZE, str(error)))
            socket.send_fds(self._link, [memoryview(frame)[_LENGTH_BYTES:]], [] if fd is None else [fd])
        finally:
            if fd is not None:
                os.close(fd)


def _answer(handler: _Handler, request: Any) -> tuple[m.Message, int | None]:
    """What the handler answers, errors included."""
    try:
        for field in ("path", "node", "service", "name"):
            value = getattr(request, field, None)
            # C would take what comes before it for the whole.
            if isinstance(value, bytes) and b"\0" in value:
                return m.Failed(errno.EINVAL), None
        return handler(request)
    except files.Refusal as refusal:
        return m.Failed(refusal.errno or errno.EIO, refusal.strerror or ""), None
    except OSError as error:
        return m.Failed(error.errno or errno.EIO), None
    except MemoryError:
        return m.Failed(errno.ENOMEM), None
    except Exception as error:
        # A mistake of ours must not take the other requests with it.
        return m.Failed(errno.EIO, f"mirror's agent failed at {type(request).__name__}: {error!r}"), None
