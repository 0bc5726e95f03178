"""What `mirror exec` and the session's proxy tell each other until the program starts: one JSON object a line.

    mirror exec                         proxy
        Order              ──────▶
                           ◀──────      Progress ...
                           ◀──────      Ready  or  Refusal
        execve(), which closes the link

JSON from the standard library, since it is there in a few milliseconds in both. Strings carry arbitrary bytes by
`surrogateescape`, which JSON keeps. Nothing here does I/O.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from mirror.cli.settings import AgentSettings, Settings


@dataclasses.dataclass(frozen=True)
class Order:
    """What the session is to be."""

    settings: Settings
    pid: int
    """Of `mirror exec`, and so of the program."""
    files: tuple[str, ...]
    """`Program.files`."""
    argv: tuple[str, ...]
    """`Program.argv`."""
    working_directory: str
    """Absolute."""
    variables: dict[str, str]
    """The user's environment."""
    console: tuple[int, int, int] | None
    """`st_dev`, `st_ino` and `st_rdev` of the program's standard error; None if it has none."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Something that happened."""

    text: str
    is_warning: bool = False
    """The user should read it in any case."""
    stays: bool = False
    """On a terminal it is still to be read when the program runs."""


@dataclasses.dataclass(frozen=True)
class Ready:
    """The program may start."""

    target: tuple[str, ...]
    """The environment of the target's process, `NAME=value` each."""
    session: dict[str, str]
    """Variables that the layer needs."""
    library: str
    """The layer's library, for LD_PRELOAD."""


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The program must not start."""

    sentence: str
    exit_status: int


Said = Order | Progress | Ready | Refusal
_KINDS: dict[str, type[Said]] = {kind.__name__: kind for kind in (Order, Progress, Ready, Refusal)}


def encode(said: Said) -> bytes:
    """One line."""
    return json.dumps([type(said).__name__, dataclasses.asdict(said)]).encode() + b"\n"


def decode(line: bytes) -> Said:
    """Reads one line; it comes from the other side of a socket pair of our own, and is trusted."""
    name, fields = json.loads(line)
    if name == "Order":
        settings = _as_tuples(fields["settings"])
        settings["agent"] = AgentSettings(**_as_tuples(settings["agent"]))
        fields["settings"] = Settings(**settings)
    return _KINDS[name](**_as_tuples(fields))


def _as_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
