"""Which listener gets what, and what of a port the agent is asked for: bind(2)'s rules for wildcards."""

from __future__ import annotations

import socket

import pytest

from mirror.cli.proxy.listeners import Listener, best, loopback, subscription_address
from mirror.protocol.messages import SocketAddress


def at(host: str, port: int = 80) -> SocketAddress:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return SocketAddress(socket.inet_pton(family, host), port)


def listener(host: str, *, v6only: bool = False, bound: SocketAddress | None = None) -> Listener:
    return Listener(at(host), bound or at(host), v6only)


@pytest.mark.parametrize(
    ("listening", "v6only", "called", "takes"),
    [
        ("0.0.0.0", False, "10.0.0.1", True),
        ("0.0.0.0", False, "127.0.0.1", True),
        ("0.0.0.0", False, "fd00::1", False),
        ("::", False, "10.0.0.1", True),
        ("::", False, "fd00::1", True),
        ("::", True, "10.0.0.1", False),
        ("::", True, "fd00::1", True),
        ("10.0.0.1", False, "10.0.0.1", True),
        ("10.0.0.1", False, "10.0.0.2", False),
        ("127.0.0.1", False, "10.0.0.1", False),
    ],
)
def test_takes_what_its_address_stands_for(listening: str, v6only: bool, called: str, takes: bool) -> None:
    assert listener(listening, v6only=v6only).takes(at(called)) is takes
    assert not listener(listening, v6only=v6only).takes(at(called, 81))


def test_the_closest_address_wins() -> None:
    everything, ipv4, exact = listener("::"), listener("0.0.0.0"), listener("10.0.0.1")
    assert best([everything, ipv4, exact], at("10.0.0.1")) is exact
    assert best([everything, ipv4, exact], at("10.0.0.2")) is ipv4
    assert best([everything, ipv4, exact], at("fd00::1")) is everything
    assert best([ipv4, exact], at("fd00::1")) is None


@pytest.mark.parametrize(
    ("asked", "v6only", "bound", "called", "reached"),
    [
        ("0.0.0.0", False, "0.0.0.0", "10.0.0.1", "127.0.0.1"),
        ("0.0.0.0", False, "0.0.0.0", "127.0.0.2", "127.0.0.2"),
        ("::", False, "::", "10.0.0.1", "127.0.0.1"),
        ("::", False, "::", "fd00::1", "::1"),
        ("::", True, "::", "fd00::1", "::1"),
        ("::", False, "::", "::1", "::1"),
        ("10.0.0.1", False, "127.0.0.1", "10.0.0.1", "127.0.0.1"),
    ],
)
def test_is_reached_on_this_machine(asked: str, v6only: bool, bound: str, called: str, reached: str) -> None:
    assert Listener(at(asked), at(bound, 99), v6only).reached_by(at(called)) == at(reached, 99)


def test_connecting_to_a_wildcard_is_connecting_to_the_loopback() -> None:
    assert loopback(at("0.0.0.0")) == at("127.0.0.1")
    assert loopback(at("::")) == at("::1")
    assert loopback(at("10.0.0.1")) == at("10.0.0.1")


@pytest.mark.parametrize(
    ("listeners", "address"),
    [
        ([listener("0.0.0.0")], bytes(4)),
        ([listener("::")], b""),
        ([listener("::", v6only=True)], bytes(16)),
        ([listener("::", v6only=True), listener("0.0.0.0")], b""),
        ([listener("127.0.0.1")], b"\x7f\x00\x00\x01"),
        ([listener("127.0.0.1"), listener("10.0.0.1")], bytes(4)),
        ([listener("::1"), listener("fd00::1")], bytes(16)),
        ([listener("::1"), listener("10.0.0.1")], b""),
    ],
)
def test_subscribes_as_narrowly_as_possible(listeners: list[Listener], address: bytes) -> None:
    assert subscription_address(listeners) == address
