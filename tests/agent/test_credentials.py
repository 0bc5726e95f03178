"""Credentials as /proc tells them. Taking them is tested with real targets in test_files."""

from __future__ import annotations

import os
from pathlib import Path

from mirror.agent.credentials import parse_status

STATUS = b"""\
Name:\tpython: odd
Umask:\t0022
Uid:\t1000\t1001\t1002\t1003
Gid:\t2000\t2001\t2002\t2003
Groups:\t4 24 2000\x20
NSpid:\t77
CapInh:\t0000000000000000
CapPrm:\t00000000a80425fb
CapEff:\t0000000000000001
"""


def test_ids_groups_and_capabilities_are_read() -> None:
    credentials = parse_status(STATUS)
    assert credentials.uids == (1000, 1001, 1002, 1003)
    assert credentials.gids == (2000, 2001, 2002, 2003)
    assert credentials.groups == {4, 24, 2000}
    assert (credentials.effective, credentials.permitted) == (1, 0xA80425FB)
    assert not credentials.has_own_ids


def test_a_process_without_groups_has_none() -> None:
    assert parse_status(STATUS.replace(b"4 24 2000 ", b"")).groups == frozenset()


def test_this_process_has_its_own_ids() -> None:
    credentials = parse_status(Path("/proc/self/status").read_bytes())
    assert credentials.has_own_ids
    assert credentials.uids[1] == os.geteuid()
