from __future__ import annotations

import socket

import pytest

from mirror.agent.incoming.ruleset import Intercepted
from mirror.agent.incoming.subscriptions import Route, Subscriptions, is_wanted
from mirror.protocol.messages import Accepted, SocketAddress, Subscribe


class Nobody:
    """An owner without a connection."""

    user = ""

    async def deliver(self, accepted: Accepted) -> None:
        raise AssertionError(accepted)

    async def notice(self, text: str) -> None:
        raise AssertionError(text)


LOOPBACK4 = bytes([127, 0, 0, 1])
POD4 = bytes([10, 0, 0, 1])
POD6 = bytes([0xFD]) + bytes(14) + b"\1"


@pytest.mark.parametrize(
    ("asked", "called", "answer"),
    [
        (b"", POD4, True),
        (b"", POD6, True),
        (bytes(4), POD4, True),
        (bytes(4), POD6, False),
        (bytes(16), POD4, False),
        (bytes(16), POD6, True),
        (LOOPBACK4, LOOPBACK4, True),
        (LOOPBACK4, POD4, False),
        (POD6, POD6, True),
    ],
)
def test_addresses(asked: bytes, called: bytes, answer: bool) -> None:
    assert is_wanted(Subscribe(80, steal=True, address=asked), SocketAddress(called, 80)) is answer
    assert not is_wanted(Subscribe(80, steal=True, address=asked), SocketAddress(called, 81))


def test_one_steals_and_all_others_mirror() -> None:
    one, two, three = Nobody(), Nobody(), Nobody()
    subscriptions = Subscriptions()
    subscriptions.put(one, Subscribe(80, steal=False))
    subscriptions.put(two, Subscribe(80, steal=True, address=bytes(4)))
    subscriptions.put(three, Subscribe(80, steal=False))
    assert subscriptions.thief(80) is two
    assert subscriptions.thief(81) is None
    assert subscriptions.route(SocketAddress(POD4, 80)) == Route(two, (one, three))
    assert subscriptions.route(SocketAddress(POD6, 80)) == Route(None, (one, three))
    assert subscriptions.route(SocketAddress(POD4, 81)) == Route(None, ())


def test_rows_are_what_all_together_need() -> None:
    one, two = Nobody(), Nobody()
    subscriptions = Subscriptions()
    subscriptions.put(one, Subscribe(80, steal=False))
    subscriptions.put(two, Subscribe(80, steal=True, address=bytes(4)))
    subscriptions.put(two, Subscribe(443, steal=False, address=LOOPBACK4))
    assert subscriptions.rows() == [
        Intercepted(socket.AF_INET, 80, b"", only_if_served=False),
        Intercepted(socket.AF_INET6, 80, b"", only_if_served=True),
        Intercepted(socket.AF_INET, 443, LOOPBACK4, only_if_served=True),
    ]


def test_callers_are_left_alone_whom_nobody_wants() -> None:
    thief, mirroring, other = Nobody(), Nobody(), Nobody()
    subscriptions = Subscriptions()
    subscriptions.put(thief, Subscribe(80, steal=True, keep_from=(POD6, POD4, LOOPBACK4), keep_http_probes=True))
    assert subscriptions.rows() == [
        Intercepted(socket.AF_INET, 80, keep_from=(POD4, LOOPBACK4)),
        Intercepted(socket.AF_INET6, 80, keep_from=(POD6,)),
    ]
    subscriptions.put(mirroring, Subscribe(80, steal=False, keep_from=(POD4,)))
    assert [row.keep_from for row in subscriptions.rows()] == [(POD4,), ()]
    here = SocketAddress(bytes([10, 0, 0, 9]), 80)
    assert subscriptions.route(here, POD4) == Route(None, ())
    assert subscriptions.route(here, LOOPBACK4) == Route(None, (mirroring,))
    assert subscriptions.route(here, here.address) == Route(thief, (mirroring,), keeps_http_probes=True)
    subscriptions.put(other, Subscribe(80, steal=False))
    assert [row.keep_from for row in subscriptions.rows()] == [(), ()]
    assert subscriptions.route(here, POD4) == Route(None, (other,))


def test_a_second_subscription_replaces_the_first() -> None:
    one = Nobody()
    subscriptions = Subscriptions()
    assert not subscriptions
    subscriptions.put(one, Subscribe(80, steal=True))
    subscriptions.put(one, Subscribe(80, steal=False))
    assert subscriptions.thief(80) is None
    assert subscriptions.ports(one) == [80]
    assert subscriptions.owners() == {one}
    subscriptions.remove(one, 80)
    subscriptions.remove(one, 80)
    assert not subscriptions
