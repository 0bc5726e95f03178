"""The streams that peers are tried on: trio's memory streams and real socket pairs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
import trio

from tests.protocol.links import MakePair, Pair, memory_pair


@pytest.fixture
def make_socket_pair() -> Iterator[MakePair]:
    """What `Peer` writes to without a detour; closed afterwards."""
    with contextlib.ExitStack() as stack:

        def make() -> Pair:
            ends = socket.socketpair()
            for end in ends:
                # Less than the default, so that buffers fill up soon.
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 << 10)
                stack.callback(end.close)
            ours, theirs = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)
            return ours, theirs

        yield make


@pytest.fixture(params=["memory", "socket"])
def make_pair(request: pytest.FixtureRequest, make_socket_pair: MakePair) -> MakePair:
    """Both kinds of stream, one after the other."""
    return make_socket_pair if request.param == "socket" else memory_pair
