"""One sandbox for all conformance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.sandbox import sandbox
from tests.conformance.sides import Sides


@pytest.fixture(scope="session")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """The sandbox, with the programs in it."""
    folder = tmp_path_factory.mktemp("conformance")
    folder.chmod(0o755)
    with sandbox(folder) as running:
        yield running
