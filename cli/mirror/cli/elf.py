"""What an ELF file says about how it must be run. Reads 64-bit files only; judges nothing. Source: elf(5).

`program` decides from this whether a program can be hooked.
"""

from __future__ import annotations

import dataclasses
import io
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

_HEADER = struct.Struct("<4s B 13x H 12x Q 14x H H")
"""Magic, class, machine, offset of the program headers, size of one, how many (to byte 58 of 64)."""
_SEGMENT = struct.Struct("<I 4x Q 16x Q 16x")
"""Type, offset, size in the file."""
_CLASS_64 = 2
_PT_INTERP, _PT_NOTE = 3, 4
_MOST_BYTES = 64 << 10
"""Of one segment; an interpreter's name or the notes of any real file are far smaller."""


@dataclasses.dataclass(frozen=True)
class Elf:
    """One ELF file.

    Attributes:
        machine: `e_machine`; 0 for a 32-bit file, of which nothing else is read.
        linker: The dynamic linker (PT_INTERP) that the kernel starts it with; None: statically linked.
        is_go: Made by Go's linker, which leaves a note of its own.
    """

    machine: int
    linker: str | None
    is_go: bool


def read(file: BinaryIO) -> Elf | None:
    """Reads an open file from its beginning. None if it is not a whole ELF file."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or header[:4] != b"\x7fELF":
        return None
    _, kind, machine, table, entry_bytes, count = _HEADER.unpack(header)
    if kind != _CLASS_64:
        return Elf(0, None, False)
    linker = None
    is_go = False
    for index in range(count):
        file.seek(table + index * entry_bytes)
        entry = file.read(_SEGMENT.size)
        if len(entry) < _SEGMENT.size:
            return None
        kind, offset, size = _SEGMENT.unpack(entry)
        if kind in (_PT_INTERP, _PT_NOTE):
            file.seek(offset)
            content = file.read(min(size, _MOST_BYTES))
            if kind == _PT_INTERP:
                linker = os.fsdecode(content.rstrip(b"\0"))
            else:
                is_go = is_go or b"Go" in _note_owners(content)
    return Elf(machine, linker, is_go)


def _note_owners(notes: bytes) -> Iterator[bytes]:
    """The name of each note in a segment; names and descriptions are padded to four bytes."""
    stream = io.BytesIO(notes)
    while len(head := stream.read(12)) == 12:
        name_bytes, description_bytes, _ = struct.unpack("<III", head)
        yield stream.read(-(-name_bytes // 4) * 4)[:name_bytes].rstrip(b"\0")
        stream.seek(-(-description_bytes // 4) * 4, io.SEEK_CUR)
