"""The environment of the target's process, as its kernel keeps it.

That is the memory of the process itself, and some write a title over it (setproctitle(3bsd); nginx, Redis and Ruby's
servers do). Then it is what the container's runtime has on `record`.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from mirror.agent import record
from mirror.agent.target import Target

_PART_BYTES = 1 << 16

_OWN_PREFIXES = (b"PYTHON", b"GPG_KEY=")
"""How variables begin that an image sets for the agent's interpreter (https://hub.docker.com/_/python sets both)."""


OVERWRITTEN = (
    "the target's process has written over its environment, as programs do that set a title, and mirror's agent cannot"
    " read how its container was started, so variables of the target are missing; set those that the program needs with"
    " --env"
)
"""The user's sentence where `Environment.is_whole` does not hold."""


@dataclass(frozen=True)
class Environment:
    """What a process was started with."""

    variables: tuple[bytes, ...]
    """`NAME=value` each, in the process's order."""
    is_whole: bool
    """Whether nothing of it is lost."""


def unavailable(target: Target) -> str | None:
    """Why the environment cannot be had: a sentence with a remedy; None: it can, or the process has ended."""
    try:
        read_environment(target)
    except PermissionError as error:
        return (
            f"the environment of process {target.pid} may not be read ({error.strerror});"
            " run mirror as that process's user or as root (CAP_SYS_PTRACE, CAP_DAC_OVERRIDE)"
        )
    except OSError:  # it has ended, which is told otherwise
        return None
    return None


def read_environment(target: Target) -> Environment:
    """Exactly what the process was started with.

    Blocks: the kernel may have to fetch pages of the process. What the process changed by itself since (setenv) is not
    what programs inherit. Of the agent's own environment, what its image sets for it is left out.

    Raises:
        OSError: The process has ended.
    """
    try:
        # Opened each time: a descriptor belongs to the program that the process ran then (proc_pid_environ(5)).
        fd = os.open(f"/proc/{target.pid}/environ", os.O_RDONLY)
    except OSError:
        if target.environment_fd is None:
            raise
        # Once in its user namespace we may be refused, where ids are not mapped.
        fd = os.dup(target.environment_fd)
    try:
        if target.has_ended:
            raise ProcessLookupError(errno.ESRCH, f"process {target.pid} has ended")
        found = parse(_read_from_start(fd))
    finally:
        os.close(fd)
    if target.is_own:
        return Environment(tuple(filter(_is_the_pods, found.variables)), is_whole=True)
    if not found.is_whole and (recorded := record.read_variables(target.pid)) is not None:
        return Environment(recorded, is_whole=True)
    return found


def parse(block: bytes) -> Environment:
    """Takes the memory apart that execve(2) filled with strings, each ended by a NUL.

    A title that is written over it begins in the memory of the arguments, before this one, so that the first piece is
    no variable; or what follows a shorter one is filled up with NULs. The piece after that may have lost its beginning.
    Other pieces that are no variables (getenv(3) does not find them) are left out.
    """
    *pieces, rest = block.split(b"\0")
    lost = [at for at, piece in enumerate(pieces) if not piece or (at == 0 and b"=" not in piece)]
    kept = pieces[lost[-1] + 2 :] if lost else pieces
    return Environment(tuple(piece for piece in kept if b"=" in piece), is_whole=not lost and not rest)


def _is_the_pods(variable: bytes) -> bool:
    return not variable.startswith(_OWN_PREFIXES)


def _read_from_start(fd: int) -> bytes:
    content = bytearray()
    while part := os.pread(fd, _PART_BYTES, len(content)):
        content += part
    return bytes(content)
