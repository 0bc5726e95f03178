"""The environment of the target's process, as its kernel keeps it."""

from __future__ import annotations

import errno
import os

from mirror.agent.target import Target

_PART_BYTES = 1 << 16

_OWN_PREFIXES = (b"PYTHON", b"GPG_KEY=")
"""How variables begin that an image sets for the agent's interpreter (https://hub.docker.com/_/python sets both)."""


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


def read_environment(target: Target) -> tuple[bytes, ...]:
    """`NAME=value` each, in the process's order, exactly as it was started with.

    Blocks: the kernel may have to fetch pages of the process. What the process changed by itself since
    (setenv, a title written over its environment) is not what programs inherit; pieces without a `=` are such
    leftovers and are dropped. Of the agent's own environment, what its image sets for it is left out.

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
        variables = tuple(variable for variable in _read_from_start(fd).split(b"\0") if b"=" in variable)
        return tuple(filter(_is_the_pods, variables)) if target.is_own else variables
    finally:
        os.close(fd)


def _is_the_pods(variable: bytes) -> bool:
    return not variable.startswith(_OWN_PREFIXES)


def _read_from_start(fd: int) -> bytes:
    content = bytearray()
    while part := os.pread(fd, _PART_BYTES, len(content)):
        content += part
    return bytes(content)
