"""What numbers stand for is remembered, within a bound."""

from __future__ import annotations

from mirror.cli.proxy.identities import Identities, Identity
from mirror.protocol.messages import Stat

STAT = Stat(1, 2, 0o100644, 1, 0, 0, 0, 0, 4096, 0, 0, 0, 0)


def test_the_last_word_counts() -> None:
    identities = Identities()
    assert identities.get((1, 1)) is None
    identities.put((1, 1), Identity(b"/a", STAT))
    identities.put((1, 1), Identity(b"/b", STAT))
    assert identities.get((1, 1)) == Identity(b"/b", STAT)


def test_what_nobody_asked_for_is_forgotten_first() -> None:
    identities = Identities(most=2)
    identities.put((1, 1), Identity(b"/a", STAT))
    identities.put((1, 2), Identity(b"/b", STAT))
    identities.get((1, 1))
    identities.put((1, 3), Identity(b"/c", STAT))
    assert identities.get((1, 2)) is None
    assert identities.get((1, 1)) is not None
