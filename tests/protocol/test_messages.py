"""Every message is stored, and the reference, `frame` and the layer's C reader agree on what it says."""

from __future__ import annotations

import pytest

from mirror.protocol import messages as m
from mirror.protocol.frame import FrameReader, encode_frame
from tests.protocol import golden
from tests.protocol.reference import unpack
from tests.protocol.strategies import AGENT_MESSAGES, ALL_MESSAGES
from tests.protocol.wire import Reader

STORED = golden.load()


def test_every_message_is_stored() -> None:
    missing = {kind.__name__ for kind in ALL_MESSAGES} - {type(message).__name__ for message, _ in STORED}
    assert not missing, f"python -m tests.protocol.golden adds {missing}"


def test_every_name_in_messages_passes_somewhere() -> None:
    """A message that is in neither link's union could not be received."""
    classes = {kind for kind in vars(m).values() if isinstance(kind, type) and issubclass(kind, m.Message)}
    assert classes - {m.Message} == set(ALL_MESSAGES)


def each_stored(function: object) -> object:
    return pytest.mark.parametrize(("message", "frame"), STORED, ids=[type(message).__name__ for message, _ in STORED])(
        function
    )


@each_stored
def test_stored_frame_is_read(message: m.Message, frame: bytes) -> None:
    reader = FrameReader(m.AgentMessage if type(message) in AGENT_MESSAGES else m.LayerMessage)
    reader.feed(frame)
    assert [(read.request_id, read.message) for read in reader] == [(1, message)]


@each_stored
def test_stored_frame_is_what_is_written(message: m.Message, frame: bytes) -> None:
    """But for fields that were appended since."""
    stored_id, stored = unpack(frame[4:])
    written_id, written = unpack(encode_frame(1, message)[4:])
    assert written_id == stored_id == 1
    assert len(frame) == int.from_bytes(frame[:4], "big") + 4
    assert written[: len(stored)] == stored
    assert stored[0] == type(message).__name__


@each_stored
def test_stored_frame_is_read_in_c(message: m.Message, frame: bytes) -> None:
    reader = Reader(frame[4:])
    expected = unpack(frame[4:])
    assert read_value(reader, expected) == expected
    assert not reader.bad
    assert reader.position == len(frame) - 4

    skipper = Reader(frame[4:])
    skipper.skip()
    assert not skipper.bad
    assert skipper.position == len(frame) - 4


def read_value(reader: Reader, like: object) -> object:
    """The next value, read by the function for the type that `like` has."""
    match like:
        case None:
            assert reader.get("nil") == 1
            return None
        case bool():
            return bool(reader.get("bool"))
        case int():
            return reader.get("uint" if like >= 0 else "int")
        case str():
            return reader.get_bytes().decode()
        case bytes():
            return reader.get_bytes()
        case list():
            assert reader.get("array") == len(like)
            return [read_value(reader, item) for item in like]
        case dict():
            # The layer is never sent a map; it only steps over one.
            reader.skip()
            return like
        case _:
            raise AssertionError(like)
