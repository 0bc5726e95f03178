"""Silence, counted."""

from __future__ import annotations

from mirror.protocol.heartbeat import PING_AFTER_S, TICK_S, Heartbeat


def silence(heartbeat: Heartbeat, *times_s: float) -> list[float]:
    return [heartbeat.tick(now_s) for now_s in times_s]


def test_silence_grows_from_the_last_that_was_heard() -> None:
    heartbeat = Heartbeat()
    assert silence(heartbeat, 100, 101, 102, 103) == [0, 1, 2, 3]
    heartbeat.hear()
    assert silence(heartbeat, 104, 105) == [0, 1]


def test_a_silent_peer_is_asked_once() -> None:
    heartbeat = Heartbeat()
    wanted = []
    for second in range(int(PING_AFTER_S) * 3):
        heartbeat.tick(second)
        wanted.append(heartbeat.wants_ping)
        heartbeat.wants_ping = False
    assert wanted.index(True) == PING_AFTER_S
    assert wanted.count(True) == 1


def test_hearing_anything_makes_asking_needless() -> None:
    heartbeat = Heartbeat()
    silence(heartbeat, *range(int(PING_AFTER_S) + 1))
    assert heartbeat.wants_ping
    heartbeat.hear()
    heartbeat.tick(PING_AFTER_S + 1)
    assert not heartbeat.wants_ping


def test_time_in_which_we_were_stopped_is_not_silence() -> None:
    assert silence(Heartbeat(), 0, 1, 3600, 3601) == [0, 1, 1 + 2 * TICK_S, 2 + 2 * TICK_S]


def test_a_late_tick_is_not_a_stop() -> None:
    assert silence(Heartbeat(), 0, 1.9, 3.5) == [0, 1.9, 3.5]
