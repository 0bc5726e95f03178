"""Keeping a process out of the sight of others. Imports nothing, so that it can come before what takes time."""

from __future__ import annotations

_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Keeps others of the same user out of this process and what it leads to, from here on and in its children."""
    import ctypes
    import os

    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_DUMPABLE, *(ctypes.c_ulong(0),) * 4):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
