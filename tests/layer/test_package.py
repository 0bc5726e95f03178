"""The compiled library: what it exports, and for which machines it can be compiled."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.layer import installer_script, library_path, target

ROOT = Path(__file__).parents[2]


class Row(ctypes.Structure):
    """struct mirror_hook."""

    _fields_ = (
        ("family", ctypes.c_char_p),
        ("symbol", ctypes.c_char_p),
        ("replacement", ctypes.c_void_p),
        ("original", ctypes.c_void_p),
        ("target", ctypes.c_void_p),
    )


def read_table() -> list[Row]:
    table = (Row * 1000).in_dll(ctypes.CDLL(str(library_path())), "mirror_hooks")
    return list(iter(iter(table).__next__, None))[: next(i for i, row in enumerate(table) if row.symbol is None)]


def test_table_has_the_rows_of_hooks_def() -> None:
    rows = read_table()
    text = (ROOT / "layer/native/hooks.def").read_text()
    named = [line.split("(")[1].split(",") for line in text.splitlines() if line.startswith(("HOOK(", "ALIAS("))]
    expected = [parts[1 if line.startswith("HOOK") else 0] for parts, line in zip(named, row_lines(text), strict=True)]
    assert [row.symbol.decode() for row in rows] == [name.strip() for name in expected]
    assert all(row.replacement for row in rows)


def row_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("HOOK(", "ALIAS("))]


def test_nothing_but_the_installers_interface_is_exported() -> None:
    symbols = subprocess.run(["nm", "-D", "--defined-only", library_path()], capture_output=True, text=True, check=True)
    assert {line.split()[-1] for line in symbols.stdout.splitlines()} == {"mirror_hooks", "mirror_libc", "mirror_room"}


def test_library_needs_nothing_but_an_old_libc() -> None:
    shown = subprocess.run(["readelf", "-d", "-V", library_path()], capture_output=True, text=True, check=True).stdout
    needed = {line.split("[")[1].rstrip("]") for line in shown.splitlines() if "(NEEDED)" in line}
    assert needed <= {"libc.so.6", "libdl.so.2", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    versions = {word for word in shown.replace("\n", " ").split() if word.startswith("GLIBC_")}
    assert all(tuple(map(int, version[6:].split("."))) <= (2, 17) for version in versions)


def test_installer_is_there() -> None:
    assert "mirror_hooks" in installer_script()
    assert target() in str(library_path())


@pytest.mark.slow
def test_every_target_compiles() -> None:
    subprocess.run([sys.executable, ROOT / "hatch_build.py"], check=True)
    libraries = {path.parent.name for path in (ROOT / "layer/mirror/layer/lib").glob("*/libmirror_layer.so")}
    assert libraries == {"x86_64-linux-gnu", "aarch64-linux-gnu", "x86_64-linux-musl", "aarch64-linux-musl"}
