"""The two ways of writing an endpoint. Sockets made for the target are tested in test_outgoing."""

from __future__ import annotations

import os
import socket

import pytest

from mirror.agent.sockets import family_of, from_python, make_socket, to_python
from mirror.protocol.messages import Connect, SocketAddress

V4 = SocketAddress(bytes([192, 0, 2, 1]), 80)
V6 = SocketAddress(bytes([0xFE, 0x80, *[0] * 13, 1]), 443, flowinfo=7, scope_id=3)


@pytest.mark.parametrize(
    ("endpoint", "python", "family"),
    [(V4, ("192.0.2.1", 80), socket.AF_INET), (V6, ("fe80::1", 443, 7, 3), socket.AF_INET6)],
)
def test_endpoints_go_to_python_and_back(endpoint: SocketAddress, python: object, family: int) -> None:
    assert to_python(endpoint) == python
    assert from_python(python) == endpoint
    assert family_of(endpoint) == family


def test_an_interface_behind_the_address_is_dropped() -> None:
    assert from_python(("fe80::1%eth0", 443, 7, 3)) == V6


def test_an_address_of_another_length_is_refused() -> None:
    with pytest.raises(OSError, match="22"):
        to_python(SocketAddress(b"12345", 1))


def test_a_socket_is_bound_before_it_is_given() -> None:
    request = Connect(1, V4, bind=SocketAddress(bytes([127, 0, 0, 1]), 0))
    with socket.socket(fileno=make_socket(request)) as made:
        assert made.getsockname()[0] == "127.0.0.1"
        assert made.getsockname()[1] != 0
        assert not os.get_blocking(made.fileno())
        assert not made.get_inheritable()
