"""Which paths are the target's and which the user's: the ordered table of a session. Pure.

A program in the target must find the target's files, but its code, its interpreter's libraries and the machine's
own devices must stay where they are: it runs on the user's machine. The table says which, first match wins; the
layer walks it for every path (`decide.c`), and each row's `reason` is what a user is told who asks why. The
defaults are those that users of such tools are used to, and beyond them whatever this user's own surroundings
name: where the program, its interpreter and their libraries are installed.

Paths are absolute, lexically normal bytes, compared without regard to ASCII case.
"""

from __future__ import annotations

import dataclasses
import os
import posixpath
from collections.abc import Iterable, Iterator

from mirror.protocol.messages import Rule

CREDENTIALS = (".config/gcloud", ".kube", ".azure")
"""In the user's home; absent, so that a client library in the program finds the target's identity, not the user's."""

IDENTITY = (
    ("exact", "/etc/resolv.conf"),
    ("exact", "/etc/hosts"),
    ("exact", "/etc/hostname"),
    ("prefix", "/etc/ssl/certs"),
    ("prefix", "/run/secrets"),
)
"""Where a program reads who and where it is and whom it may trust: read in the target, although in system places.

In most images /var/run, where Kubernetes mounts service accounts, is a link to /run: `realpath` leads there.
"""

SYSTEM_PLACES = (
    "/proc", "/sys", "/dev", "/run", "/selinux",
    "/usr", "/lib", "/lib32", "/lib64", "/libx32", "/bin", "/sbin", "/etc", "/opt", "/snap", "/nix",
    "/home", "/tmp", "/var/tmp", "/var/db/timezone/zoneinfo", "/Program Files",
)  # fmt: skip
"""The machine's own: the kernel's files, what is installed, users' homes, temporary files."""

CODE_SUFFIXES = (
    ".so", ".sh", ".rb", ".d", ".pyc", ".py", ".jar", ".class", ".js", ".mjs", ".cjs", ".pth", ".plist", "venv.cfg",
    ".pdb", ".dll", "jvm.cfg", "/package.json", ".tool-versions",
)  # fmt: skip
"""Endings of what a program's code consists of: the user wants to run the code that is being edited here."""

CODE_PARTS = (".so.", "/node_modules/", "/.yarnrc")
"""The same, within a path: versioned libraries, packages of Node, settings of yarn."""
CODE_ENDS = ("/node_modules",)

INSTALLED = ("lib", "lib64", "libexec", "share", "include", "bin", "sbin")
"""Folders beside a program's own `bin` that belong to its installation."""


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What the table must know of the user's machine. Empty paths, and `/`, make no rows.

    Attributes:
        home: The user's home.
        working_directories: The current directory by each of its names.
        programs: The executable, and the interpreters of a script, by each of their names.
        scripts: Folders of the scripts that the program is given to run.
        temporary: Folders for temporary files.
        toolchains: Folders that the user's variables name (`environment.TOOLCHAIN_HOMES`).
        search_path: The folders in PATH.
    """

    home: str = ""
    working_directories: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    temporary: tuple[str, ...] = ()
    toolchains: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()


def build(mode: str, around: Surroundings) -> tuple[Rule, ...]:
    """Makes the session's table.

    Args:
        mode: One of `settings.FS_MODES`.
        around: The user's surroundings.

    Returns:
        The rows in order. The last matches every path with every access.
    """
    if mode == "local":
        return (_row("any", "", "any", "local", "mode-local"),)
    rows = [_row("prefix", path, "any", "absent", "credentials") for path in _below(around.home, CREDENTIALS)]
    rows += [_row(match, path, "read", "remote", "identity") for match, path in IDENTITY]
    rows += _pruned(_local_rows(around))
    rows += _MODE_ROWS[mode]
    return tuple(rows)


def _row(match: str, pattern: str, access: str, verdict: str, reason: str) -> Rule:
    return Rule(match, os.fsencode(pattern), access, verdict, reason)


_MODE_ROWS = {
    "localwithoverrides": (_row("any", "", "any", "local", "mode-localwithoverrides"),),
    "read": (
        _row("any", "", "read", "remote", "mode-read"),
        _row("any", "", "write", "local", "mode-read"),
    ),
    "write": (
        _row("any", "", "read", "remote", "mode-write"),
        _row("any", "", "write", "read-only", "mode-write"),
    ),
}
"""What decides where nothing else did."""


def _local_rows(around: Surroundings) -> Iterator[Rule]:
    """The rows of one block, all `any` and `local`, so that their order means nothing but speed."""

    def places(reason: str, paths: Iterable[str]) -> Iterator[Rule]:
        for path in paths:
            normal = _normal(path)
            if normal not in ("", "/"):
                yield _row("prefix", normal, "any", "local", reason)

    yield from places("system", SYSTEM_PLACES)
    yield from places("working-directory", around.working_directories)
    yield from places("home", [around.home])
    yield _row("exact", "/", "any", "local", "root")
    yield from places("temporary", around.temporary)
    yield from places("toolchain", around.toolchains)
    yield from places("script-directory", around.scripts)
    for program in around.programs:
        yield _row("exact", _normal(program), "any", "local", "program")
    yield from places("installation", _installations(map(posixpath.dirname, around.programs)))
    yield from places("search-path", around.search_path)
    yield from places("installation", _installations(around.search_path))
    for path in _ways(
        (around.home, *around.working_directories, *around.scripts, *around.toolchains, *around.programs)
    ):
        yield _row("exact", path, "any", "local", "way")
    for suffix in (*CODE_SUFFIXES, *CODE_ENDS):
        yield _row("suffix", suffix, "any", "local", "code")
    for part in CODE_PARTS:
        yield _row("contains", part, "any", "local", "code")


def _installations(folders: Iterable[str]) -> Iterator[str]:
    """What is installed with the programs of a folder: of `/srv/node/bin`, `/srv/node/lib` and its like.

    Not `/srv/node` itself: of an `/app/bin` in PATH, `/app` may well be where the target has its files.
    """
    for folder in folders:
        prefix, name = posixpath.split(_normal(folder))
        if name in ("bin", "sbin", "libexec") and prefix != "/":
            yield from (posixpath.join(prefix, part) for part in INSTALLED)


def _ways(paths: Iterable[str]) -> Iterator[str]:
    """The folders above some that are local.

    Node's loader and `realpath` look at each of them in turn, and what is being run must be found. Only the folders
    themselves: what else is in them is decided as if they were not here.
    """
    for path in paths:
        folder = posixpath.dirname(_normal(path))
        while folder not in ("", "/"):
            yield folder
            folder = posixpath.dirname(folder)


def _below(folder: str, names: Iterable[str]) -> list[str]:
    normal = _normal(folder)
    return [f"{normal}/{name}" for name in names] if normal not in ("", "/") else []


def _normal(path: str) -> str:
    """Lexically normal; empty if it is not absolute."""
    return posixpath.normpath("/" + path.lstrip("/")) if path.startswith("/") else ""


def _pruned(block: Iterable[Rule]) -> list[Rule]:
    """Leaves out rows that another row of the same block covers: the layer pays for each on every path."""
    rows = list(dict.fromkeys(block))
    folders = {row.pattern.lower() for row in rows if row.match == "prefix"}

    def is_covered(row: Rule) -> bool:
        if row.match not in ("prefix", "exact"):
            return False
        path = row.pattern.lower()
        above = [path[:at] for at in range(1, len(path)) if path[at : at + 1] == b"/"]
        return any(folder in folders for folder in above) or (row.match == "exact" and path in folders)

    kept: dict[tuple[str, bytes], Rule] = {}
    for row in rows:
        if not is_covered(row):
            kept.setdefault((row.match, row.pattern.lower()), row)
    return list(kept.values())


def decide(rules: Iterable[Rule], path: bytes, access: str) -> Rule:
    """Finds the row that decides: what the layer does, for tests and for users who ask why.

    Args:
        rules: A table from `build`.
        path: Absolute and lexically normal.
        access: `read` or `write`.
    """
    lower = path.lower()
    for row in rules:
        pattern = row.pattern.lower()
        if row.access in (access, "any") and (
            row.match == "any"
            or (row.match == "exact" and lower == pattern)
            or (row.match == "prefix" and (lower == pattern or lower.startswith(pattern + b"/")))
            or (row.match == "suffix" and lower.endswith(pattern))
            or (row.match == "contains" and pattern in lower)
        ):
            return row
    raise LookupError("a table's last row matches everything")
