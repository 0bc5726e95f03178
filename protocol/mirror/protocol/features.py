"""What an agent can do for a session, and which Linux capabilities each of that takes.

Two sides read this table: whoever starts an agent asks for no more than the session needs, and the agent's tests show
that no row lacks anything and that none has too much. Pure: what is done with the capabilities is the agent's affair
(`mirror.agent.entry` for the worker, `mirror.agent.incoming` for traffic).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

FEATURES: Final = ("environment", "files", "names", "outgoing", "incoming")
"""In the order in which they are told to users; the same words as in `Welcome.capabilities`."""

_ENTER: Final = frozenset({"SYS_PTRACE"})
"""ptrace(2), "Ptrace access mode checking": links of /proc/PID of a process with other ids or more capabilities."""
_TAKE_IDS: Final = frozenset({"SETUID", "SETGID"})
_ENTER_NETWORK: Final = frozenset({"SYS_ADMIN"})
"""setns(2)."""

_NEEDED: Final = {
    # /proc/PID/environ belongs to the process's user and is readable for nobody else.
    "environment": _ENTER | {"DAC_OVERRIDE"},
    # A root in the target reads what belongs to others.
    "files": _ENTER | _TAKE_IDS | {"SYS_CHROOT", "DAC_OVERRIDE"},
    # resolv.conf and hosts are the target's, and so are its rights to read them.
    "names": _ENTER | _TAKE_IDS | _ENTER_NETWORK | {"SYS_CHROOT"},
    # Programs may bind what they connect from, also to ports below 1024.
    "outgoing": _ENTER | _TAKE_IDS | _ENTER_NETWORK | {"NET_BIND_SERVICE"},
    "incoming": _ENTER | _ENTER_NETWORK | {"NET_ADMIN"},
}
_IN_THE_POD: Final = _ENTER_NETWORK
"""What a container of the target's own pod does without: it shares the pod's network and host name."""
_NEEDED_TARGETLESS: Final = {"incoming": frozenset({"NET_ADMIN"})}
"""An agent that stands in for itself has nothing to enter."""


def linux_capabilities(
    features: Iterable[str], *, targetless: bool = False, in_the_pod: bool = False
) -> tuple[str, ...]:
    """What an agent for these features must be given when all else has been dropped.

    Args:
        features: Some of FEATURES.
        targetless: The agent stands in for its own container.
        in_the_pod: The agent is a container of the target's pod.

    Returns:
        Names without `CAP_`, sorted, as `securityContext.capabilities.add` takes them.

    Raises:
        KeyError: There is no such feature.
    """
    needed: set[str] = set()
    for feature in features:
        if feature not in FEATURES:
            raise KeyError(feature)
        needed |= _NEEDED_TARGETLESS.get(feature, frozenset()) if targetless else _NEEDED[feature]
    return tuple(sorted(needed - _IN_THE_POD if in_the_pod else needed))
