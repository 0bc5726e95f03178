"""Finds the program to run and says beforehand whether it can be hooked.

The hooks replace functions of libc in the program's memory, put there by a library that the dynamic linker
loads. So a program must be dynamically linked, to the libc that the library is built for, for this machine's
architecture, and must not run with more rights than the user has (the dynamic linker then ignores
`LD_PRELOAD`). All that can be read from the file before anything is started. Reads files; runs nothing.

For scripts it is the interpreter that counts. What a program starts later is the layer's affair.
Sources: elf(5), execve(2), ld.so(8) "secure-execution mode".
"""

from __future__ import annotations

import dataclasses
import errno
import os
import platform
import re
import stat
import sys

from mirror.cli import elf
from mirror.cli.errors import EXIT_CANNOT_RUN, EXIT_NOT_FOUND, MirrorError

_DEFAULT_PATH = "/bin:/usr/bin"
"""What execvp(3) of glibc searches where PATH is not set."""
_DEEPEST_SCRIPTS = 4
"""An interpreter may itself be a script; Linux gives up (ELOOP) beyond five."""
_SHEBANG_BYTES = 256
"""BINPRM_BUF_SIZE of Linux 5.1 and later."""
_INSTALL_IT = "install it on this machine (the program itself is never taken from the target)"
_MACHINES = {"x86_64": 62, "aarch64": 183}
"""`e_machine` by what uname(2) says."""


@dataclasses.dataclass(frozen=True)
class Program:
    """What execve(2) is to be given.

    Attributes:
        path: The file to execute. Of a script without `#!`, the shell, as for execvp(3).
        argv: The program's arguments, the name it was called by first.
        files: `path`, and for a script each interpreter in turn; the last one is the ELF file that will run.
    """

    path: str
    argv: tuple[str, ...]
    files: tuple[str, ...]


def find(command: tuple[str, ...], search_path: str | None) -> Program:
    """Finds what the user asked to run and checks that it can be hooked.

    Args:
        command: The program and its arguments, as on the command line; not empty.
        search_path: The user's PATH; None where it is not set.

    Raises:
        MirrorError: There is no such program, it cannot be run, or it cannot be hooked.
    """
    path = _look_up(command[0], search_path)
    files = [path]
    argv = command
    head = _read_head(path, command[0])
    if not head.startswith((b"\x7fELF", b"#!")):
        # execvp(3): what the kernel cannot execute (ENOEXEC) is given to the shell.
        argv = ("/bin/sh", path, *command[1:])
        path = "/bin/sh"
        files = [path]
        head = _read_head(path, path)
    while head.startswith(b"#!"):
        if len(files) > _DEEPEST_SCRIPTS:
            raise MirrorError(
                f"{command[0]}: too many interpreters of interpreters; run it by the last of them", EXIT_CANNOT_RUN
            )
        files.append(_interpreter(files[-1], head, search_path))
        head = _read_head(files[-1], files[-1])
    _check_rights(files[-1])
    _check_elf(files[-1])
    return Program(path, argv, tuple(files))


def _look_up(name: str, search_path: str | None) -> str:
    """Follows execvp(3): a name with a slash is a path; else the first executable file in PATH."""
    if not name:
        raise MirrorError("there is no program to run: its name is empty", EXIT_NOT_FOUND)
    if "/" in name:
        _check_executable(name, name)
        return name
    refused = None
    for directory in (_DEFAULT_PATH if search_path is None else search_path).split(":"):
        candidate = os.path.join(directory or ".", name)
        try:
            _check_executable(candidate, name)
        except MirrorError as error:
            if error.exit_status != EXIT_NOT_FOUND:
                refused = refused or error
            continue
        return candidate
    raise refused or MirrorError(
        f"{name}: not found in PATH; give its path, or {_INSTALL_IT}",
        EXIT_NOT_FOUND,
    )


def _check_executable(path: str, name: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            sentence = f"{name}: {error.strerror}; correct the path, or {_INSTALL_IT}"
            raise MirrorError(sentence, EXIT_NOT_FOUND) from None
        sentence = f"{name}: {error.strerror} on this machine; choose a program that you may run"
        raise MirrorError(sentence, EXIT_CANNOT_RUN) from None
    if stat.S_ISDIR(mode):
        raise MirrorError(f"{name}: is a directory, not a program; choose one in it", EXIT_CANNOT_RUN)
    if not stat.S_ISREG(mode) or not os.access(path, os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise MirrorError(f"{name}: may not be executed; `chmod +x` it, or run it by its interpreter", EXIT_CANNOT_RUN)


def _read_head(path: str, name: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_SHEBANG_BYTES)
    except OSError as error:
        raise MirrorError(
            f"{name}: cannot be read ({error.strerror}), and a program that its user may only execute cannot be "
            f"hooked; make it readable",
            EXIT_CANNOT_RUN,
        ) from None


def _interpreter(script: str, head: bytes, search_path: str | None) -> str:
    """Which program the `#!` line names. `/usr/bin/env NAME` counts as NAME, since that is what runs."""
    line = head[2:].partition(b"\n")[0].strip(b" \t")
    words = re.split("[ \t]+", os.fsdecode(line), maxsplit=1)
    if not words[0]:
        raise MirrorError(f"{script}: its first line `#!` names no interpreter; name one there", EXIT_CANNOT_RUN)
    path = words[0]
    try:
        _check_executable(path, path)
    except MirrorError as error:
        sentence = f"{script}: bad interpreter: {error.sentence}"
        if line.endswith(b"\r"):
            sentence = f"{script}: its first line ends in CR LF, so it names no interpreter; convert it with dos2unix"
        raise MirrorError(sentence, error.exit_status) from None
    if os.path.basename(path) != "env" or len(words) == 1:
        return path
    for word in words[1].split():
        if word == "-S" or "=" in word:
            continue
        return path if word.startswith("-") else _look_up(word, search_path)
    return path


def _check_rights(path: str) -> None:
    """Refuses what the dynamic linker would run without LD_PRELOAD."""
    user, group = os.getuid(), os.getgid()
    state = os.stat(path)
    gains_rights = (
        (bool(state.st_mode & stat.S_ISUID) and state.st_uid != user)
        or (state.st_mode & (stat.S_ISGID | stat.S_IXGRP) == stat.S_ISGID | stat.S_IXGRP and state.st_gid != group)
        or (user != 0 and _has_capabilities(path))
    )
    if gains_rights and not os.statvfs(path).f_flag & os.ST_NOSUID:
        raise MirrorError(
            f"{path}: runs with other rights than yours (setuid, setgid or file capabilities), so the system does "
            f"not let it be hooked; run a copy without them, or `mirror` itself with those rights",
            EXIT_CANNOT_RUN,
        )


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _own() -> elf.Elf | None:
    """This interpreter: of the libc for which mirror's libraries were installed."""
    with open(sys.executable, "rb") as file:
        return elf.read(file)


def _is_musl(program: elf.Elf | None) -> bool:
    return program is not None and program.linker is not None and "ld-musl" in program.linker


def _check_elf(path: str) -> None:
    """Refuses what has another architecture, no dynamic linker or another libc, and Go programs."""
    with open(path, "rb") as file:
        program = elf.read(file)
    machine = platform.machine()
    if program is None:
        problem = "is neither a script nor a whole ELF file; build or install it again"
    elif program.machine != _MACHINES.get(machine):
        problem = f"is not a 64-bit {machine} program, and only those can be hooked here; use one built for {machine}"
    elif program.linker is None:
        problem = "is statically linked, so it cannot be hooked; build or install it dynamically linked"
    elif _is_musl(program) != _is_musl(_own()):
        libc, ours = ("musl", "glibc") if _is_musl(program) else ("glibc", "musl")
        problem = f"is linked to {libc}, and only programs linked to {ours} can be hooked here; use a build for {ours}"
    elif program.is_go:
        problem = "is a Go program, which makes system calls without libc, so it cannot be hooked; run it in the target"
    elif not os.path.exists(program.linker):
        problem = f"needs the dynamic linker {program.linker}, which this machine lacks; install the libc it belongs to"
    else:
        return
    raise MirrorError(f"{path}: {problem}", EXIT_CANNOT_RUN)
