"""Frames: whatever goes in comes out, in whatever pieces; whatever does not is refused in time and in bounds."""

from __future__ import annotations

import contextlib
import gc
import struct
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mirror.protocol import messages as m
from mirror.protocol.frame import (
    MAX_FRAME_BYTES,
    MAX_REQUEST_ID,
    Frame,
    FrameDecoder,
    FrameReader,
    LocalProtocolError,
    RemoteProtocolError,
    append_frame,
    encode_frame,
)
from tests.protocol.reference import pack, pack_extension
from tests.protocol.strategies import agent_messages, all_messages, chunked, layer_messages, values

LINKS = [m.AgentMessage, m.LayerMessage]
AMPLIFICATION = 64
"""What decoding may take of memory for each byte of a frame: an array of one item or a negative number is one byte, and
an object of some 50 bytes together with its place in the array around it."""
ANY_FRAME_BYTES = 200_000
"""What it may take besides: msgpack nests 1024 arrays, and makes room for what the short ones among them claim."""

request_ids = st.integers(-MAX_REQUEST_ID, MAX_REQUEST_ID)


def framed(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def packed(*content: object) -> bytes:
    return framed(pack(content))


@given(st.data(), st.lists(st.tuples(request_ids, agent_messages), max_size=5))
def test_agent_messages_round_trip_in_any_pieces(data: st.DataObject, sent: list[tuple[int, m.Message]]) -> None:
    check_round_trip(data, m.AgentMessage, sent)


@given(st.data(), st.lists(st.tuples(request_ids, layer_messages), max_size=5))
def test_layer_messages_round_trip_in_any_pieces(data: st.DataObject, sent: list[tuple[int, m.Message]]) -> None:
    check_round_trip(data, m.LayerMessage, sent)


def check_round_trip(data: st.DataObject, link: object, sent: list[tuple[int, m.Message]]) -> None:
    reader = FrameReader(link)
    received: list[tuple[int, m.Message]] = []
    for piece in data.draw(chunked(b"".join(encode_frame(*frame) for frame in sent))):
        reader.feed(piece)
        received += [(frame.request_id, frame.message) for frame in reader]
    assert received == sent
    assert reader.is_between_frames


@given(request_ids, all_messages)
def test_frames_are_what_the_reference_writes(request_id: int, message: m.Message) -> None:
    """Byte for byte: shortest integers and lengths, str for str, bin for bytes."""
    assert encode_frame(request_id, message) == packed(request_id, plain(message))


def plain(value: object) -> object:
    """A message as the reference's lists and scalars."""
    match value:
        case m.Message():
            return [type(value).__name__, *(plain(getattr(value, name)) for name in value.__struct_fields__)]
        case tuple():
            return [plain(item) for item in value]
        case m.Stat() | m.DirectoryEntry() | m.SocketAddress() | m.AddressInfo() | m.Rule():
            return [plain(getattr(value, name)) for name in value.__struct_fields__]
        case _:
            return value


# --- hostile bytes ----------------------------------------------------------------------------------------


@given(st.data(), st.sampled_from(LINKS), st.binary(max_size=2000))
@example(None, m.AgentMessage, b"\x00\x00\x00\x00")
def test_any_bytes_end_in_frames_or_an_error(data: st.DataObject | None, link: object, stream: bytes) -> None:
    reader = FrameReader(link)
    try:
        for piece in data.draw(chunked(stream)) if data else [stream]:
            reader.feed(piece)
            for frame in reader:
                assert isinstance(frame.message, m.Message)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError, match="frame"):
            reader.next_frame()


@given(st.sampled_from(LINKS), st.binary(max_size=500) | values().map(pack))
def test_any_content_of_a_frame_is_a_message_or_an_error(link: object, content: bytes) -> None:
    check_one_frame(link, content)


def check_one_frame(link: object, content: bytes) -> None:
    """The content is a message, or an error that says so."""
    reader = FrameReader(link)
    reader.feed(framed(content))
    try:
        assert isinstance(reader.next_frame(), Frame)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError, match=r"^malformed frame: ."):
            reader.next_frame()


@given(st.data(), st.sampled_from([(m.AgentMessage, agent_messages), (m.LayerMessage, layer_messages)]))
def test_any_damage_to_a_frame_is_a_message_or_an_error(
    data: st.DataObject, link: tuple[object, st.SearchStrategy[m.Message]]
) -> None:
    content = bytearray(encode_frame(1, data.draw(link[1]))[4:])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    check_one_frame(link[0], bytes(content))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        packed(1, ["Nonsense"])[4:],
        packed(1, ["Register", 1, 2, "exec", 0, b""])[4:],  # the layer's, not the agent's
        packed(1, ["StatFile", b"/x"])[4:],  # too short
        packed(1, ["StatFile", "/x", True])[4:],  # str for bytes
        packed(1, ["StatFile", "L3g=", True])[4:],  # the same in base64
        packed(1, ["StatFile", b"", True])[4:],  # empty path
        packed(1, ["StatFile", b"/" * 4097, True])[4:],  # long path
        packed(1, ["StatFile", b"/x", 1])[4:],  # int for bool
        packed(1, ["Notice", b"text"])[4:],  # bytes for str
        packed(1, ["Credit", 2**32, 1])[4:],
        packed(1, ["Credit", -1, 1])[4:],
        packed(1, ["Credit", 1.0, 1])[4:],
        packed(1, ["Credit", float("nan"), 1])[4:],
        packed(1, ["Credit", True, 1])[4:],
        packed(1, ["Credit", datetime.now(UTC), 1])[4:],  # a timestamp, an extension that msgpack knows
        b"\x92\x01\x93\xa6Credit" + pack_extension(5, b"") + b"\x01",
        packed(1, ["Credit", [1], 1])[4:],
        packed(1, ["Credit", {}, 1])[4:],
        packed(1, ["EnvironmentRead", b"PATH=/"])[4:],
        packed(1, ["EnvironmentRead", ["PATH=/"]])[4:],
        packed(1, ["LookUpHost", None, 2])[4:],
        packed(2**31, ["Ping"])[4:],
        packed(-(2**31), ["Ping"])[4:],
        packed(True, ["Ping"])[4:],
        packed(b"", ["Ping"])[4:],
        packed(1, [])[4:],
        packed(1, [["Ping"]])[4:],
        packed(1, [b"Ping"])[4:],
        packed(1, [{"Ping": {}}])[4:],
        packed(1, [1])[4:],
        packed(1, "Ping")[4:],
        packed(1, ["x" * 100_000])[4:],
        packed(["Ping"])[4:],
        packed(1, ["Ping"], 3)[4:],
        packed(1, ["Ping"])[4:] + b"\0",
        packed(1, {"type": "Ping"})[4:],
        packed(0, ["Welcome", 1, [], {1: ""}])[4:],
        packed(0, ["Welcome", 1, [], {b"files": ""}])[4:],
        packed(0, ["Welcome", 1, [], {"files": b""}])[4:],
        packed(0, ["Welcome", 1, []])[4:].replace(b"\x93", b"\x94") + b"\x82\xa1a\xa0\xa1a\xa0",  # a key twice
        pack_extension(5, b"x"),
        pack_extension(-1, b"x" * 4),
        pack_extension(-1, b"x"),  # no timestamp
        b"\x92\x01\x92\xa6Notice\xa1\xff",  # not UTF-8
        b"\x92\x01\x91\xa1\xc1",
        b"\xc1",
    ],
)
def test_what_is_no_message_is_refused(content: bytes) -> None:
    reader = FrameReader(m.AgentMessage)
    reader.feed(framed(content))
    with pytest.raises(RemoteProtocolError, match=r"^malformed frame: .") as caught:
        reader.next_frame()
    assert len(str(caught.value)) < 200


def test_fields_may_be_missing_or_too_many_at_the_end() -> None:
    reader = FrameReader(m.AgentMessage)
    reader.feed(packed(0, ["Reset", 3]) + packed(0, ["Reset", 3, 104, "from the future", [1, {}]]))
    reader.feed(packed(0, ["Reset", 3, 104, [0] * 1000, {"a": [{"b": 1.5}]}, float("nan"), b"", None]))
    reader.feed(framed(b"\x92\x00\x94\xa5Reset\x03\x68" + pack_extension(5, b"x")))
    reader.feed(packed(0, ["Reset", 3, 104, datetime.now(UTC)]))
    assert [frame.message for frame in reader] == [m.Reset(3, 0)] + 4 * [m.Reset(3, 104)]


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size_bytes", [0, 1, 255, 256, 4095, 4096, 65535, 65536, 200_000])
def test_many_bytes_are_framed_as_few_are(buffer: type, size_bytes: int) -> None:
    content = bytes(range(256)) * (size_bytes // 256) + b"x" * (size_bytes % 256)
    stat = m.Stat(*range(13))
    for message in (m.Data(7, content), m.FileOpened(stat, content, False, b"/a"), m.FileOpened(stat, content)):
        field = "payload" if isinstance(message, m.Data) else "content"
        frame = encode_frame(-5, msgspec.structs.replace(message, **{field: buffer(content)}))
        assert frame == packed(-5, plain(message))
        reader = FrameReader(m.AgentMessage)
        reader.feed(frame)
        assert [(read.request_id, read.message) for read in reader] == [(-5, message)]


def test_many_bytes_are_copied_once_each_way() -> None:
    message = m.Data(1, b"x" * (512 << 10))
    frame = bytearray()
    assert peak_bytes(lambda: append_frame(frame, 0, message)) < 1.3 * len(message.payload)
    decoder = FrameDecoder(m.AgentMessage)
    content = memoryview(frame)[4:]
    assert peak_bytes(lambda: decoder.decode(content)) < 1.3 * len(message.payload)


def test_nothing_stays_of_what_was_malformed() -> None:
    """Releases of msgpack before 1.2.1 kept what they had made of it for ever."""
    decoder = FrameDecoder(m.AgentMessage)
    malformed = [encode_frame(0, m.EnvironmentRead((b"A=" + b"x" * 500,) * 50))[4:-1], *HOSTILE_STARTS]

    def refuse() -> None:
        for content in malformed:
            with contextlib.suppress(RemoteProtocolError):
                decoder.decode(content)

    refuse()
    gc.collect()
    tracemalloc.start()
    try:
        refuse()
        gc.collect()
        before_bytes, _ = tracemalloc.get_traced_memory()
        for _ in range(20):
            refuse()
        gc.collect()
        after_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after_bytes - before_bytes < 2000


def peak_bytes(function: Callable[[], object]) -> int:
    """How much memory a call takes at most."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_length_beyond_the_limit_is_refused_before_the_content_comes() -> None:
    reader = FrameReader(m.AgentMessage)
    reader.feed(struct.pack(">I", MAX_FRAME_BYTES + 1))
    with pytest.raises(RemoteProtocolError, match="1048577 bytes"):
        reader.next_frame()


def test_a_message_beyond_the_limit_is_not_sent() -> None:
    overhead = len(encode_frame(1, m.LinkRead(b"x" * 70000))) - 4 - 70000
    assert len(encode_frame(1, m.LinkRead(b"x" * (MAX_FRAME_BYTES - overhead)))) == MAX_FRAME_BYTES + 4
    with pytest.raises(LocalProtocolError, match="cannot send LinkRead"):
        encode_frame(1, m.LinkRead(b"x" * (MAX_FRAME_BYTES - overhead + 1)))


@pytest.mark.parametrize("message", [m.Credit(2**64, 1), m.Notice("\ud800")])
def test_what_messagepack_cannot_carry_is_not_sent(message: m.Message) -> None:
    with pytest.raises(LocalProtocolError, match="cannot send"):
        encode_frame(1, message)


MANY = MAX_FRAME_BYTES - 100
HOSTILE = {
    "array with a length that lies": b"\x92\x01\x92\xafEnvironmentRead\xdd\xff\xff\xff\xff",
    "array that fills the frame with nothing": b"\x92\x01\x92\xafEnvironmentRead\xdd"
    + struct.pack(">I", MANY)
    + b"\xc0" * MANY,
    "array of empty strings": b"\x92\x01\x92\xafEnvironmentRead\xdd"
    + struct.pack(">I", MANY // 2)
    + b"\xc4\0" * (MANY // 2),
    "structs, as small as they get": b"\x92\x01\x92\xafAddressLookedUp\xdd"
    + struct.pack(">I", MANY // 12)
    + b"\x93\0\0\x92\xc4\x04\x7f\0\0\x01\0\0"[:11] * (MANY // 12),
    "map with a length that lies": b"\x92\x01\x94\xa7Welcome\x01\x90\xdf\xff\xff\xff\xff",
    "map of many": b"\x92\x01\x94\xa7Welcome\x01\x90\xdf"
    + struct.pack(">I", MANY // 6)
    + b"".join(b"\xa4%04x\xa0" % (number & 0xFFFF) for number in range(MANY // 6)),
    "bytes with a length that lies": b"\x92\x01\x93\xa4Data\x01\xc6\xff\xff\xff\xff",
    "text with a length that lies": b"\x92\x01\xdb\xff\xff\xff\xff",
    "deep nesting where nothing should be": b"\x92\x01\x92\xa4Ping" + b"\x91" * MANY,
    "deep nesting that ends": b"\x92\x01\x92\xa4Ping" + b"\x91" * (MANY - 1) + b"\xc0",
    "deep nesting of maps": b"\x92\x01\x92\xa4Ping" + b"\x81" * MANY,
    "deep nesting from the start": b"\x91" * MANY,
    "arrays in arrays, each with a length that lies": b"\x92\x01\x92\xafAddressLookedUp"
    + b"\xdd\x00\x0f\x00\x00" * (MANY // 5),
    "extension with a length that lies": b"\x92\x01\x92\xa4Ping\xc9\xff\xff\xff\xff\x01",
}
FILLERS = {
    "arrays that lie": b"\x9f",
    "longer arrays that lie": b"\xdc\x00\x18",
    "long arrays that lie": b"\xdd\x00\x0f\x00\x00",
    "maps that lie": b"\x8f",
    "longer maps that lie": b"\xde\x00\x40",
    "long maps that lie": b"\xdf\x00\x0f\x00\x00",
    "maps in maps, behind other pairs": b"\xde\x00\x40"
    + b"".join(b"\xa2%c%c\x90" % (64 + one, 64 + two) for one in range(9) for two in range(7))
    + b"\xa1x",
    "empty arrays": b"\x90",
    "empty maps": b"\x80",
    "maps of one": b"\x81\xa0\x90",
    "arrays of one": b"\x91\xe0",
    "arrays in arrays": b"\x91" * 900 + b"\xe0",
    "small numbers": b"\xe0",
    "numbers": b"\xcd\x12\x34",
    "floats": b"\xca\x12\x34\x56\x78",
    "text": b"\xa2ab",
    "text beyond ASCII": b"\xa4\xf0\x9f\x98\x80",
    "extensions": b"\xd4\x05\x00",
    "timestamps": b"\xd6\xff\x12\x34\x56\x78",
    "entries of directories": b"\x93\xc4\x00\x00\x00",
    "entries with attributes": b"\x94\xc4\x00\x00\x00\x9d" + b"\xe0" * 13,
}
HOSTILE_STARTS = [b"\x92\x01\x92\xa4Ping\xdd\x00\x00\x03\x00" + filler * 10 for filler in FILLERS.values()]


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_frames_take_bounded_memory(content: bytes) -> None:
    assert len(content) <= MAX_FRAME_BYTES
    check_memory(m.AgentMessage, content)


@pytest.mark.parametrize("filler", FILLERS.values(), ids=FILLERS.keys())
@pytest.mark.parametrize("size_bytes", [100, 1000, 3000, 10_000, 200_000])
def test_hostile_frames_of_any_size_take_bounded_memory(filler: bytes, size_bytes: int) -> None:
    """As an unknown field, as the field of a message and one in the other, as long as the frame is and longer."""
    starts = ((m.AgentMessage, b"\x92\x01\x92\xa4Ping"), (m.LayerMessage, b"\x92\x01\x92\xafDirectoryListed"))
    for link, start in starts:
        count = (size_bytes - len(start) - 5) // len(filler)
        for head in (b"", b"\xdd" + struct.pack(">I", count), b"\xdd" + struct.pack(">I", size_bytes)):
            check_memory(link, start + head + filler * count)


def check_memory(link: object, content: bytes) -> None:
    """Decoding this takes no more memory than is promised, whatever it is."""
    stream = framed(content)
    reader = FrameReader(link)

    def read() -> None:
        reader.feed(stream)
        with contextlib.suppress(RemoteProtocolError):
            reader.next_frame()

    assert peak_bytes(read) < AMPLIFICATION * len(stream) + ANY_FRAME_BYTES


# --- descriptors ------------------------------------------------------------------------------------------


def test_descriptors_go_with_the_last_frame_that_begins_in_their_read() -> None:
    ping, done = encode_frame(1, m.StatFile(b"/a", follow=True)), encode_frame(0, m.Done())
    reader = FrameReader(m.LayerMessage)
    reader.feed(ping + done, [7, 8])
    reader.feed(ping, [9])
    reader.feed(done + ping[:5], [10])
    assert [frame.descriptors for frame in reader] == [(), (7, 8), (9,), ()]
    reader.feed(ping[5:])
    assert [frame.descriptors for frame in reader] == [(10,)]
    assert reader.close() == ()


def test_a_descriptor_of_an_unfinished_frame_is_given_back() -> None:
    reader = FrameReader(m.LayerMessage)
    reader.feed(encode_frame(1, m.Done())[:-1], [5])
    assert reader.next_frame() is None
    assert not reader.is_between_frames
    assert reader.close() == (5,)
    with pytest.raises(RemoteProtocolError):
        reader.next_frame()
