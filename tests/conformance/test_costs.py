"""The number of round trips is a promise: what `make bench` prints of them must hold."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.bench import roundtrips
from tests.cli import processes
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


def test_a_session_tells_its_counts_once(sides: Sides, tmp_path: Path) -> None:
    counts = tmp_path / "counts.json"  # whoever has read and removed it would take a second one for the next session's
    with roundtrips.arrival(counts) as wait:
        assert sides.outside(["true"], ["--no-incoming"], MIRROR_COUNTS=str(counts)).status == 0
        while any(str(counts).encode() in processes.read(f"/proc/{pid}/environ") for pid in processes.all_pids()):
            time.sleep(0.05)
        told = os.read(wait.watch, 4096)
    assert told.count(b"counts.json\0") == 1
