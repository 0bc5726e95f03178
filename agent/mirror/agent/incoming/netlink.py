"""Netlink messages for nf_tables: bytes out, error numbers in.

The problem: a fresh machine has no `nft`, and the socket that owns the table must be held by a process of its own
(`keeper`) which imports next to nothing. So the few messages that are needed are built here, in the agent, and
the keeper only carries them. pyroute2 has neither the `tproxy` and `socket`
expressions nor the owner flag, and its import takes longer than all of this package's work.

A *batch* is one transaction: the kernel carries out all of its messages or none of them.

Nothing here does I/O or knows what the rules are for. Read `ruleset` next.

Source of the numbers: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence

NETLINK_NETFILTER = 12

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ERROR = struct.Struct("=i")
_NFGENMSG = struct.Struct("!BBH")
"""family, version, resource id."""
_ATTRIBUTE = struct.Struct("=HH")

_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
_NLA_F_NESTED = 0x8000
_NLMSG_ERROR = 2

_BATCH_BEGIN = 0x10
_BATCH_END = 0x11
_SUBSYS_NFTABLES = 10
_CONNTRACK_DELETE = 1 << 8 | 2
"""NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE."""
_CTA_MARK, _CTA_MARK_MASK = 8, 21
NFPROTO_INET = 1


class Kind(enum.IntEnum):
    """enum nf_tables_msg_types."""

    NEW_TABLE = 0
    NEW_CHAIN = 3
    NEW_RULE = 6
    DEL_RULE = 8
    NEW_SET = 9
    NEW_SET_ELEMENT = 12
    DEL_SET_ELEMENT = 14


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def be32(kind: int, value: int) -> bytes:
    """An attribute with a 32-bit number in network order, as nf_tables wants nearly all of them."""
    return attribute(kind, struct.pack("!i" if value < 0 else "!I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute with a NUL-terminated string."""
    return attribute(kind, value.encode("ascii") + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, b"".join(attributes))


def message(kind: Kind, *attributes: bytes, flags: int = 0) -> bytes:
    """One nf_tables message of the inet family, without its place in a batch (`batch` fills that in)."""
    body = _NFGENMSG.pack(NFPROTO_INET, 0, 0) + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(body), _SUBSYS_NFTABLES << 8 | kind, _NLM_F_REQUEST | flags, 0, 0) + body


def batch(messages: Sequence[bytes]) -> bytes:
    """One transaction of these messages, each of which will be answered (see `errors`)."""
    border = _NFGENMSG.pack(0, 0, _SUBSYS_NFTABLES)
    parts = [_HEADER.pack(_HEADER.size + len(border), _BATCH_BEGIN, _NLM_F_REQUEST, 0, 0) + border]
    for sequence, one in enumerate(messages, 1):
        length, kind, flags, _, _ = _HEADER.unpack_from(one)
        parts.append(_HEADER.pack(length, kind, flags | _NLM_F_ACK, sequence, 0) + one[_HEADER.size :])
    parts.append(_HEADER.pack(_HEADER.size + len(border), _BATCH_END, _NLM_F_REQUEST, len(parts), 0) + border)
    return b"".join(parts)


def forget_connections(mark: int, mask: int) -> bytes:
    """A request (not a batch) to drop the connection tracking entries with this mark under the mask."""
    body = _NFGENMSG.pack(0, 0, 0) + be32(_CTA_MARK, mark) + be32(_CTA_MARK_MASK, mask)
    return _HEADER.pack(_HEADER.size + len(body), _CONNTRACK_DELETE, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body


def errors(replies: bytes) -> Iterable[tuple[int, int]]:
    """What the kernel said to a batch: (number of the message counted from 1, errno), 0 meaning success.

    Number 0 is the batch as a whole (EPERM where the capability is missing). Messages that are not answers are
    skipped.
    """
    offset = 0
    while offset + _HEADER.size <= len(replies):
        length, kind, _, sequence, _ = _HEADER.unpack_from(replies, offset)
        if length < _HEADER.size:
            return
        if kind == _NLMSG_ERROR:
            yield sequence, -_ERROR.unpack_from(replies, offset + _HEADER.size)[0]
        offset += (length + 3) & ~3


def first_error(replies: bytes) -> int:
    """The errno that made the batch fail; 0 if it was carried out.

    No answer at all counts as EPROTO: the kernel answers before `send` returns.
    """
    found = list(errors(replies))
    if not found:
        import errno

        return errno.EPROTO
    return next((number for _, number in found if number), 0)
