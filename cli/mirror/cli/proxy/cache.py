"""What is known of the target's files at the moment: attributes, absences, links, listings. Pure.

A round trip to the target costs more than everything else together, so what an answer says is used for all that
follows from it: a listing tells the attributes of what it lists and that nothing else is there; a name that is
absent has nothing below it; a plain file that is no link has the same attributes whichever way they are asked for.
Nothing is inferred from a path with `..` in it, since only the target's kernel knows where that leads; it is looked up
as it is.

Contents, which are descriptors, are in `contents`. Paths are absolute bytes as they are sent to the target.
"""

from __future__ import annotations

import errno
import stat as s
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mirror.cli.proxy.lease import LeaseMap
from mirror.protocol.messages import DirectoryEntry, Message, Stat

LASTING = frozenset(
    {
        errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR,
        errno.EINVAL, errno.ENXIO, errno.EOPNOTSUPP, errno.EFBIG, errno.EROFS,
    }
)  # fmt: skip
"""Errors that say something about the file, so that asking again would get the same; others may pass."""

MOST_ENTRIES = 20_000
MOST_LISTINGS = 2_000
MOST_LISTED = 400_000
"""Names in all listings together; an entry with its attributes takes about half a kilobyte."""

_HOLDS_LONGER = 4
_HOLDS_LONGER_AT_MOST_S = 30.0
_REMEMBERED_LEASES = 60
"""How long it is remembered that a directory was listed."""
_RELISTED = 5_000
"""Entries; larger directories are not listed again for the sake of one."""

_UNLISTED = (b"/proc", b"/sys")
"""Where looking up a name finds what a listing does not have."""


class Known(NamedTuple):
    """What is known of one path: its attributes, or the error that asking gives."""

    stat: Stat | None
    errno: int = 0


class Listing:
    """All entries of a directory.

    Attributes:
        entries: In the target's order, `.` and `..` included.
        by_name: The same by name.
    """

    def __init__(self, entries: Sequence[DirectoryEntry]) -> None:
        self.entries = tuple(entries)
        self.by_name = {entry.name: entry for entry in self.entries}


def normal(path: bytes) -> bytes:
    """The path without `//` and `/./`, which say nothing; what says something (`..`, an end in `/` or `/.`) stays."""
    if b"//" not in path and b"/./" not in path:
        return path
    parts = path.split(b"/")
    last = parts.pop()
    return b"/" + b"".join(part + b"/" for part in parts if part not in (b"", b".")) + last


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the name in it of a `normal` path."""
    parent, _, name = path.rpartition(b"/")
    return parent or b"/", name


class FileCache:
    """Remembers, for a lease, and infers.

    Args:
        lease_s: How long what the target said is taken for true; 0: not at all.
        clock: Seconds, never going back.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float]) -> None:
        self._known: dict[bool, LeaseMap[bytes, Known]] = {
            follow: LeaseMap(lease_s, clock, MOST_ENTRIES) for follow in (False, True)
        }
        self._listings: LeaseMap[bytes, Listing] = LeaseMap(
            lease_s,
            clock,
            MOST_LISTINGS,
            most_bytes=MOST_LISTED,
            weigh=lambda listing: len(listing.entries),
        )
        self._listed: LeaseMap[bytes, int] = LeaseMap(_REMEMBERED_LEASES * lease_s, clock, MOST_LISTINGS)
        self._missed: LeaseMap[bytes, bytes] = LeaseMap(lease_s, clock, MOST_LISTINGS)
        self._real: LeaseMap[bytes, bytes] = LeaseMap(lease_s, clock, MOST_ENTRIES)
        self._answers: LeaseMap[Message, Message | int] = LeaseMap(lease_s, clock, MOST_ENTRIES)

    def clear(self) -> None:
        """Forgets everything."""
        caches: tuple[LeaseMap[Any, Any], ...] = (self._listings, self._listed, self._missed, self._real, self._answers)
        for leases in (*self._known.values(), *caches):
            leases.clear()

    # --- attributes ---------------------------------------------------------------------------------------

    def look_up(self, path: bytes, *, follow: bool) -> Known | None:
        """What stat (`follow`) or lstat of a path would say; None: not known.

        Args:
            path: `normal`.
            follow: Whether a link at the path's end is followed.
        """
        return self._said(path, follow) or self._absent(path)

    def _said(self, path: bytes, follow: bool) -> Known | None:
        """From what was said of this very path, or by the listing that has it, whichever is later."""
        said = self._known[follow].get_dated(path)
        parent, name = split(path)
        listed = self._listings.get_dated(parent)
        if listed is not None and (said is None or listed[0] > said[0]):
            entry = listed[1].by_name.get(name)
            if entry is not None and entry.stat is not None and not (follow and s.S_ISLNK(entry.stat.mode)):
                return Known(entry.stat)
        return None if said is None else said[1]

    def _absent(self, path: bytes) -> Known | None:
        """From what is known of the directories above."""
        if b"/.." in path or path.startswith(_UNLISTED):
            return None
        here = path.rstrip(b"/") or b"/"
        while len(here) > 1:
            parent, name = split(here)
            listing = self._listings.get(parent)
            if listing is not None and name not in listing.by_name and 0 < len(name) <= 255:
                return Known(None, errno.ENOENT)
            above = self._said(parent, True)
            if above is not None:
                if above.errno == errno.ENOENT:
                    return above
                # Present, and what is further above is present, too.
                return None if above.stat is None or s.S_ISDIR(above.stat.mode) else Known(None, errno.ENOTDIR)
            here = parent
        return None

    def learn(self, path: bytes, known: Known, *, follow: bool) -> None:
        """Remembers what stat (`follow`) or lstat of a path said. Errors that may pass are not remembered."""
        if known.stat is None and known.errno not in LASTING:
            return
        self._known[follow].put(path, known)
        if not follow and (known.stat is None or not s.S_ISLNK(known.stat.mode)):
            self._known[True].put(path, known)

    # --- where things are ---------------------------------------------------------------------------------

    def learn_real(self, path: bytes, real: bytes) -> None:
        """Remembers where a path that was followed to its end led."""
        self._real.put(path, real)
        self._real.put(real, real)

    def real(self, path: bytes) -> bytes | None:
        """Where a path leads; None: not known."""
        return self._real.get(path)

    # --- listings -----------------------------------------------------------------------------------------

    def learn_listing(self, path: bytes, listing: Listing, took_s: float = 0.0) -> None:
        """Remembers all entries of a directory.

        Args:
            path: Of the directory.
            listing: Its entries.
            took_s: How long it took to get them. A directory of 100,000 files takes seconds, in which its first
                entries grow old anyway; it holds longer accordingly, so that `ls -l` gets through it.
        """
        self._listings.put(path, listing, min(took_s * _HOLDS_LONGER, _HOLDS_LONGER_AT_MOST_S))
        self._listed.put(path, len(listing.entries))

    def listing(self, path: bytes) -> Listing | None:
        """The directory's entries; None: not known."""
        return self._listings.get(path)

    def should_list(self, path: bytes) -> bool:
        """Whether the attributes of a path that is not known are better got by listing its directory once more.

        So it is where somebody goes through the entries of a directory whose listing is over: it was listed a while
        ago, and this is the second of its entries that is asked for within a lease.
        """
        parent, name = split(path)
        entries = self._listed.get(parent)
        if entries is None or entries > _RELISTED or name in (b"", b".", b".."):
            return False
        missed = self._missed.get(parent)
        self._missed.put(parent, name)
        return missed is not None and missed != name

    # --- anything else ------------------------------------------------------------------------------------

    def learn_answer(self, request: Message, answer: Message | int) -> None:
        """Remembers the answer to a request, or its errno. Errors that may pass are not remembered."""
        if not isinstance(answer, int) or answer in LASTING:
            self._answers.put(request, answer)

    def answer(self, request: Message) -> Message | int | None:
        """What the same request got."""
        return self._answers.get(request)
