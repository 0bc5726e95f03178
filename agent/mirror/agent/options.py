"""The agent's command line: text in, values out.

Without argparse, which would take 10 ms of every session's start.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from mirror.protocol.features import FEATURES

USAGE = """\
usage: python -m mirror.agent --pid N --fd FD
       python -m mirror.agent --listen PORT (--container ID | --pid N | --targetless) [OPTION ...]
  --pid N        the process to stand in for; with -, its number is read from standard input
  --container ID the container to stand in for, found in /proc of its machine (hostPID)
  --targetless   stand in for the agent's own container
  --fd FD        serve the client at the other end of this connected socket, then end
  --listen PORT  serve all clients that connect to this port of 127.0.0.1; 0: any free port
  --grace S      end so many seconds after the last client has gone (5)
  --first-client-within S
                 end if nobody has come after so many seconds (60)
  --identity FILE
                 make a key, put it into this file, and serve by TLS only who has it
  --direct       with --listen and --identity: on all addresses instead of 127.0.0.1
  --features LIST
                 all that it shall do, of environment,files,names,outgoing,incoming
  --keep-from ADDRESS,...
                 leave connections from these callers to the target, whoever steals the port"""

FROM_INPUT = "-"


@dataclass(frozen=True)
class Options:
    """What the agent is to do. Of `pid`, `container` and `is_targetless` one is set, and so of `fd` and `port`."""

    pid: str = ""
    """A decimal number, or FROM_INPUT."""
    container: str = ""
    is_targetless: bool = False
    fd: int | None = None
    port: int | None = None
    grace_s: float = 5.0
    first_client_within_s: float = 60.0
    identity: str = ""
    """Where to put the secret that clients must have; empty: there is none."""
    is_direct: bool = False
    features: frozenset[str] = frozenset(FEATURES)
    keep_from: tuple[bytes, ...] = ()
    """4 or 16 bytes each."""


def parse(arguments: Sequence[str]) -> Options:
    """What a command line says.

    Raises:
        ValueError: It is not understood: which part of it.
    """
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if name in given:
            raise ValueError(f"{name} is given twice")
        if name in _FLAGS:
            given[name] = ""
        elif name in _WITH_VALUE and rest:
            given[name] = rest.pop(0)
        else:
            raise ValueError("the arguments are not understood: " + " ".join(arguments))
    if len(given.keys() & {"--pid", "--container", "--targetless"}) != 1:
        raise ValueError("one of --pid, --container and --targetless says what to stand in for")
    if len(given.keys() & {"--fd", "--listen"}) != 1:
        raise ValueError("one of --fd and --listen says where clients come from")
    if "--identity" in given and "--listen" not in given:
        raise ValueError("--identity needs --listen")
    if "--direct" in given and "--identity" not in given:
        raise ValueError("--direct needs --identity, or anybody would be served")
    default = Options()
    return Options(
        pid=_pid(given["--pid"]) if "--pid" in given else "",
        container=_container(given["--container"]) if "--container" in given else "",
        is_targetless="--targetless" in given,
        fd=_number("--fd", given["--fd"]) if "--fd" in given else None,
        port=_port(given["--listen"]) if "--listen" in given else None,
        grace_s=_seconds("--grace", given.get("--grace"), default.grace_s),
        first_client_within_s=_seconds(
            "--first-client-within", given.get("--first-client-within"), default.first_client_within_s
        ),
        identity=given.get("--identity", ""),
        is_direct="--direct" in given,
        features=_features(given["--features"]) if "--features" in given else default.features,
        keep_from=_addresses(given.get("--keep-from", "")),
    )


_FLAGS = ("--targetless", "--direct")
_WITH_VALUE = (
    "--pid", "--container", "--fd", "--listen", "--grace", "--first-client-within", "--identity", "--features",
    "--keep-from",
)  # fmt: skip


def _pid(text: str) -> str:
    if text != FROM_INPUT:
        _number("--pid", text)
    return text


def _container(text: str) -> str:
    """A container's id, also as Kubernetes writes it in a pod's status: `containerd://ID`."""
    name = text.rpartition("://")[2]
    if not name or not all(character.isalnum() or character in "-_." for character in name):
        raise ValueError(f"--container takes a container's id, not {text!r}")
    return name


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{option} takes a number, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    port = _number("--listen", text)
    if port > 0xFFFF:
        raise ValueError(f"--listen takes a port, not {text!r}")
    return port


def _seconds(option: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= 1e9:
        raise ValueError(f"{option} takes seconds, not {text!r}")
    return seconds


def _features(text: str) -> frozenset[str]:
    features = frozenset(text.split(","))
    if unknown := features - set(FEATURES):
        raise ValueError(f"--features takes some of {','.join(FEATURES)}, not {min(unknown)!r}")
    return features


def _addresses(text: str) -> tuple[bytes, ...]:
    addresses: list[bytes] = []
    for one in filter(None, text.split(",")):
        try:
            addresses.append(socket.inet_pton(socket.AF_INET6 if ":" in one else socket.AF_INET, one))
        except OSError:
            raise ValueError(f"--keep-from takes IP addresses, not {one!r}") from None
    return tuple(addresses)
