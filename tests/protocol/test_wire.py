"""layer/native/wire.c: it writes and reads what the reference does, and nothing that it reads can harm it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.protocol import messages as m
from mirror.protocol.frame import FrameReader, encode_frame
from tests.protocol.reference import pack, pack_array_header, pack_extension, unpack_first
from tests.protocol.strategies import layer_messages, values
from tests.protocol.test_frame import plain
from tests.protocol.wire import Reader, Writer, library_path

integers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(
    [sign * (1 << bits) + off for bits in (0, 5, 7, 8, 15, 16, 31, 32, 63) for sign in (1, -1) for off in (-1, 0, 1)]
).filter(lambda number: -(2**63) <= number < 2**64)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300)
sizes = st.sampled_from([0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536, 70000])
getters = st.sampled_from(["array", "uint", "int", "bool", "nil", "bytes", "skip"])


def write(writer: Writer, value: object) -> None:
    """Writes any value that a message may hold."""
    match value:
        case None:
            writer.put("nil")
        case bool():
            writer.put("bool", value)
        case int():
            writer.put("uint" if value >= 0 else "int", value)
        case str():
            writer.put("str", value.encode())
        case bytes():
            writer.put("bin", value, len(value))
        case list():
            writer.put("array", len(value))
            for item in value:
                write(writer, item)
        case _:
            raise AssertionError(value)


def call(reader: Reader, getter: str) -> None:
    if getter == "skip":
        reader.skip()
    elif getter == "bytes":
        reader.get_bytes()
    else:
        reader.get(getter)


# --- writing ----------------------------------------------------------------------------------------------


@given(layer_messages, st.integers(0, 2**31 - 1))
def test_messages_are_written_as_the_reference_does(message: m.Message, request_id: int) -> None:
    writer = Writer(1 << 16)
    write(writer, [request_id, plain(message)])
    assert not writer.overflow
    assert writer.written == encode_frame(request_id, message)[4:]

    reader = FrameReader(m.LayerMessage)
    reader.feed(len(writer.written).to_bytes(4, "big") + writer.written)
    assert [(frame.request_id, frame.message) for frame in reader] == [(request_id, message)]


@given(integers)
def test_integers_are_written_in_their_shortest_form(number: int) -> None:
    for kind in ("uint", "int"):
        if (kind == "uint" and number >= 0) or (kind == "int" and number < 2**63):
            writer = Writer(9)
            writer.put(kind, number)
            assert writer.written == pack(number)


@given(sizes)
def test_lengths_are_written_in_their_shortest_form(size: int) -> None:
    for kind, value in (("str", "x" * size), ("bin", b"x" * size)):
        writer = Writer(size + 5)
        write(writer, value)
        assert not writer.overflow, kind
        assert writer.written == pack(value)
    writer = Writer(5)
    writer.put("array", size)
    assert writer.written == pack_array_header(size)


@given(
    st.lists(st.none() | st.booleans() | integers | texts | st.binary(max_size=300), max_size=8), st.integers(0, 400)
)
def test_nothing_is_written_beyond_the_end(items: list[object], room_bytes: int) -> None:
    whole = b"".join(pack(item) for item in items)
    writer = Writer(room_bytes)
    for item in items:
        write(writer, item)
    assert writer.overflow == (len(whole) > room_bytes)
    assert whole.startswith(writer.written)
    assert writer.overflow or writer.written == whole


# --- reading ----------------------------------------------------------------------------------------------


@given(integers)
def test_integers_are_read_in_any_form(number: int) -> None:
    wide = [pack(number)]
    if number >= 0:
        wide += [bytes([0xCC + i]) + number.to_bytes(1 << i, "big") for i in range(4) if number < 1 << (8 << i)]
    if number < 2**63:
        wide += [
            bytes([0xD0 + i]) + number.to_bytes(1 << i, "big", signed=True)
            for i in range(4)
            if -(1 << (8 << i) - 1) <= number < 1 << (8 << i) - 1
        ]
    for form in wide:
        for kind, fits in (("uint", number >= 0), ("int", number < 2**63)):
            reader = Reader(form)
            assert reader.get(kind) == (number if fits else 0)
            assert reader.bad != fits


@given(st.binary(max_size=60) | values().map(pack), st.lists(getters, max_size=30))
def test_any_bytes_are_read_without_harm(data: bytes, getters: list[str]) -> None:
    """The sanitizer and the bounds in `Reader` watch; a reader that is bad gives zeros only."""
    reader = Reader(data)
    for getter in getters:
        was_bad = reader.bad
        call(reader, getter)
        if was_bad:
            assert reader.bad
            assert reader.get("uint") == reader.get("array") == reader.get("nil") == 0
            assert reader.get_bytes() == b""


@given(values())
def test_any_value_is_stepped_over(value: object) -> None:
    content = pack(value)
    reader = Reader(content + b"\x2a")
    reader.skip()
    if depth(value) < 16:
        assert reader.get("uint") == 42
        assert not reader.bad
    else:
        assert reader.bad


def depth(value: object) -> int:
    """How deep the innermost value lies."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return 1 + max(map(depth, inside)) if inside else 0


@pytest.mark.parametrize("payload_bytes", [0, 1, 2, 4, 8, 16, 17, 255, 256, 65536])
def test_extensions_are_stepped_over(payload_bytes: int) -> None:
    reader = Reader(pack_extension(5, b"x" * payload_bytes) + b"\xc3")
    reader.skip()
    assert reader.get("bool") == 1
    assert not reader.bad


@given(values())
def test_what_is_cut_off_is_bad(value: object) -> None:
    content = pack(value)
    for size in range(len(content)):
        reader = Reader(content[:size])
        reader.skip()
        assert reader.bad


@given(st.text(min_size=1, max_size=300) | st.binary(min_size=1, max_size=300))
def test_bytes_that_are_cut_off_are_bad_and_none(value: str | bytes) -> None:
    content = pack(value)
    for size in range(len(content)):
        reader = Reader(content[:size])
        assert reader.get_bytes() == b""
        assert reader.bad


@pytest.mark.parametrize("first", range(256))
def test_every_type_is_read_as_what_it_is_and_nothing_else(first: int) -> None:
    content = bytes([first]) + bytes(40)
    read = unpack_first(content)
    skipper = Reader(content)
    skipper.skip()
    assert skipper.bad == (read is None)
    if read is None:
        value: object = ...
    else:
        value, size_bytes = read
        assert skipper.position == size_bytes
    fitting = {
        "nil": value is None,
        "bool": isinstance(value, bool),
        "uint": type(value) is int and value >= 0,
        "int": type(value) is int,
        "array": isinstance(value, list),
    }
    for getter, fits in fitting.items():
        reader = Reader(content)
        got = reader.get(getter)
        if getter == "nil":
            assert (got, reader.bad) == (fits, False)
        else:
            assert reader.bad != fits
            assert not fits or got == (len(value) if isinstance(value, list) else value)
    reader = Reader(content)
    assert reader.get_bytes() == (value.encode() if isinstance(value, str) else value if type(value) is bytes else b"")
    assert reader.bad != isinstance(value, str | bytes)


def test_nesting_ends_at_sixteen_levels() -> None:
    for levels, bad in ((15, False), (16, True), (100_000, True)):
        reader = Reader(b"\x91" * levels + b"\xc0")
        reader.skip()
        assert reader.bad == bad


@pytest.mark.parametrize("head", [b"\x9f", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff"])
def test_a_count_that_lies_is_bad(head: bytes) -> None:
    """Else a caller's loop over the items would run for as long as a stranger says."""
    reader = Reader(head + b"\xc0" * 14)
    assert reader.get("array") == 0
    assert reader.bad


def test_only_memcpy_is_called() -> None:
    """All of it runs in a child of vfork and while libc is starting."""
    if (nm := shutil.which("nm")) is None:
        pytest.skip("nm is not here; it comes with binutils")
    undefined = subprocess.run([nm, "-D", "-u", library_path()], check=True, capture_output=True, text=True).stdout
    called = set(re.findall(r"U (\w+)", undefined))
    assert called <= {"memcpy", "__stack_chk_fail"}
