"""What processes look like from outside."""

from __future__ import annotations

import os
from pathlib import Path


def of_session(leader: int) -> set[int]:
    """The processes of a session in the sense of setsid(2)."""
    return {pid for pid in all_pids() if _status(pid)[3:4] == [str(leader)]}


def children(parent: int) -> set[int]:
    """Those that a process has started."""
    return {pid for pid in all_pids() if _status(pid)[1:2] == [str(parent)]}


def running_from(folder: Path) -> set[int]:
    """Those whose program is in a folder, or was."""
    return {pid for pid in all_pids() if _link(f"/proc/{pid}/exe").startswith(f"{folder}/")}


def has_frida(pid: int) -> bool:
    """Whether it has loaded Frida."""
    return b"_frida" in read(f"/proc/{pid}/maps")


def is_traced(pid: int) -> bool:
    """Whether somebody has attached to it."""
    return b"TracerPid:\t0\n" not in (read(f"/proc/{pid}/status") or b"TracerPid:\t0\n")


def all_pids() -> list[int]:
    """The processes of this machine."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _status(pid: int) -> list[str]:
    """State, parent, group and session; nothing for zombies, which nobody need end."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()[:4]
    return [] if fields[:1] == ["Z"] else fields


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def read(path: str) -> bytes:
    """A file of /proc; empty if it is gone."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
