"""Placeholders: descriptors that stand for directories of the target.

A program that opens a directory wants a descriptor with which it can fstat, openat, fchdir and getdents. No directory
of this machine has the target's entries, so it gets one that has none and never will: a removed one, which the hooks
recognise by its numbers and which, where a call is not hooked, answers ENOENT instead of something wrong. It is made in
another empty, removed directory, so that `..` does not lead an unhooked call into a real one either, and on a tmpfs,
which never gives a number out twice while it is mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator

from mirror.protocol.stream import RequestFailed

MOST = 2048
"""Placeholders that are kept open; older ones live as long as a program holds them."""

_PLACES = ("/dev/shm", "/run/shm")


def _places() -> Iterator[str]:
    """Where directories can be made, a tmpfs first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    yield from (*_PLACES, *([runtime] if runtime else []), tempfile.gettempdir())


def make_placeholder() -> int:
    """A new placeholder.

    Returns:
        A descriptor, close-on-exec, with numbers that no other has.

    Raises:
        RequestFailed: There is no folder in which one could be made; or EMFILE.
    """
    for place in _places():
        try:
            outer = tempfile.mkdtemp(prefix="mirror-", dir=place)
        except OSError:
            continue
        inner = os.path.join(outer, "directory")
        try:
            os.mkdir(inner, 0o500)
            fd = os.open(inner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise RequestFailed(error.errno) from None
            continue
        finally:
            with contextlib.suppress(OSError):
                os.rmdir(inner)
            os.chmod(outer, 0o500)
            os.rmdir(outer)
        return fd
    raise RequestFailed(
        errno.ENOSPC,
        f"directories of the target cannot be opened: no folder can be made in any of {', '.join(_places())}; "
        "make one of them writable",
    )


class Placeholders:
    """One placeholder for each directory, by its real path.

    Attributes:
        most: How many are kept open; the one that was used longest ago goes first.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._open: OrderedDict[bytes, tuple[int, tuple[int, int]]] = OrderedDict()

    def of(self, path: bytes) -> tuple[int, tuple[int, int]]:
        """The placeholder of a directory, made if there is none.

        Args:
            path: Where the directory really is in the target.

        Returns:
            Its descriptor, which stays ours, to be given to `contents.reopen` at once; and its (st_dev, st_ino).

        Raises:
            RequestFailed: As `make_placeholder`.
        """
        found = self._open.get(path)
        if found is None:
            fd = make_placeholder()
            own = os.fstat(fd)
            found = self._open[path] = (fd, (own.st_dev, own.st_ino))
            while len(self._open) > self.most:
                _, (oldest, _) = self._open.popitem(last=False)
                os.close(oldest)
        self._open.move_to_end(path)
        return found

    def close(self) -> None:
        """Closes all. Programs that hold one keep it."""
        while self._open:
            os.close(self._open.popitem()[1][0])
