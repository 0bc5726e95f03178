"""The conformance tests again, with a pod as target: every program does the same in it and outside of it.

The tests themselves are those of `tests/conformance`; here is what they are given instead of a sandbox.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.catalogue import Program, names, program
from tests.conformance.sides import Sides
from tests.conformance.test_costs import (
    test_an_operation_takes_one_round_trip_and_none_within_the_lease,
    test_doing_nothing_takes_none,
)
from tests.conformance.test_programs import test_as_the_first_process, test_in_other_ways
from tests.e2e.cluster import Cluster
from tests.e2e.scene import in_pod

__all__ = [
    "test_an_operation_takes_one_round_trip_and_none_within_the_lease",
    "test_as_the_first_process",
    "test_doing_nothing_takes_none",
    "test_in_other_ways",
]

NAMES = [name for name in names() if not name.endswith(".js")]
"""There is no Node in the pods' image: what is written for it is compared in the sandbox only."""


@pytest.fixture(scope="module")
def sides(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """The pod, with the programs in it."""
    folder = tmp_path_factory.mktemp("conformance")
    folder.chmod(0o755)
    with in_pod(cluster, folder) as pod:
        yield pod


@pytest.fixture(params=NAMES)
def each(request: pytest.FixtureRequest, sides: Sides) -> Program:
    """A program that can run in it."""
    return program(request.param, sides.folder, sides.python)
