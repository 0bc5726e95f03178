"""Where the layer is: the C library that runs inside the user's program, and the script that puts its hooks in.

The library is compiled from `layer/native` by `hatch_build.py`; `installer.js` is run by Frida in each process and
walks the table that the library exports. Nothing here runs either of them: see `mirror.cli.inject`.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = "libmirror_layer.so"


class LayerMissing(Exception):
    """There is no library for this machine; the text is one sentence with a remedy."""


def target() -> str:
    """The name of this machine's build of the library: `x86_64-linux-gnu` and the like."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    libc = "gnu" if platform.libc_ver()[0] == "glibc" else "musl"
    return f"{machine}-linux-{libc}"


def library_path() -> Path:
    """The library for programs of this machine: absolute, without symbolic links.

    Raises:
        LayerMissing: it was not compiled, or there is no layer for this kind of machine.
    """
    path = FOLDER / "lib" / target() / LIBRARY
    if not path.is_file():
        raise LayerMissing(
            f"the layer for {target()} is missing at {path}: install mirror again, or in a checkout run "
            "`python hatch_build.py --native`"
        )
    return path


@cache
def installer_script() -> str:
    """The JavaScript that installs the hooks in a process that has the library loaded.

    It sends one message: `{installed: int, absent: [symbol, ...], failed: [{symbol, reason}, ...]}`.
    """
    return (FOLDER / "installer.js").read_text()
