"""Recipes of earlier sessions: ${XDG_CACHE_HOME:-~/.cache}/mirror/recipes, one file for each build of the C library.

Without it every session would start Frida, for half a second of processor time and always the same result. A file is
named by all that the result depends on (the layer, its installer, Frida, the C library), so none is ever out of date;
one that has not been used for a month is removed.

A wrong recipe does no harm where it does not fit, but one that fits says which instructions the user's programs run.
So files count only in a folder and with an owner that nobody else can have written by, and with their own checksum.
Whatever is amiss with the cache, sessions work without it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from mirror.layer import LayerMissing, installer_script, library_path

MOST_BYTES = 1 << 20
"""Of a file; a recipe has about 10 KiB."""
UNUSED_S = 30 * 24 * 3600.0
"""After that a file is removed."""
_DIGEST_BYTES = hashlib.sha256().digest_size
_USED_STEP_S = 24 * 3600.0
"""A file's use is noted once a day."""


class RecipeCache:
    """The user's recipes. No method raises anything."""

    @functools.cached_property
    def _key(self) -> str:
        """For all that a recipe depends on but the C library."""
        digest = hashlib.sha256()
        try:
            parts = [library_path().read_bytes(), installer_script().encode(), _identify_frida()]
        except (LayerMissing, OSError):
            parts = []  # then there are no sessions
        for part in parts:
            digest.update(b"%d:%b" % (len(part), part))
        return digest.hexdigest()[:32]

    def has_any(self) -> bool:
        """Whether there is a recipe for some C library."""
        try:
            with _opened(make=False) as folder_fd:
                return any(name.startswith(self._key) for name in os.listdir(folder_fd))
        except OSError:
            return False

    def load(self, libc: bytes) -> bytes | None:
        """The recipe for a C library; None: there is none that can be trusted.

        Args:
            libc: Its build id.
        """
        name = self._name(libc)
        try:
            with _opened(make=False) as folder_fd:
                content = _read(folder_fd, name)
        except OSError:
            return None
        recipe = content[_DIGEST_BYTES:]
        return recipe if recipe and content[:_DIGEST_BYTES] == _checksum(name, recipe) else None

    def store(self, libc: bytes, recipe: bytes) -> None:
        """Keeps a recipe, which must not be empty, if that is possible."""
        assert recipe
        name = self._name(libc)
        with contextlib.suppress(OSError), _opened(make=True) as folder_fd:
            _write(folder_fd, name, _checksum(name, recipe) + recipe)
            _tidy(folder_fd)

    def _name(self, libc: bytes) -> str:
        return f"{self._key}-{libc.hex()}"


def _folder() -> Path:
    # The XDG Base Directory Specification: a path that is not absolute counts as none.
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path("~/.cache").expanduser()) / "mirror" / "recipes"


def _identify_frida() -> bytes:
    """Which Frida is installed; without importing it, which takes a quarter of a second."""
    spec = importlib.util.find_spec("frida")
    if spec is None or spec.origin is None:
        return b""
    module = Path(spec.origin)
    installed = sorted(name for name in os.listdir(module.parents[1]) if name.startswith("frida-"))
    status = module.stat()
    return repr((installed, status.st_size, status.st_mtime_ns)).encode()


def _checksum(name: str, recipe: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + recipe).digest()


@contextlib.contextmanager
def _opened(*, make: bool) -> Iterator[int]:
    """The folder's descriptor.

    Raises:
        OSError: It is not there and cannot be made, or not only its user can write there.
    """
    folder = _folder()
    if make:
        _make(folder)
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check_private(os.fstat(folder_fd))
        yield folder_fd
    finally:
        os.close(folder_fd)


def _make(folder: Path) -> None:
    """Makes the folder in a place of the user's own: with `sudo`, a home is often somebody else's."""
    missing = [folder, *folder.parents]
    existing = next(place for place in missing if place.is_dir())
    if existing != folder:
        if existing.stat().st_uid != os.geteuid():
            raise PermissionError("it belongs to somebody else")
        for place in reversed(missing[: missing.index(existing)]):
            with contextlib.suppress(FileExistsError):
                place.mkdir(mode=0o700)


def _check_private(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError("somebody else can write there")


def _read(folder_fd: int, name: str) -> bytes:
    # O_NONBLOCK: it could be a FIFO.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(name, flags, dir_fd=folder_fd), "rb") as file:
        status = os.fstat(file.fileno())
        _check_private(status)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST_BYTES:
            raise OSError("no file of ours")
        if time.time() - status.st_mtime > _USED_STEP_S:
            os.utime(file.fileno())
        return file.read(MOST_BYTES)


def _write(folder_fd: int, name: str, content: bytes) -> None:
    temporary = f".{name}.{secrets.token_hex(4)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600, dir_fd=folder_fd), "wb") as file:
            file.write(content)
        os.replace(temporary, name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder_fd)
        raise


def _tidy(folder_fd: int) -> None:
    """Removes what has not been used for long: of other versions, or left by a process that died while it wrote."""
    for name in os.listdir(folder_fd):
        with contextlib.suppress(OSError):
            if time.time() - os.stat(name, dir_fd=folder_fd, follow_symlinks=False).st_mtime > UNUSED_S:
                os.unlink(name, dir_fd=folder_fd)
