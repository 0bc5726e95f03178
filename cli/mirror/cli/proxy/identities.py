"""What the numbers of a descriptor stand for: memfds and placeholders that programs may still hold. Pure.

A program may keep a descriptor for days, pass it on, or find it open after exec, and then ask what it is. Nothing says
when the last one is closed, so the answers are kept: numbers, path and attributes, a few hundred bytes, not the
contents. What is beyond MOST is forgotten, oldest first; such a descriptor then shows what the memfd itself has, which
is the same size, mode and times.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from mirror.protocol.messages import Stat

MOST = 50_000

Numbers = tuple[int, int]
"""(st_dev, st_ino)."""


class Identity(NamedTuple):
    """What a descriptor stands for."""

    path: bytes
    """Where it really is in the target."""
    stat: Stat


class Identities:
    """The table.

    Attributes:
        most: How many are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self._table: OrderedDict[Numbers, Identity] = OrderedDict()

    def put(self, numbers: Numbers, identity: Identity) -> None:
        """Remembers, or replaces what was remembered."""
        self._table[numbers] = identity
        self._table.move_to_end(numbers)
        while len(self._table) > self.most:
            self._table.popitem(last=False)

    def get(self, numbers: Numbers) -> Identity | None:
        """What the numbers stand for; None: nothing of ours, or forgotten."""
        identity = self._table.get(numbers)
        if identity is not None:
            self._table.move_to_end(numbers)
        return identity
