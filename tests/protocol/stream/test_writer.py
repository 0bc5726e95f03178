"""What waits to be written is bounded, whatever the other side does."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mirror.protocol import messages as m
from mirror.protocol.connection import MAX_REQUESTS
from mirror.protocol.stream import (
    Peer,
    transport,
    writer,
)
from mirror.protocol.stream import peer as peer_module
from tests.protocol.links import (
    MakePair,
    Raw,
    refuse,
)


async def test_one_that_asks_and_never_reads_is_not_read_any_more(
    make_socket_pair: MakePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "HARD_LIMIT_BYTES", 64 << 10)
    ours, theirs = make_socket_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    pings = [(number, m.Ping()) for number in range(1, 10_000)]

    async def flood() -> None:
        while True:
            await raw.send(*pings)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(client.run)
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert client.connection.unsent_bytes > 64 << 10
        assert client.connection.unsent_bytes <= (64 << 10) + 2 * transport.READ_BYTES
        nursery.cancel_scope.cancel()


async def test_senders_wait_for_one_that_does_not_read(make_socket_pair: MakePair) -> None:
    ours, theirs = make_socket_pair()
    raw = Raw(theirs)
    client = Peer(ours, is_client=True, handler=refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raw.introduce)
        await nursery.start(client.run)
        for _ in range(MAX_REQUESTS):
            nursery.start_soon(client.request, m.ReadLink(b"/" * 4000))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert client.connection.unsent_bytes <= writer.HIGH_WATER_BYTES + 5000
        nursery.cancel_scope.cancel()
