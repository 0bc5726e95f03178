"""A second MessagePack codec, msgspec's: what both of ours, msgpack's and the layer's, are held against."""

from __future__ import annotations

from typing import Any

import msgspec


def pack(value: object) -> bytes:
    """`value` in MessagePack, every number and length in its shortest form."""
    return msgspec.msgpack.encode(value)


def pack_array_header(count: int) -> bytes:
    """How an array of `count` items begins."""
    return pack([None] * count)[: -count or None]


def pack_extension(code: int, payload: bytes) -> bytes:
    """An extension value, which mirror has no use for."""
    return pack(msgspec.msgpack.Ext(code, payload))


def unpack(content: bytes) -> Any:
    """The one value in `content`."""
    return msgspec.msgpack.decode(content)


def unpack_first(content: bytes) -> tuple[Any, int] | None:
    """The first value in `content` and how many bytes it takes up; None if there is none."""
    for size_bytes in range(1, len(content) + 1):
        try:
            return unpack(content[:size_bytes]), size_bytes
        except msgspec.DecodeError:
            pass  # no value ends here: none is the beginning of another
    return None
