"""The process that Frida works in, seen from the one that needs it; from inside it is `__main__`.

Frida has a process of its own because it shares one badly. It takes the stops of a process that it attaches to for its
own with waitpid(2), and so may whoever else waits there: then it gives up after five seconds, and the process that it
was in dies. It starts threads, a daemon and a temporary folder, and it is native code that can crash.

The two speak by datagrams: each request is one, with a socket for its answer. When that ends without an answer, Frida's
process has died.
"""

from __future__ import annotations

import dataclasses
import socket
import struct
import subprocess
from typing import Any, Self

import msgpack

from mirror.cli.background import PYTHON
from mirror.cli.inject.attachment import InjectFailed

REQUEST = struct.Struct("i")
"""The process to put the hooks into; 0: a throw-away one."""
_READ_BYTES = 64 << 10
_INJECT_WITHIN_S = 60.0
"""Longer than anybody waits, and so only against a thread that would wait for ever."""
_PROBE_WITHIN_S = 12.0
"""A busy machine needs two seconds, since Frida has to be loaded as well."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found where the hooks have been put in.

    Attributes:
        libc: The build id of the process's C library; empty: it has none.
        recipe: How to put the hooks in without Frida; empty: that is not possible.
    """

    libc: bytes
    recipe: bytes


class FridaProcess:
    """A running process of Frida's. It ends with this one, whatever that dies of.

    Raises:
        InjectFailed: There are no more processes or descriptors.
    """

    def __init__(self) -> None:
        try:
            self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [*PYTHON, "mirror.cli.inject"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except OSError as error:
            raise InjectFailed(f"Frida cannot be started ({error.strerror}); end some processes") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not died."""
        return self._process.poll() is None

    def inject(self, pid: int) -> Report:
        """Installs every row of the layer's table in a process that waits for that.

        Raises:
            InjectFailed: as `Injector.hook` says.
        """
        return self._ask(pid, f"process {pid} could not be hooked", _INJECT_WITHIN_S)

    def probe(self) -> Report:
        """The same in a process made for that, which then ends.

        Raises:
            InjectFailed: as `Injector.hook` says.
        """
        return self._ask(0, "the C library cannot be looked at", _PROBE_WITHIN_S)

    def close(self) -> None:
        """Ends it."""
        self._link.close()
        self._process.kill()
        self._process.wait()

    def _ask(self, pid: int, what_failed: str, within_s: float) -> Report:
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(within_s)
            try:
                with theirs:
                    socket.send_fds(self._link, [REQUEST.pack(pid)], [theirs.fileno()])
                packed = b"".join(iter(lambda: ours.recv(_READ_BYTES), b""))
            except TimeoutError:
                raise InjectFailed(f"{what_failed}, since Frida hangs; try again on a less busy machine") from None
            except OSError:  # it has just died
                packed = b""
        if not packed:
            raise InjectFailed(
                f"{what_failed}, since Frida has crashed; try again, with another version of Frida if "
                "that does not help"
            )
        answer: dict[str, Any] = msgpack.unpackb(packed)
        if "failed" in answer:
            raise InjectFailed(answer["failed"])
        return Report(answer["libc"], answer["recipe"])
