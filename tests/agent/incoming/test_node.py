"""From where the node calls the target."""

from __future__ import annotations

import ipaddress

from mirror.agent.incoming.node import parse_fib_trie

TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.244.1.0/24 2 0 2
        |-- 10.244.1.0
           /24 link UNICAST
        |-- 10.244.1.7
           /32 host LOCAL
        |-- 10.244.1.255
           /32 link BROADCAST
Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.244.1.7
        /32 host LOCAL
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
"""


def test_local_addresses_in_the_kernels_list() -> None:
    assert parse_fib_trie(TRIE.splitlines(keepends=True)) == [
        ipaddress.IPv4Address("10.244.1.7"),
        ipaddress.IPv4Address("127.0.0.1"),
    ]
