"""Who has stolen a port, told to those who want it too."""

from __future__ import annotations

import datetime
import errno
import re

import pytest

from mirror.agent.incoming import claims
from mirror.protocol.stream import RequestFailed

from .stage import Pod, start_agent

NOON = datetime.datetime(2026, 7, 8, 14, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
LISTING = """\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00000000 0002 01  4711 @mirror/steal/8080
0000000000000000: 00000002 00000000 00000000 0002 01  4712 @mirror/holder/8080/12:03/anna@laptop
0000000000000000: 00000002 00000000 00000000 0002 01  4713 @mirror/holder/80/09:10/
0000000000000000: 00000002 00000000 00010000 0001 01  4714 /run/x
0000000000000000: 00000003 00000000 00000000 0001 03  4715
"""


@pytest.mark.parametrize(
    ("port", "who"),
    [
        (8080, "anna@laptop since 12:03 UTC"),
        (80, "another session since 09:10 UTC"),
        (808, "another session"),
    ],
)
def test_the_holder_in_the_kernels_list(port: int, who: str) -> None:
    assert claims.find_holder(LISTING, port) == who


@pytest.mark.parametrize(
    ("user", "who"),
    [
        ("anna@laptop", "anna@laptop"),
        ("Jörg Ä@büro", "J?rg??@b?ro"),
        ("a\0b\nc", "a?b?c"),
        ("x" * 200, "x" * 60),
        ("", "another session"),
    ],
)
def test_a_claim_is_held_once_and_has_a_name(user: str, who: str, port: int) -> None:
    claimed = claims.claim(port, user, NOON)
    assert claimed is not None
    assert claims.claim(port, "somebody@else", NOON) is None
    assert claims.holder(port) == f"{who.replace('???', '?' * 2)} since 12:03 UTC"
    claimed.close()
    assert claims.holder(port) == "another session"


@pytest.mark.parametrize("agents", [1, 2], ids=["one agent", "two agents"])
async def test_who_has_the_port_is_told(pod: Pod, port: int, agents: int) -> None:
    with start_agent(pod, clients=2) as first, start_agent(pod, clients=2) as second:
        other = first if agents == 1 else second
        async with first.client("anna@laptop") as anna, other.client("bert@desk") as bert:
            await anna.subscribe(port, steal=True)
            with pytest.raises(RequestFailed) as refused:
                await bert.subscribe(port, steal=True)
            assert refused.value.errno == errno.EADDRINUSE
            assert re.fullmatch(
                rf"port {port} of the target is taken by anna@laptop since \d\d:\d\d UTC; wait until that session has"
                r" ended, or mirror the port",
                refused.value.reason,
            )
            await bert.subscribe(port, steal=False)
            await anna.unsubscribe(port)
            await bert.subscribe(port, steal=True)
