"""The agent's command line."""

from __future__ import annotations

import pytest

from mirror.agent.options import Options, parse
from mirror.protocol.features import FEATURES


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("--pid 7 --fd 3", Options(pid="7", fd=3)),
        ("--fd 3 --pid -", Options(pid="-", fd=3)),
        ("--listen 61337 --container c0ffee", Options(container="c0ffee", port=61337)),
        ("--listen 61337 --container containerd://c0ffee", Options(container="c0ffee", port=61337)),
        ("--targetless --listen 0", Options(is_targetless=True, port=0)),
        (
            "--listen 1 --pid 7 --grace 0.5 --first-client-within 0",
            Options(pid="7", port=1, grace_s=0.5, first_client_within_s=0),
        ),
        ("--pid 7 --listen 0 --identity /tmp/a", Options(pid="7", port=0, identity="/tmp/a")),
        ("--pid 7 --listen 0 --direct --identity a", Options(pid="7", port=0, identity="a", is_direct=True)),
        ("--pid 7 --fd 3 --features files,names", Options(pid="7", fd=3, features=frozenset({"files", "names"}))),
        (
            "--pid 7 --fd 3 --keep-from 10.0.0.1,fd00::1",
            Options(pid="7", fd=3, keep_from=(b"\x0a\0\0\x01", b"\xfd" + bytes(14) + b"\x01")),
        ),
    ],
)
def test_what_is_understood(line: str, options: Options) -> None:
    assert parse(line.split()) == options


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "what to stand in for"),
        ("--fd 3", "what to stand in for"),
        ("--pid 7 --targetless --fd 3", "what to stand in for"),
        ("--pid 7", "where clients come from"),
        ("--pid 7 --fd 3 --listen 4", "where clients come from"),
        ("--pid 7 --pid 8 --fd 3", "--pid is given twice"),
        ("--pid seven --fd 3", "'seven'"),
        ("--pid ² --fd 3", "'²'"),
        ("--pid 7 --fd -1", "'-1'"),
        ("--pid 7 --listen 65536", "'65536'"),
        ("--pid 7 --fd", "not understood: --pid 7 --fd"),
        ("--pid 7 --fd 3 --verbose", "not understood"),
        ("--container ../x --listen 4", "'../x'"),
        ("--container docker:// --listen 4", "'docker://'"),
        ("--pid 7 --listen 4 --grace soon", "--grace takes seconds, not 'soon'"),
        ("--pid 7 --listen 4 --grace -1", "'-1'"),
        ("--pid 7 --listen 4 --first-client-within nan", "'nan'"),
        ("--pid 7 --fd 3 --features files,dns", f"{','.join(FEATURES)}, not 'dns'"),
        ("--pid 7 --fd 3 --identity a", "--identity needs --listen"),
        ("--pid 7 --listen 0 --direct", "--direct needs --identity"),
        ("--pid 7 --fd 3 --keep-from 10.0.0.0/8", "'10.0.0.0/8'"),
    ],
)
def test_what_is_not(line: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        parse(line.split())
    assert complaint in str(raised.value)
