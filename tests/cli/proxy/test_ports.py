"""Ports in the place of those that are taken."""

from __future__ import annotations

import socket

import pytest

from mirror.cli.proxy import ports


@pytest.mark.skipif(
    ports._first_ephemeral_port() <= ports._LOWEST_PORT, reason="any port may be given to connecting sockets here"
)
def test_no_connecting_socket_is_given_a_chosen_port() -> None:
    assert ports._LOWEST_PORT <= ports.free_port() < ports._first_ephemeral_port()


@pytest.mark.parametrize("first_ephemeral", [0, 1])
def test_any_port_if_all_others_are_taken(monkeypatch: pytest.MonkeyPatch, first_ephemeral: int) -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::", 0))
        taken = other.getsockname()[1]
        monkeypatch.setattr(ports, "_LOWEST_PORT", taken)
        monkeypatch.setattr(ports, "_first_ephemeral_port", lambda: first_ephemeral and taken + 1)
        assert ports.free_port() not in (0, taken)
