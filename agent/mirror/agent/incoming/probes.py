"""Which connections are the kubelet's HTTP probes, told by what they ask.

The kubelet opens a connection for each probe, sends all of the request at once and says who it is, so what comes first
decides about the whole connection. Probes that cannot be told so (TCP, gRPC, HTTPS) can be told by their address: see
`node`.
"""

from __future__ import annotations

import re

import trio

from mirror.agent.incoming.connection import Connection

PATIENCE_S = 1.0
"""A caller who has said nothing for so long is no probe."""

_PROBE = re.compile(rb"[A-Z]+ [^\r\n]+ HTTP/1\.[01]\r\n(?:[^\r\n]+\r\n)*?user-agent:[ \t]*kube-probe/", re.IGNORECASE)


def is_probe(beginning: bytes) -> bool:
    """Whether a connection that begins so is an HTTP probe of the kubelet's."""
    return _PROBE.match(beginning) is not None


async def begins_as_probe(caller: Connection) -> bool:
    """Waits for the first that the caller says, and looks at it without taking it."""
    beginning = b""
    with trio.move_on_after(PATIENCE_S):
        try:
            beginning = await caller.peek()
        except OSError:  # it is gone; whoever gets the connection will see
            return False
    return is_probe(beginning)
