"""The codec in itself: what comes out of it is what went in, in any pieces and from any thread, or it says why not."""

from __future__ import annotations

import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.protocol import codec
from mirror.protocol import messages as m
from tests.protocol.reference import pack, pack_extension
from tests.protocol.strategies import all_messages, chunked, structs, values
from tests.protocol.test_frame import AMPLIFICATION, ANY_FRAME_BYTES, peak_bytes, plain

listings = st.lists(structs(m.DirectoryEntry), max_size=40)


def tupled(value: object) -> object:
    """A decoded value as the codec gives it: tuples for lists."""
    match value:
        case list():
            return tuple(tupled(item) for item in value)
        case dict():
            return {key: tupled(item) for key, item in value.items()}
        case _:
            return value


# --- one value --------------------------------------------------------------------------------------------


@given(values())
def test_any_value_is_decoded_as_the_reference_wrote_it(value: object) -> None:
    assert codec.decode(pack(value)) == tupled(value)


@given(values())
def test_any_value_is_encoded_as_the_reference_does(value: object) -> None:
    assert codec.encode(value) == pack(value)


@given(st.lists(all_messages, max_size=5))
def test_structs_are_encoded_wherever_they_are(messages: list[m.Message]) -> None:
    assert codec.encode(messages) == pack([plain(message) for message in messages])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "cut off"),
        (b"\x92\x01", "cut off"),
        (b"\x01\x01", "extra data"),
        (b"\xc1", "a byte that begins no value"),
        (b"\x91" * 2000 + b"\x01", "nested too deeply"),
        (b"\xa1\xff", "'utf-8' codec can't decode byte 0xff"),
        (b"\x82\xa1a\x01\xa1a\x02", "a map has a key twice"),
        (b"\x81\x01\x02", "map key"),
        (pack({str(number): number for number in range(65)}), "65 exceeds max_map_len"),
        (pack([{}] * 1025), "more than 1024 items in maps"),
        (pack([{str(number): number for number in range(63)}] * 17), "more than 1024 items in maps"),
    ],
)
def test_what_is_malformed_is_said(content: bytes, sentence: str) -> None:
    with pytest.raises(codec.Malformed, match=sentence):
        codec.decode(content)


def test_maps_may_be_as_large_as_is_said() -> None:
    value = [{str(number): number for number in range(63)}] * 16
    assert codec.decode(pack(value)) == tupled(value)


def test_an_extension_is_nothing_that_a_message_may_hold() -> None:
    value = codec.decode(pack_extension(5, b"x"))
    for kind in (int, str, bytes, bool, tuple[bytes, ...], m.Stat, m.SocketAddress, dict[str, str]):
        with pytest.raises(codec.Malformed, match="got `object`"):
            codec.convert(value, kind)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", object(), {1, object()}])
def test_what_messagepack_does_not_have_is_not_encoded(value: object) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        codec.encode(value)
    assert codec.encode([1]) == b"\x91\x01"


def test_threads_do_not_meet() -> None:
    """Each encodes its own, again and again, for as long as the others do."""
    barrier = threading.Barrier(8)
    wrong: list[bytes] = []

    def encode(number: int) -> None:
        value = [m.LinkRead(bytes([number]) * 300)] * 50
        expected = pack([plain(message) for message in value])
        barrier.wait()
        for _ in range(200):
            packed = codec.encode(value)
            if packed != expected:
                wrong.append(packed)

    threads = [threading.Thread(target=encode, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- long arrays ------------------------------------------------------------------------------------------


@given(st.data(), listings)
def test_an_array_is_decoded_in_any_pieces(data: st.DataObject, entries: list[m.DirectoryEntry]) -> None:
    content = codec.encode_array(entries)
    assert content == pack([plain(entry) for entry in entries])
    head = data.draw(st.integers(5, 20))
    pieces = [content[:head], *data.draw(chunked(content[head:]))]
    assert codec.decode_array(pieces, list[m.DirectoryEntry]) == entries


def test_a_long_array_is_decoded_whole() -> None:
    entries = [m.DirectoryEntry(b"%d" % number, number, 8) for number in range(70_000)]
    for content in (
        codec.encode_array(entries),
        struct.pack(">BI", 0xDD, len(entries)) + codec.encode_items(entries),
    ):
        pieces = [content[start : start + 60_000] for start in range(0, len(content), 60_000)]
        assert codec.decode_array(pieces, list[m.DirectoryEntry]) == entries


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x90\x00",
        b"\x90\xc4",
        b"\x91",
        b"\x91\x93\xc4\x01a\x01",
        b"\x91\x93\xc4\x01a\x01\x08\x93\xc4\x01a\x01\x08",
        b"\x91\x93\xc4\x01a\x01\x08\x93\xc4",
        b"\x91\x93\xa1a\x01\x08",  # str for bytes
        b"\x91\x93\xa4L3g=\x01\x08",  # the same in base64
        b"\x91\x01",
        b"\x91\xc1",
        b"\x91\x80",
        b"\x91" + pack_extension(5, b"x"),
        b"\xdd\xff\xff\xff\xff",
        b"\xdd\xff",
        b"\x80",
        b"\x01",
        b"\xc1",
        b"\x91" + b"\x91" * 2000,
    ],
)
def test_what_is_no_listing_is_refused(content: bytes) -> None:
    for pieces in ([content], [content[:-1], content[-1:]]):
        with pytest.raises(codec.Malformed) as caught:
            codec.decode_array(pieces, list[m.DirectoryEntry])
        assert str(caught.value)


@pytest.mark.parametrize(
    "filler", [b"\x9f", b"\xdc\xff\xff", b"\xdd\x00\xff\xff\xff", b"\xdf\x00\xff\xff\xff", b"\x90"]
)
@pytest.mark.parametrize("size_bytes", [1000, 100_000])
def test_a_hostile_listing_takes_bounded_memory(filler: bytes, size_bytes: int) -> None:
    content = b"\xdd\x00\x0f\x00\x00" + filler * (size_bytes // len(filler))

    def refuse() -> None:
        with pytest.raises(codec.Malformed):
            codec.decode_array([content], list[m.DirectoryEntry])

    # The unpacker's buffer of a megabyte, of which only what is used is ever touched.
    assert peak_bytes(refuse) < (1 << 20) + AMPLIFICATION * len(content) + ANY_FRAME_BYTES
