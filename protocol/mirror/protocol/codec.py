"""MessagePack: values to bytes and back, with a limit on what hostile bytes can make us hold.

`msgpack` is the codec. It knows numbers, bytes, text, arrays (tuples here) and maps; `msgspec` makes those of our
structs, and structs of those again, once it has found every field to be of the type that the struct says.

MessagePack tells how long an array is before its first item, and msgpack makes room for that many at once: a thousand
arrays, each the first item of the one before, take a thousand times what each of them claims. So bytes are decoded
within narrow limits first, which nearly all messages keep to and where a lie costs next to nothing. What does not keep
to them is stepped over as a whole before anything is made of it: then every length in it is true.

Nothing here knows frames or messages: that is `frame`.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import msgpack
import msgspec

MAX_MAP_ITEMS = 64
"""In one map. No message has more than one for each capability, and a map takes more memory than anything else."""

MAX_MAPS_ITEMS = 1024
"""In all maps of one value, each map itself counted too."""

_BATCH_ITEMS = 1000
"""Of a long array, at a time: no more of it is held in the form between bytes and structs."""

_NATIVE = (bytes, bytearray, memoryview)
"""What MessagePack carries as it is; msgspec would have bytes as text in base64 else."""
_NATIVE_DECODED = (bytes,)

_EXTENSION = object()
"""Stands for any extension value: no field is of its type, and where fields are unknown it does not matter."""

_T = TypeVar("_T")


def _no_map(pairs: object) -> NoReturn:
    raise ValueError("a map")


def _extension(code: int, payload: bytes) -> object:
    return _EXTENSION


_NARROW: dict[str, Any] = {
    "use_list": False,
    "max_array_len": 24,  # more than any struct has fields
    "max_map_len": 0,
    "object_pairs_hook": _no_map,
    "ext_hook": _extension,
}
"""Limits within which a length that lies costs next to nothing."""


class Malformed(ValueError):
    """These bytes are not what was expected. The text says why."""


class _OfThread(threading.local):
    """A packer keeps what it has packed so far, so that no two threads may use the same one."""

    def __init__(self) -> None:
        self.packer = msgpack.Packer()


_of_thread = _OfThread()


def encode(value: object) -> bytes:
    """MessagePack of `value`, structs within it included; numbers and lengths in their shortest form.

    Raises:
        ValueError: It holds text that is not Unicode (a lone surrogate).
        OverflowError: It holds an integer of more than 64 bits.
        TypeError: It holds what MessagePack does not have.
    """
    packed: bytes = _of_thread.packer.pack(msgspec.to_builtins(value, builtin_types=_NATIVE))
    return packed


def encode_array(items: Sequence[object]) -> bytes:
    """MessagePack of a long array, as `encode` gives it, but no memory is kept for the next one."""
    header: bytes = msgpack.Packer().pack_array_header(len(items))
    return header + encode_items(items)


def encode_items(items: Sequence[object]) -> bytes:
    """MessagePack of each of these, one behind the other: what an array has after its length."""
    packer = msgpack.Packer(autoreset=False)
    for start in range(0, len(items), _BATCH_ITEMS):
        for item in msgspec.to_builtins(items[start : start + _BATCH_ITEMS], builtin_types=_NATIVE):
            packer.pack(item)
    packed: bytes = packer.bytes()
    return packed


def decode(content: bytes | bytearray | memoryview) -> object:
    """The one value in `content`, as tuples, dicts and scalars.

    Raises:
        Malformed: It is cut off, followed by more, nested too deeply, not MessagePack or not UTF-8; its maps are too
            large, have a key twice or one that is neither text nor bytes.
    """
    try:
        try:
            return msgpack.unpackb(content, **_NARROW)
        except ValueError:
            _step_over(content)
            return msgpack.unpackb(
                content,
                use_list=False,
                max_map_len=MAX_MAP_ITEMS,
                object_pairs_hook=_Maps().make,
                ext_hook=_extension,
            )
    except (ValueError, msgpack.OutOfData) as error:
        raise Malformed(_sentence(error)) from None


def decode_array(parts: Iterable[bytes], kind: type[list[_T]]) -> list[_T]:
    """The items of one long array of small structs, without ever holding all of it as anything but structs.

    Args:
        parts: The bytes of the array, in order, in whatever pieces; the first has the array's length.
        kind: The list of structs that it is.

    Raises:
        Malformed: They are not that array.
    """
    unpacker = msgpack.Unpacker(**_NARROW)
    items: list[_T] = []
    count: int | None = None
    size_bytes = 0
    try:
        for part in parts:
            unpacker.feed(part)
            size_bytes += len(part)
            if count is None:
                count = int(unpacker.read_array_header())
            while batch := list(itertools.islice(unpacker, min(count - len(items), _BATCH_ITEMS))):
                items += convert(batch, kind)
    except (ValueError, msgpack.OutOfData, msgpack.BufferFull) as error:
        raise Malformed(_sentence(error)) from None
    if len(items) != count or unpacker.tell() != size_bytes:
        raise Malformed(f"{len(items)} whole items in {size_bytes} bytes, where {count or 0} were announced")
    return items


def convert(value: object, kind: type[_T]) -> _T:
    """`value`, which was decoded, as what it should be.

    Raises:
        Malformed: It is something else.
    """
    try:
        return msgspec.convert(value, kind, builtin_types=_NATIVE_DECODED)
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from None


def _step_over(content: bytes | bytearray | memoryview) -> None:
    """Raises OutOfData or ValueError unless a whole value is there; makes nothing of it."""
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(content), 1))
    unpacker.feed(content)
    unpacker.skip()


class _Maps:
    """Makes the maps of one value."""

    def __init__(self) -> None:
        self._room = MAX_MAPS_ITEMS

    def make(self, pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
        """One of them."""
        self._room -= 1 + len(pairs)
        if self._room < 0:
            raise ValueError(f"more than {MAX_MAPS_ITEMS} items in maps")
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError("a map has a key twice")
        return made


def _sentence(error: Exception) -> str:
    """What msgpack found, which it does not always say."""
    match error:
        case msgpack.StackError():
            return "nested too deeply"
        case msgpack.FormatError():
            return "a byte that begins no value"
        case msgpack.OutOfData():
            return "the content is cut off"
        case _:
            return str(error)
