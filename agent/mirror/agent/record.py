"""With which environment a container was started, as its runtime has it on record.

A process may write a title over the memory in which it was given its environment, and the kernel then tells what is
left there (`environment`). Runtimes keep the configuration of a container for as long as it runs, as `config.json` in
the folder of its bundle (https://github.com/opencontainers/runtime-spec/blob/main/config.md). That folder is found from
the process that watches the container, the parent of the container's first one:

- containerd's shim (containerd, Docker) works in the bundle's folder of one container, whose name is that container's
  id. A pod has one shim, and the bundles of its other containers are beside.
- conmon (CRI-O, podman), of which each container has its own, is told the folder by an argument.

Both are seen only by an agent that sees its machine's processes, and not where AppArmor keeps it from looking into
those that are outside of containers.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

import msgspec

_ID = re.compile(r"[0-9a-f]{64}")
_BUNDLE_OPTIONS = ("-b", "--bundle")
_FILE = "config.json"
_LARGEST_BYTES = 32 << 20
"""A container's environment has some 2 MiB at most, and each of its bytes six in JSON."""


def read_variables(pid: int, *, proc: str = "/proc") -> tuple[bytes, ...] | None:
    """`NAME=value` each, in their order; None if there is no record, or none that may be read.

    Args:
        pid: The first process of a container.
        proc: Where proc(5) is mounted.
    """
    with contextlib.suppress(OSError, ValueError):
        watcher = int(_read(f"{proc}/{pid}/stat").rpartition(b")")[2].split()[1])
        for folder in _bundles(pid, watcher, proc):
            with contextlib.suppress(OSError):
                return parse(_read(f"{folder}/{_FILE}"))
    return None


def parse(config: bytes) -> tuple[bytes, ...] | None:
    """The environment in a runtime's configuration of a container; None if it says nothing of one."""
    try:
        variables = msgspec.json.decode(config)["process"]["env"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return None
    return tuple(variable.encode() for variable in variables)


def _bundles(pid: int, watcher: int, proc: str) -> Iterator[str]:
    """Where the bundle of the container may be, seen from here."""
    if bundle := find_bundle(os.fsdecode(_read(f"{proc}/{watcher}/cmdline")).split("\0")):
        yield f"{proc}/{watcher}/root{bundle}"
    for container_id in _ID.findall(_read(f"{proc}/{pid}/cgroup").decode())[-1:]:
        yield f"{proc}/{watcher}/cwd/../{container_id}"


def find_bundle(arguments: Sequence[str]) -> str:
    """The folder that conmon's arguments name; empty if they are another program's."""
    if os.path.basename(arguments[0]) != "conmon":
        return ""
    return next((arguments[at + 1] for at, option in enumerate(arguments[:-1]) if option in _BUNDLE_OPTIONS), "")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_LARGEST_BYTES)
