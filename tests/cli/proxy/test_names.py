"""Looking up names: how often the agent is asked, and what happens to those who wait."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
import trio.testing

from mirror.cli.proxy.names import Names
from mirror.protocol.messages import AddressLookedUp, LookUpAddress, LookUpFailed, LookUpHost, Message
from mirror.protocol.stream import RequestFailed
from tests.cli.proxy.network import Network, open_network


def question(node: bytes) -> LookUpAddress:
    return LookUpAddress(node, None, socket.AF_UNSPEC, 0, 0, 0)


async def test_asks_once_within_the_lease() -> None:
    async with open_network() as network:
        for _ in range(3):
            assert await network.ask(question(b"there")) == AddressLookedUp((), b"there")
        assert network.agent.heard == [question(b"there")]


async def test_keeps_absences_too() -> None:
    async with open_network() as network:
        for _ in range(3):
            assert await network.ask(question(b"absent")) == LookUpFailed(socket.EAI_NONAME)
        assert network.agent.heard == [question(b"absent")]


async def test_passing_failures_are_asked_about_again() -> None:
    async with open_network() as network:
        for _ in range(2):
            assert await network.ask(question(b"later")) == LookUpFailed(socket.EAI_AGAIN)
        assert len(network.agent.heard) == 2


async def test_every_part_of_the_question_counts() -> None:
    async with open_network() as network:
        await network.ask(question(b"there"))
        await network.ask(LookUpAddress(b"there", b"http", socket.AF_UNSPEC, 0, 0, 0))
        await network.ask(LookUpAddress(b"there", None, socket.AF_INET, 0, 0, 0))
        await network.ask(LookUpAddress(b"there", None, socket.AF_UNSPEC, 0, 0, socket.AI_CANONNAME))
        assert len(network.agent.heard) == 4


async def test_lease_ends(autojump_clock: trio.testing.MockClock) -> None:
    class Session:
        """An agent in memory: a mock clock and real sockets do not go together."""

        asked = 0

        def __init__(self, nursery: trio.Nursery) -> None:
            self.uplink = self
            self.start = nursery.start_soon

        async def request(self, _: Message) -> Message:
            self.asked += 1
            return AddressLookedUp((), None)

    async with trio.open_nursery() as nursery:
        session = Session(nursery)
        handler = Names(session, lease_s=5).handlers()[LookUpAddress]  # type: ignore[arg-type]
        for passed_s, asked in ((0, 1), (4.9, 1), (0.2, 2), (4.9, 2)):
            await trio.sleep(passed_s)
            await handler(None, question(b"there"), [])  # type: ignore[arg-type]
            assert session.asked == asked


async def test_all_who_ask_at_once_share_one_answer() -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        answers: list[Message] = []

        async def ask() -> None:
            answers.append(await network.ask(question(b"there")))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask)
            await network.agent.until(lambda: network.agent.holders == 1)
            network.agent.hold.set()
        assert answers == [AddressLookedUp((), b"there")] * 10
        assert network.agent.heard == [question(b"there")]


async def test_the_first_may_go_away() -> None:
    async with open_network() as network:
        network.agent.hold = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.ask, question(b"there"))
            await network.agent.until(lambda: network.agent.holders == 1)
            nursery.cancel_scope.cancel()
        network.agent.hold.set()
        assert await network.ask(question(b"there")) == AddressLookedUp((), b"there")
        assert len(network.agent.heard) == 1


async def test_failures_of_the_agent_reach_everybody_and_are_not_kept() -> None:
    async def fail(network: Network) -> None:
        with pytest.raises(RequestFailed) as caught:
            await network.ask(LookUpHost(b"there", socket.AF_INET))  # the test's agent does not know it
        assert caught.value.errno == errno.ENOSYS

    async with open_network() as network:
        await fail(network)
        await fail(network)
        assert len(network.agent.heard) == 2
