"""The pod's root file system: the machine's programs and libraries, and everything else its own.

It is made of a tmpfs, of bind mounts (read-only) and of the files that `scene` lists. Below /data are the kinds of
files that programs stumble over: links of every sort, odd permissions and times, names that are hard to quote, a
large file. Nothing of it exists on the user's machine outside the sandbox.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from pathlib import Path

from mirror.cli.targets.demo import scene
from mirror.cli.targets.demo.namespaces import (
    CLONE_NEWNS,
    MS_NODEV,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    bind,
    change_root,
    mount,
    unshare,
)

PROGRAMS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

LARGE_FILE_BYTES = 3_000_000
HUGE_FILE_BYTES = 1 << 40
"""A sparse file; nobody should try to read all of it."""
MODIFIED_NS = 1_709_210_096_123_456_789
"""2024-02-29 12:34:56.123456789 UTC, of the files below /data that have no other time."""


def enter(shared: Iterable[str]) -> None:
    """Moves this process into a mount namespace with the pod's root file system.

    Args:
        shared: Absolute paths of directories of this machine, to be seen at the same paths, read-only.
    """
    unshare(CLONE_NEWNS)
    mount("none", Path("/"), flags=MS_REC | MS_PRIVATE)
    root = Path("/sys")  # covered while the new root is built there: nothing below it is needed from outside
    mount("pod", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    _machine(root, shared)
    _etc(root / "etc")
    _config_and_secrets(root)
    (root / "data").mkdir()
    fill_data(root / "data")
    change_root(root)


def _machine(root: Path, shared: Iterable[str]) -> None:
    """What any program needs: programs, libraries, devices, /proc, /tmp."""
    for name in PROGRAMS:
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(source.readlink())
        elif source.is_dir():
            (root / name).mkdir()
            bind(str(source), root / name)
    (root / "dev").mkdir()
    for name in DEVICES:
        if Path("/dev", name).exists():
            (root / "dev" / name).touch()
            bind(f"/dev/{name}", root / "dev" / name, read_only=False)
    for name, link in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (root / "dev" / name).symlink_to(f"/proc/self/{link}")
    for name in ("sys", "home", "opt", "srv", "var", "run", "app", "dev/shm", "tmp", "var/tmp"):
        (root / name).mkdir()
    for name in ("dev/shm", "tmp", "var/tmp"):
        (root / name).chmod(0o1777)
    (root / "proc").mkdir()
    try:
        mount("proc", root / "proc", "proc")
    except PermissionError:
        # In a container parts of /proc are covered, and a new one would uncover them: user_namespaces(7).
        bind("/proc", root / "proc", read_only=False)
    for path in shared:
        place = root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        bind(path, place)


def _etc(etc: Path) -> None:
    etc.mkdir()
    for name, text in scene.ETC.items():
        (etc / name).write_text(text)
    (etc / "mtab").symlink_to("/proc/self/mounts")
    for name in scene.ETC_OF_THIS_MACHINE:
        source = Path("/etc", name)
        if source.is_symlink():
            (etc / name).symlink_to(source.readlink())
        elif source.is_dir():
            (etc / name).mkdir()
            bind(str(source), etc / name)
        elif source.is_file():
            (etc / name).touch()
            bind(str(source), etc / name)


def _config_and_secrets(root: Path) -> None:
    config = root / "app/config"
    (config / scene.CONFIG_VERSION).mkdir(parents=True)
    (config / "..data").symlink_to(scene.CONFIG_VERSION)
    for name, text in scene.CONFIG.items():
        (config / scene.CONFIG_VERSION / name).write_text(text)
        (config / name).symlink_to(f"..data/{name}")
    secrets = root / scene.SECRETS.lstrip("/")
    secrets.mkdir(parents=True)
    for name, text in scene.SECRET_FILES.items():
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o640)


def fill_data(data: Path) -> None:
    """Makes in an empty directory what is below /data."""
    _data_content(data)
    _data_links(data / "links")
    _data_names(data / "names")
    _data_permissions(data / "permissions")
    for folder, _, names in os.walk(data, topdown=False):
        for name in (*names, "."):
            path = Path(folder, name)
            if path.name != "old.txt":
                os.utime(path, ns=(MODIFIED_NS, MODIFIED_NS), follow_symlinks=False)


def _data_content(data: Path) -> None:
    (data / "hello.txt").write_text("Hello from the pod.\n")
    (data / "empty").touch()
    (data / "kilobyte.bin").write_bytes(bytes(number % 251 for number in range(1024)))
    period = b"".join(number.to_bytes(4, "big") for number in range(7919))
    (data / "large.bin").write_bytes((period * (LARGE_FILE_BYTES // len(period) + 1))[:LARGE_FILE_BYTES])
    with open(data / "huge.bin", "wb") as huge:
        huge.truncate(HUGE_FILE_BYTES)
    (data / "lines.csv").write_text("".join(f"{number},item {number},{number * 7 % 100}\n" for number in range(500)))
    (data / "old.txt").write_text("from before the epoch's first second was over\n")
    os.utime(data / "old.txt", ns=(1, 999_999_999))
    hundred = data / "hundred"
    hundred.mkdir()
    for number in range(100):
        (hundred / f"{number:03}.txt").write_text(f"{number}\n" * (number + 1))
    deep = data / "deep" / "/".join(f"level{number}" for number in range(12))
    deep.mkdir(parents=True)
    (deep / "bottom.txt").write_text("you found it\n")
    (data / "bare").mkdir()
    os.mkfifo(data / "fifo")
    (data / "fifo").chmod(0o620)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(data / "socket"))
    (data / "hard.txt").hardlink_to(data / "hello.txt")


def _data_links(links: Path) -> None:
    links.mkdir()
    for name, target in {
        "relative": "../hello.txt",
        "absolute": "/data/hello.txt",
        "to-directory": "../hundred",
        "to-link": "relative",
        "over-root": "../../../../../../data/hello.txt",
        "absolute-config": "/app/config/orders.ini",
        "dangling": "nowhere/to-be-found",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "long": "./" * 900 + "relative",
    }.items():
        (links / name).symlink_to(target)


def _data_names(names: Path) -> None:
    names.mkdir()
    for name in (b"with space", b"with\nnewline", "käse-Ω-名".encode(), b"not-utf8-\xff\xfe", b"-rf", b".hidden",
                 b"*", b"UPPER", b"n" * 255, b"tab\there", b'quote"\'`$(x)'):  # fmt: skip
        with open(os.path.join(os.fsencode(names), name), "wb") as file:
            file.write(name)


def _data_permissions(permissions: Path) -> None:
    permissions.mkdir()
    for mode in (0o000, 0o200, 0o400, 0o444, 0o600, 0o640, 0o755, 0o4755, 0o2755, 0o1644):
        path = permissions / f"file-{mode:04o}"
        path.write_text("#!/bin/sh\necho ran\n")
        path.chmod(mode)
    for mode in (0o000, 0o111, 0o444, 0o555, 0o700, 0o1777, 0o2775):
        path = permissions / f"directory-{mode:04o}"
        path.mkdir()
        (path / "inner.txt").write_text("inner\n")
        os.utime(path / "inner.txt", ns=(MODIFIED_NS, MODIFIED_NS))
        path.chmod(mode)
