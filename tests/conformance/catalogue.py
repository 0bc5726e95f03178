"""The programs of the conformance tests: where they are, how each is started, and what `mirror exec` is told.

A program prints facts that are the same at each run: no process ids, no times of its own start, no ephemeral ports.
To add one, put a file into `programs/`: C (a function `program`, see program.h), Python, Node or shell.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
STEALING = ("accept_connections.c", "asyncio_network.py", "http_server.py", "server.js")
"""Those to which connections come."""


@dataclass(frozen=True)
class Program:
    """One program.

    Attributes:
        name: Its file's name.
        options: What `mirror exec` is told besides the target.
        plain: The command that runs it.
        ways: Commands that run it otherwise, by what they are called.
    """

    name: str
    options: tuple[str, ...]
    plain: tuple[str, ...]
    ways: dict[str, tuple[str, ...]]


def names() -> list[str]:
    """The file names of all programs."""
    found = [*PROGRAMS.glob("c/*.c"), *PROGRAMS.glob("python/*.py"), *PROGRAMS.glob("node/*.js")]
    found += PROGRAMS.glob("shell/*.sh")
    return sorted(path.name for path in found if path.name not in ("program.c", "run.py"))


def program(name: str, folder: Path, python: str) -> Program:
    """How to run a program.

    Args:
        name: One of `names()`.
        folder: Where `prepare` has put everything.
        python: The interpreter for those in Python.
    """
    kind = Path(name).suffix
    plain: tuple[str, ...]
    ways: dict[str, tuple[str, ...]] = {}
    if kind == ".c":
        binary = str(folder / "c" / Path(name).stem)
        plain = (binary, "plain")
        for way in ("thread", "fork", "fork-thread"):
            ways[way] = (binary, way)
    elif kind == ".py":
        plain = (python, str(folder / "python" / name))
        for way in ("thread", "fork"):
            ways[way] = (python, str(folder / "python/run.py"), way, plain[1])
    elif kind == ".js":
        plain = (shutil.which("node") or "node", str(folder / "node" / name))
    else:
        plain = ("/bin/sh", str(folder / "shell" / name))
    ways["child"] = plain
    ways["exec"] = ("/bin/sh", "-c", 'exec "$@"', "sh", *plain)
    return Program(name, ("--steal",) if name in STEALING else ("--no-incoming",), plain, ways)


def prepare(folder: Path) -> None:
    """Copies the programs into an empty folder, those in C compiled."""
    for kind in ("python", "node", "shell"):
        shutil.copytree(PROGRAMS / kind, folder / kind)
    (folder / "c").mkdir()
    shared = PROGRAMS / "c/program.c"
    for source in sorted((PROGRAMS / "c").glob("*.c")):
        if source != shared:
            shutil.copy(compiled(source, shared, depends=(PROGRAMS / "c/program.h",)), folder / "c" / source.stem)


def compiled(*sources: Path, depends: Sequence[Path] = ()) -> Path:
    """A program made from C sources, kept in the user's cache, outside the checkout."""
    compiler = [shutil.which("gcc") or ""]
    if not compiler[0]:
        compiler = [sys.executable, "-m", "ziglang", "cc"]
    command = [*compiler, "-std=gnu11", "-O1", "-Wno-unused-result", "-Wno-deprecated-declarations", "-pthread"]
    digest = hashlib.sha256(repr(command).encode())
    for source in (*sources, *depends):
        digest.update(source.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    binary = base / "mirror" / "programs" / digest.hexdigest()[:16] / sources[0].stem
    if not binary.exists():
        binary.parent.mkdir(parents=True, exist_ok=True)
        unfinished = binary.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", str(unfinished), *map(str, sources)], check=True)
        unfinished.rename(binary)
    return binary
