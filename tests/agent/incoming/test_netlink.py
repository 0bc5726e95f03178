from __future__ import annotations

import errno
import struct

from mirror.agent.incoming import netlink
from mirror.agent.incoming.netlink import Kind


def test_attributes_are_padded_and_their_length_is_not() -> None:
    assert netlink.attribute(7, b"abcde") == struct.pack("=HH", 9, 7) + b"abcde\0\0\0"
    assert netlink.text(1, "ab") == struct.pack("=HH", 7, 1) + b"ab\0\0"
    assert netlink.be32(2, -150)[4:] == struct.pack("!i", -150)
    assert netlink.nested(3, netlink.be32(1, 5)) == struct.pack("=HH", 12, 0x8003) + netlink.be32(1, 5)


def test_a_batch_numbers_its_messages_and_asks_for_an_answer_to_each() -> None:
    one = netlink.message(Kind.NEW_TABLE, netlink.text(1, "t"), flags=netlink.NLM_F_CREATE)
    packed = netlink.batch([one, one])
    seen = []
    while packed:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", packed)
        seen.append((kind, flags, sequence))
        packed = packed[length:]
    assert seen == [(0x10, 1, 0), (0xA00, 0x405, 1), (0xA00, 0x405, 2), (0x11, 1, 3)]


def answer(sequence: int, number: int) -> bytes:
    return struct.pack("=IHHIIi", 36, 2, 0, sequence, 0, -number) + bytes(16)


def test_answers() -> None:
    assert list(netlink.errors(answer(1, 0) + answer(2, errno.EPERM))) == [(1, 0), (2, errno.EPERM)]
    assert netlink.first_error(answer(1, 0) + answer(2, errno.EEXIST) + answer(3, errno.ENOENT)) == errno.EEXIST
    assert netlink.first_error(answer(1, 0)) == 0
    assert netlink.first_error(b"") == errno.EPROTO
    assert netlink.first_error(bytes(40)) == errno.EPROTO
    other_kind = struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(4)
    assert netlink.first_error(other_kind + answer(1, errno.EPERM)) == errno.EPERM
