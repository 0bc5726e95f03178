"""What of the user's machine the path rules must know. Reads the user's variables and follows links; see `rules`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from mirror.cli.environment import TOOLCHAIN_HOMES
from mirror.cli.proxy.rules import Surroundings

_INTERPRETERS = re.compile(
    r"(python|pypy|ruby|node|nodejs|bun|deno|perl|php|lua|java|bash|dash|ksh|zsh|sh|tclsh"
    r"|gdb|lldb|rr|strace|ltrace|valgrind|perf|env|nice|nohup|setsid|stdbuf|time|timeout)[\d.]*"
)
"""Interpreters, debuggers and what else starts programs: their first argument that is a file is the user's own code."""


def look_around(
    working_directory: str, files: Sequence[str], argv: Sequence[str], variables: Mapping[str, str]
) -> Surroundings:
    """Describes the user's surroundings.

    Args:
        working_directory: Absolute; of the program.
        files: `Program.files`: the script if it is one, and what runs it.
        argv: The program's arguments, its name first.
        variables: The user's environment, not the target's.
    """
    absolute = [os.path.join(working_directory, file) for file in files]
    return Surroundings(
        home=variables.get("HOME", ""),
        working_directories=_by_each_name([working_directory, variables.get("PWD", "")]),
        programs=_by_each_name(absolute),
        scripts=_by_each_name(_script_folders(working_directory, absolute, argv)),
        temporary=_by_each_name(variables.get(name, "") for name in ("TMPDIR", "TMP", "TEMP")),
        toolchains=_by_each_name(
            path for name in TOOLCHAIN_HOMES for path in variables.get(name, "").split(":") if name in variables
        ),
        search_path=_by_each_name(variables.get("PATH", "").split(":")),
    )


def _by_each_name(paths: Iterable[str]) -> tuple[str, ...]:
    """Each absolute path, and where it really is if that is somewhere else."""
    names = dict.fromkeys(name for path in paths if path.startswith("/") for name in (path, os.path.realpath(path)))
    return tuple(names)


def _script_folders(working_directory: str, files: Sequence[str], argv: Sequence[str]) -> Iterable[str]:
    """Where the code is that an interpreter is given: of the script itself, or of its first file argument."""
    yield from (os.path.dirname(file) for file in files[:-1])
    if _INTERPRETERS.fullmatch(os.path.basename(files[-1])) is None:
        return
    for argument in argv[1:]:
        path = os.path.join(working_directory, argument)
        if not argument.startswith("-") and os.path.isfile(path):
            yield os.path.dirname(path)
            return
