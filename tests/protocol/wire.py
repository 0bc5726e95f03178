"""layer/native/wire.c as a Python module: compiled for this machine, called by ctypes."""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "layer" / "native"

FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O1", "-g", "-shared", "-fPIC"),
    # Undefined behaviour ends the process by a trap: no test can overlook it, and no runtime has to be compiled.
    *("-fsanitize=undefined", "-fsanitize-trap=undefined"),
)


@functools.cache
def library_path() -> Path:
    """The compiled codec; it goes when the interpreter does."""
    folder = Path(tempfile.mkdtemp(prefix="mirror-wire-"))
    atexit.register(shutil.rmtree, folder)
    built = folder / "wire.so"
    subprocess.run([sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", built, NATIVE / "wire.c"], check=True)
    return built


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled codec, with the types of its functions."""
    loaded = ctypes.CDLL(str(library_path()))
    for name, arguments, result in (
        ("wire_put_array", [ctypes.c_uint32], None),
        ("wire_put_nil", [], None),
        ("wire_put_bool", [ctypes.c_bool], None),
        ("wire_put_uint", [ctypes.c_uint64], None),
        ("wire_put_int", [ctypes.c_int64], None),
        ("wire_put_str", [ctypes.c_char_p], None),
        ("wire_put_bin", [ctypes.c_char_p, ctypes.c_size_t], None),
        ("wire_get_array", [], ctypes.c_uint32),
        ("wire_get_uint", [], ctypes.c_uint64),
        ("wire_get_int", [], ctypes.c_int64),
        ("wire_get_bool", [], ctypes.c_bool),
        ("wire_get_bytes", [ctypes.POINTER(ctypes.c_size_t)], ctypes.c_void_p),
        ("wire_get_nil", [], ctypes.c_bool),
        ("wire_skip", [], None),
    ):
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_void_p, *arguments]
        function.restype = result
    return loaded


class _WriterState(ctypes.Structure):
    _fields_ = (("next", ctypes.c_void_p), ("end", ctypes.c_void_p), ("overflow", ctypes.c_bool))


class _ReaderState(ctypes.Structure):
    _fields_ = (("next", ctypes.c_void_p), ("end", ctypes.c_void_p), ("bad", ctypes.c_bool))


GUARD = b"\xa5" * 16
"""Stands behind a writer's room; it must never change."""


class Writer:
    """`struct wire_writer` with room for `room_bytes`."""

    def __init__(self, room_bytes: int) -> None:
        self._room = ctypes.create_string_buffer(b"\0" * room_bytes + GUARD, room_bytes + len(GUARD))
        self._start = ctypes.addressof(self._room)
        self._state = _WriterState(self._start, self._start + room_bytes, False)
        self._room_bytes = room_bytes

    def put(self, kind: str, *arguments: object) -> None:
        """Calls wire_put_KIND."""
        getattr(library(), f"wire_put_{kind}")(ctypes.byref(self._state), *arguments)
        assert self._room.raw[self._room_bytes :] == GUARD

    @property
    def overflow(self) -> bool:
        return bool(self._state.overflow)

    @property
    def written(self) -> bytes:
        return self._room.raw[: self._state.next - self._start]


class Reader:
    """`struct wire_reader` over `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = ctypes.create_string_buffer(data, len(data)) if data else ctypes.create_string_buffer(1)
        self._start = ctypes.addressof(self._data)
        self._size_bytes = len(data)
        self._state = _ReaderState(self._start, self._start + len(data), False)

    def get(self, kind: str) -> int:
        """Calls wire_get_KIND for a number or a truth value."""
        value = getattr(library(), f"wire_get_{kind}")(ctypes.byref(self._state))
        self._check()
        return int(value)

    def get_bytes(self) -> bytes:
        size_bytes = ctypes.c_size_t(12345)
        address = library().wire_get_bytes(ctypes.byref(self._state), ctypes.byref(size_bytes))
        self._check()
        if address is None:
            assert size_bytes.value == 0
            return b""
        assert self._start <= address
        assert address + size_bytes.value <= self._start + self._size_bytes
        return ctypes.string_at(address, size_bytes.value)

    def skip(self) -> None:
        library().wire_skip(ctypes.byref(self._state))
        self._check()

    @property
    def bad(self) -> bool:
        return bool(self._state.bad)

    @property
    def position(self) -> int:
        return int(self._state.next) - self._start

    def _check(self) -> None:
        assert 0 <= self.position <= self._size_bytes
