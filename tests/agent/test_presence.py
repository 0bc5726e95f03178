"""How long an agent stays when nobody uses it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from mirror.agent.presence import Presence

Deed = tuple[float, Callable[[Presence], None]]


@pytest.mark.parametrize(
    ("deeds", "ended_at_s"),
    [
        pytest.param([], 60, id="nobody comes"),
        pytest.param([(59, Presence.come), (100, Presence.go)], 105, id="one comes and goes"),
        pytest.param([(1, Presence.come), (1, Presence.go)], 6, id="at the same time"),
        pytest.param(
            [(1, Presence.come), (2, Presence.go), (6.9, Presence.come), (50, Presence.go)], 55, id="another in time"
        ),
        pytest.param(
            [(1, Presence.come), (2, Presence.come), (3, Presence.go), (30, Presence.go)], 35, id="two at a time"
        ),
        pytest.param(
            [(1, Presence.come), (9, Presence.go), (9, Presence.come), (20, Presence.go)], 25, id="in one's place"
        ),
        pytest.param([(4, Presence.waste_no_time)], 4, id="in a hurry, and nobody there"),
        pytest.param([(1, Presence.come), (2, Presence.waste_no_time), (30, Presence.go)], 30, id="in a hurry"),
        pytest.param([(1, Presence.come), (2, Presence.go), (4, Presence.waste_no_time)], 4, id="a hurry in between"),
    ],
)
async def test_when_an_agent_ends(deeds: list[Deed], ended_at_s: float, autojump_clock: trio.testing.MockClock) -> None:
    presence = Presence(first_within_s=60, grace_s=5)
    start_s = trio.current_time()

    async def act() -> None:
        for at_s, deed in deeds:
            await trio.sleep_until(start_s + at_s)
            deed(presence)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(act)
        await presence.until_unused()
    assert not presence
    assert trio.current_time() - start_s == pytest.approx(ended_at_s)
