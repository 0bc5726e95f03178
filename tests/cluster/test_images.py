"""What is in the images, where `make cluster` has made them."""

from __future__ import annotations

import pytest

from tests.cluster.archives import added_bytes
from tests.cluster.places import IMAGES

MEGABYTE = 1_000_000


def test_the_agent_adds_little_to_its_base() -> None:
    archives = list(IMAGES.glob("mirror-agent-*.docker.tar"))
    if not archives:
        pytest.skip("no images were built without Docker: run make cluster")
    assert 1 * MEGABYTE < added_bytes(archives[0]) < 30 * MEGABYTE
