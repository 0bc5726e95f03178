"""Who the target's process is to the kernel, and becoming that.

Permission checks must come out as they would for the target, so the worker takes its groups, its uids and gids and
no more than its capabilities. Numbers are read from /proc/PID/status, which translates them into the user
namespace of the reader: read before entering another one and after, they differ.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from mirror.agent import libc

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 1 << 1, 1 << 2, 1 << 10
"""linux/capability.h."""

_OVERFLOW_GID = 65534
"""How user namespaces show a gid that they do not map: /proc/sys/kernel/overflowgid, user_namespaces(7)."""


@dataclass(frozen=True)
class Credentials:
    """What access checks look at."""

    uids: tuple[int, int, int, int]
    """Real, effective, saved, file system."""
    gids: tuple[int, int, int, int]
    groups: frozenset[int]
    effective: int
    """Capabilities, a bit mask."""
    permitted: int

    @property
    def has_own_ids(self) -> bool:
        """Whether this process has the same uids, gids and groups."""
        return (
            self.uids == (*os.getresuid(), os.geteuid())
            and self.gids == (*os.getresgid(), os.getegid())
            and self.groups == frozenset(os.getgroups())
        )


def parse_status(status: bytes) -> Credentials:
    """The credentials in the text of /proc/PID/status (proc_pid_status(5))."""
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)

    def ids(name: bytes) -> tuple[int, int, int, int]:
        real, effective, saved, filesystem = map(int, fields[name].split())
        return real, effective, saved, filesystem

    return Credentials(
        uids=ids(b"Uid"),
        gids=ids(b"Gid"),
        groups=frozenset(map(int, fields[b"Groups"].split())),
        effective=int(fields[b"CapEff"], 16),
        permitted=int(fields[b"CapPrm"], 16),
    )


def take_ids(wanted: Credentials) -> str | None:
    """Takes the groups, gids and uids, keeping the capabilities permitted so far in effect.

    Returns:
        None, or a sentence if the supplementary groups could not be taken and differ from the target's. (A user
        namespace made without privileges forbids to change them.)

    Raises:
        OSError: The uids or gids may not be taken.
    """
    complaint = _take_groups(wanted.groups)
    real, effective, saved, filesystem = wanted.gids
    if (real, effective, saved) != os.getresgid():
        os.setresgid(real, effective, saved)
    filesystem_gid = filesystem
    real, effective, saved, filesystem = wanted.uids
    if (real, effective, saved) != os.getresuid():
        libc.prctl(libc.PR_SET_KEEPCAPS, 1)
        os.setresuid(real, effective, saved)
        _, permitted = libc.capabilities()
        libc.set_capabilities(permitted, permitted)
    if (filesystem, filesystem_gid) != (effective, wanted.gids[1]):
        libc.set_filesystem_ids(filesystem, filesystem_gid)
    return complaint


def _take_groups(wanted: frozenset[int]) -> str | None:
    """Takes the supplementary groups; None, or a sentence if one that matters could not be taken or given up."""
    own = frozenset(os.getgroups())
    # Groups without a number in this user namespace all look like this one and cannot be asked for. They stay.
    missing = (wanted ^ own) - {_OVERFLOW_GID}
    for groups in (wanted, wanted - {_OVERFLOW_GID}):
        if groups == own:
            return None
        try:
            os.setgroups(sorted(groups))
        except OSError as error:
            if not missing:
                return None
            if error.errno != errno.EINVAL or groups != wanted:
                return (
                    "files of the target are read without its supplementary groups, so some that it may read"
                    f" are refused: they could not be taken ({error.strerror})"
                )
        else:
            return None
    return None


def reduce_capabilities(wanted: Credentials) -> int:
    """Gives up every capability that the target has not, for ever.

    Returns:
        The mask of those that the target has and this process lacks. (CAP_DAC_OVERRIDE counts as
        CAP_DAC_READ_SEARCH: nothing is written.)
    """
    _, permitted = libc.capabilities()
    libc.set_capabilities(wanted.effective & permitted, wanted.permitted & permitted)
    # Not even a set-user-ID program could give them back.
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    may_read = wanted.effective & permitted & (CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH)
    lacking = wanted.effective & ~permitted
    return lacking & ~(CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH) if may_read else lacking
