"""A lease map forgets in time, and keeps within its bounds."""

from __future__ import annotations

import pytest

from mirror.cli.proxy.lease import LeaseMap


class Clock:
    """Stands still unless it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_value_holds_for_the_lease_and_no_longer(clock: Clock) -> None:
    lease: LeaseMap[str, int] = LeaseMap(1.0, clock, 10)
    lease.put("a", 1)
    clock.now += 0.999
    assert lease.get("a") == 1
    assert lease.get_dated("a") == (100.0, 1)
    clock.now += 0.001
    assert lease.get("a") is None


def test_putting_again_begins_a_lease_of_its_own(clock: Clock) -> None:
    lease: LeaseMap[str, int] = LeaseMap(1.0, clock, 10)
    lease.put("a", 1)
    clock.now += 0.9
    lease.put("a", 2)
    clock.now += 0.9
    assert lease.get("a") == 2


def test_what_is_over_is_dropped_and_told(clock: Clock) -> None:
    forgotten: list[int] = []
    lease: LeaseMap[str, int] = LeaseMap(1.0, clock, 10, forget=forgotten.append)
    lease.put("a", 1)
    clock.now += 0.5
    lease.put("b", 2)
    clock.now += 0.5
    lease.expire()
    assert forgotten == [1]
    assert len(lease) == 1
    lease.clear()
    assert forgotten == [1, 2]


def test_the_oldest_goes_when_there_are_too_many(clock: Clock) -> None:
    lease: LeaseMap[str, int] = LeaseMap(1.0, clock, 2)
    for number, key in enumerate("abac"):
        lease.put(key, number)
    assert lease.get("b") is None
    assert (lease.get("a"), lease.get("c")) == (2, 3)


def test_the_oldest_go_when_they_are_too_heavy(clock: Clock) -> None:
    forgotten: list[bytes] = []
    lease: LeaseMap[str, bytes] = LeaseMap(1.0, clock, 10, most_bytes=10, weigh=len, forget=forgotten.append)
    lease.put("a", b"12345")
    lease.put("b", b"12345")
    lease.put("c", b"1")
    assert lease.get("a") is None
    assert lease.get("b") is not None
    lease.put("d", b"12345678901")
    assert lease.get("d") is None
    assert len(lease) == 0
    assert len(forgotten) == 4


def test_without_a_lease_nothing_is_remembered(clock: Clock) -> None:
    lease: LeaseMap[str, int] = LeaseMap(0.0, clock, 10)
    lease.put("a", 1)
    assert lease.get("a") is None
    assert len(lease) == 0
