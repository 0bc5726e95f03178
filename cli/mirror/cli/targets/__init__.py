"""Finds, or makes, a process of this machine that the program should seem to run beside, a module for each way.

A target is named `KIND/NAME`, or `demo`; those of a cluster are read by `cluster.reference`. Whatever the kind, the
result is the id of a process on this machine, and an agent can be started for that. What the agent then does there is
not this package's affair.

Nothing here is asynchronous: the proxy calls it in a thread, before it has imported what it needs itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from mirror.cli.errors import EXIT_USAGE, TargetError

_KINDS = "in a cluster pod/NAME, deployment/NAME or the like, on this machine container/NAME, pid/N or demo"


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Target:
    """A target that is there.

    Attributes:
        pid: Its process.
        close: To be called in the end: removes what was made for it. May take half a second.
    """

    pid: int
    close: Callable[[], None] = _nothing


def parse(target: str) -> tuple[str, str]:
    """Splits a target into its kind and its name (empty for `demo`).

    Raises:
        TargetError: There is no such kind of target.
    """
    kind, _, name = target.partition("/")
    if (kind == "demo" and not name) or (kind in ("pid", "container") and name):
        return kind, name
    raise TargetError(f"{target!r} is no target: use {_KINDS}", EXIT_USAGE)


def find_at_once(target: str) -> int | None:
    """The process id, where the name says it; whether there is such a process is seen by `open_target`."""
    kind, _, name = target.partition("/")
    return int(name) if kind == "pid" and name.isascii() and name.isdecimal() else None


def open_target(target: str, variables: Mapping[str, str]) -> Target:
    """Finds or makes the process. Blocks, in the case of a container for as long as its engine takes.

    Args:
        target: `demo`, `pid/N` or `container/NAME`.
        variables: The user's environment, for the container engine's commands.

    Raises:
        TargetError: There is no such target, or it cannot be made or entered.
    """
    kind, name = parse(target)
    if kind == "demo":
        from mirror.cli.targets.demo.sandbox import Sandbox

        sandbox = Sandbox()
        return Target(sandbox.pid, sandbox.close)

    from mirror.cli.targets import process

    if kind == "pid":
        if not name.isascii() or not name.isdecimal():
            raise TargetError(f"{target!r} is no target: after pid/ comes a number, as `ps` shows it", EXIT_USAGE)
        pid = int(name)
    else:
        from mirror.cli.targets import container

        pid = container.find(name, variables)
    process.check(pid)
    return Target(pid)
