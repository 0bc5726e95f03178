"""The number of round trips is a promise: what `make bench` prints of them must hold."""

from __future__ import annotations

import pytest

from tests.bench import roundtrips
from tests.conformance.sides import Sides


@pytest.mark.parametrize("title", roundtrips.OPERATIONS)
def test_an_operation_takes_one_round_trip_and_none_within_the_lease(title: str, sides: Sides) -> None:
    operation, once, twice = roundtrips.OPERATIONS[title]
    program = str(roundtrips.operations(sides.folder))
    for times in (once, twice):
        counts = roundtrips.count(sides, [program, operation, str(times)])
        assert counts.total() == 1, dict(counts)


def test_doing_nothing_takes_none(sides: Sides) -> None:
    assert roundtrips.count(sides, [str(roundtrips.operations(sides.folder)), "nothing"]).total() == 0
