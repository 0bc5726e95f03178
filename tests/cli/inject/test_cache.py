"""A recipe is found again where only its user can have put it; everything else counts as nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mirror.cli.inject import cache
from mirror.cli.inject.cache import RecipeCache

LIBC = bytes(range(20))
RECIPE = b"a recipe" * 100
MONTH_S = 31 * 24 * 3600
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away: sudo make test")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def stored(home: Path) -> Path:
    """The file of a recipe that has been stored."""
    RecipeCache().store(LIBC, RECIPE)
    assert RecipeCache().load(LIBC) == RECIPE
    (path,) = (home / "cache/mirror/recipes").iterdir()
    return path


def load() -> bytes | None:
    return RecipeCache().load(LIBC)


def test_nothing_at_first(home: Path) -> None:
    assert load() is None
    assert not RecipeCache().has_any()
    assert list(home.iterdir()) == []  # looking makes nothing


def test_stored_is_found(stored: Path) -> None:
    assert RecipeCache().has_any()
    assert RecipeCache().load(LIBC[::-1]) is None
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600
    assert stat.S_IMODE(stored.parent.stat().st_mode) == 0o700


def test_stored_again_replaces(stored: Path) -> None:
    RecipeCache().store(LIBC, b"another")
    assert load() == b"another"
    assert list(stored.parent.iterdir()) == [stored]


@pytest.mark.parametrize("variable", ["", "relative/path"])
def test_default_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.chdir(tmp_path)
    RecipeCache().store(LIBC, RECIPE)
    assert len(list((tmp_path / ".cache/mirror/recipes").iterdir())) == 1


@pytest.mark.parametrize("part", ["library_path", "installer_script", "_identify_frida"])
def test_belongs_to_what_it_was_made_with(stored: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    other = stored.parents[3] / "library"
    other.write_bytes(b"another")
    new = {"library_path": lambda: other, "installer_script": lambda: "another", "_identify_frida": lambda: b"another"}
    monkeypatch.setattr(cache, part, new[part])
    assert load() is None
    assert not RecipeCache().has_any()
    RecipeCache().store(LIBC, b"another")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(stored.parents[2]))
    assert load() == RECIPE  # two installations do not drive out each other's


def test_frida_is_identified() -> None:
    import importlib.metadata

    assert importlib.metadata.version("frida").encode() in cache._identify_frida()


@pytest.mark.parametrize("damage", ["empty", "short", "changed", "huge"])
def test_damaged_is_ignored_and_replaced(stored: Path, damage: str) -> None:
    content = stored.read_bytes()
    damaged = {"empty": b"", "short": content[:-1], "changed": content[:-1] + b"x", "huge": content * 10_000}
    stored.write_bytes(damaged[damage])
    assert load() is None
    RecipeCache().store(LIBC, RECIPE)
    assert load() == RECIPE


def test_one_libcs_recipe_is_not_anothers(stored: Path) -> None:
    other = LIBC[::-1]
    stored.rename(stored.with_name(stored.name.replace(LIBC.hex(), other.hex())))
    assert RecipeCache().load(other) is None


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_file_that_others_can_write(stored: Path, mode: int) -> None:
    stored.chmod(mode)
    assert load() is None


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_folder_that_others_can_write(stored: Path, mode: int) -> None:
    stored.parent.chmod(mode)
    assert load() is None
    assert not RecipeCache().has_any()
    RecipeCache().store(LIBC[::-1], RECIPE)
    assert list(stored.parent.iterdir()) == [stored]


def test_symbolic_link_to_a_file(stored: Path) -> None:
    elsewhere = stored.rename(stored.parents[3] / "elsewhere")
    stored.symlink_to(elsewhere)
    assert load() is None
    RecipeCache().store(LIBC, b"another")
    assert load() == b"another"
    assert not stored.is_symlink()
    assert RECIPE in elsewhere.read_bytes()


def test_symbolic_link_to_a_folder(stored: Path) -> None:
    elsewhere = stored.parent.rename(stored.parents[3] / "elsewhere")
    stored.parent.symlink_to(elsewhere)
    assert load() is None
    RecipeCache().store(LIBC[::-1], RECIPE)
    assert len(list(elsewhere.iterdir())) == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_something_that_is_no_file(stored: Path, make: Callable[[Path, int], None]) -> None:
    stored.unlink()
    make(stored, 0o700)
    assert load() is None


def test_home_that_others_can_write(home: Path) -> None:
    home.chmod(0o775)  # as with a umask of 002
    RecipeCache().store(LIBC, RECIPE)
    assert load() == RECIPE


@needs_root
@pytest.mark.parametrize("what", ["file", "folder"])
def test_somebody_elses(stored: Path, what: str) -> None:
    os.chown(stored if what == "file" else stored.parent, 65534, 65534)
    assert load() is None


@needs_root
def test_somebody_elses_home_is_left_alone(home: Path) -> None:
    os.chown(home, 65534, 65534)
    RecipeCache().store(LIBC, RECIPE)
    assert list(home.iterdir()) == []


def test_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/self/fdinfo")  # nothing can be made there, not even by root
    RecipeCache().store(LIBC, RECIPE)
    assert load() is None
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    RecipeCache().store(LIBC, RECIPE)
    assert load() is None


def test_unused_is_removed(stored: Path) -> None:
    old = stored.with_name("0123-4567")
    left = stored.with_name(f".{stored.name}.89ab")
    recent = stored.with_name("cdef-0123")
    for path, age_s in ((old, MONTH_S), (left, MONTH_S), (recent, MONTH_S / 2)):
        path.touch()
        os.utime(path, (0, path.stat().st_mtime - age_s))
    RecipeCache().store(LIBC, RECIPE)
    assert set(stored.parent.iterdir()) == {stored, recent}


def test_used_is_kept(stored: Path) -> None:
    os.utime(stored, (0, stored.stat().st_mtime - MONTH_S))
    assert load() == RECIPE
    RecipeCache().store(LIBC[::-1], RECIPE)
    assert load() == RECIPE
