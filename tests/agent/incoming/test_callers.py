from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
import trio

from mirror.agent.incoming.callers import Callers
from mirror.agent.incoming.namespace import NamespaceThread, in_namespace


@pytest.fixture
def namespace() -> Iterator[NamespaceThread]:
    with in_namespace(None) as namespace:
        yield namespace


class Map:
    """What the table would hold."""

    def __init__(self) -> None:
        self.elements: dict[int, bytes] = {}
        self.changes = 0
        self.refuses = False

    async def add(self, number: int, address: bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            raise OSError
        assert number not in self.elements
        self.elements[number] = address
        self.changes += 1

    async def remove(self, number: int, address: bytes) -> None:
        await trio.lowlevel.checkpoint()
        assert self.elements.pop(number) == address


def outside(last: int) -> bytes:
    """TEST-NET-3: nobody's own."""
    return bytes([203, 0, 113, last])


async def test_an_address_gets_one_number_however_many_ask(namespace: NamespaceThread) -> None:
    elements = Map()
    callers = Callers(namespace, elements.add, elements.remove)
    numbers: list[int | None] = []

    async def ask() -> None:
        numbers.append(await callers.number(outside(1)))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(ask)
    assert numbers == [1] * 10
    assert elements.changes == 1
    assert callers.numbered() == [(1, outside(1))]


async def test_own_addresses_need_no_number(namespace: NamespaceThread) -> None:
    elements = Map()
    callers = Callers(namespace, elements.add, elements.remove)
    assert await callers.number(bytes([127, 0, 0, 1])) == 0
    assert await callers.number(bytes([127, 9, 9, 9])) == 0
    assert await callers.number(socket.inet_pton(socket.AF_INET6, "fe80::1")) is None
    assert elements.elements == {}
    assert callers.numbered() == []


async def test_the_one_not_seen_for_the_longest_time_makes_room(namespace: NamespaceThread) -> None:
    elements = Map()
    callers = Callers(namespace, elements.add, elements.remove, limit=3)
    assert [await callers.number(outside(last)) for last in (1, 2, 1, 3)] == [1, 2, 1, 2]
    assert elements.elements == {1: outside(1), 2: outside(3)}


async def test_a_refusal_is_not_remembered(namespace: NamespaceThread) -> None:
    elements = Map()
    callers = Callers(namespace, elements.add, elements.remove)
    elements.refuses = True
    with pytest.raises(OSError):  # noqa: PT011 (the map says no more)
        await callers.number(outside(1))
    elements.refuses = False
    assert await callers.number(outside(1)) == 1
