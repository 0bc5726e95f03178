"""Credit and the life of channels, one side at a time."""

from __future__ import annotations

import pytest

from mirror.protocol.channels import (
    GROWTH_BUDGET_BYTES,
    INITIAL_WINDOW_BYTES,
    MAX_CHANNELS,
    MAX_CREDIT_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_WINDOW_BYTES,
    Channels,
)
from mirror.protocol.frame import LocalProtocolError, RemoteProtocolError

PAYLOADS = INITIAL_WINDOW_BYTES // MAX_PAYLOAD_BYTES


def begun() -> tuple[Channels, int]:
    """A client's channels with one of its own that the agent knows of."""
    channels = Channels(is_client=True)
    channel = channels.open()
    channels.begin(channel)
    return channels, channel


def fill(channels: Channels, channel: int) -> None:
    for _ in range(PAYLOADS):
        assert channels.got_data(channel, MAX_PAYLOAD_BYTES) == (True, False)


def test_client_opens_odd_channels_and_agent_even_ones() -> None:
    client, agent = Channels(is_client=True), Channels(is_client=False)
    assert [client.open(), client.open()] == [1, 3]
    assert [agent.open(), agent.open()] == [2, 4]
    client.begun_by_other(2)
    with pytest.raises(RemoteProtocolError, match="only this side"):
        client.begun_by_other(5)
    with pytest.raises(RemoteProtocolError, match="twice"):
        client.begun_by_other(2)


def test_sending_takes_credit_and_stops_without() -> None:
    channels, channel = begun()
    assert channels.spend(channel, 10) == 10
    assert channels.spend(channel, MAX_PAYLOAD_BYTES + 1) == MAX_PAYLOAD_BYTES
    while channels.spend(channel, MAX_PAYLOAD_BYTES):
        pass
    assert channels.credit(channel) == 0
    assert channels.got_credit(channel, 7)
    assert channels.spend(channel, 100) == 7


def test_receiving_beyond_the_credit_is_refused() -> None:
    channels, channel = begun()
    fill(channels, channel)
    with pytest.raises(RemoteProtocolError, match="more data"):
        channels.got_data(channel, 1)


@pytest.mark.parametrize("size_bytes", [0, MAX_PAYLOAD_BYTES + 1])
def test_payload_has_bounds(size_bytes: int) -> None:
    channels, channel = begun()
    with pytest.raises(RemoteProtocolError, match="between 1 and"):
        channels.got_data(channel, size_bytes)


def test_credit_is_given_back_by_halves_and_grows_for_one_that_keeps_up() -> None:
    channels, channel = begun()
    fill(channels, channel)
    half = INITIAL_WINDOW_BYTES // 2
    assert channels.acknowledge(channel, half - 1) == 0
    assert channels.acknowledge(channel, 1) == half  # some is held still: no growth
    assert channels.acknowledge(channel, half) == half + INITIAL_WINDOW_BYTES
    with pytest.raises(LocalProtocolError, match="holds 0 bytes"):
        channels.acknowledge(channel, 1)


def test_windows_grow_to_a_limit_and_within_a_budget() -> None:
    channels = Channels(is_client=True)
    channel = grown = 0
    for _ in range(40):
        channel = channels.open()
        channels.begin(channel)
        window = INITIAL_WINDOW_BYTES
        for _ in range(1000):
            if not channels.got_data(channel, MAX_PAYLOAD_BYTES)[0]:
                break
            credit = channels.acknowledge(channel, MAX_PAYLOAD_BYTES)
            if credit:
                window += credit - window // 2
        assert window <= MAX_WINDOW_BYTES
        grown += window - INITIAL_WINDOW_BYTES
    assert grown == GROWTH_BUDGET_BYTES
    channels.drop(channel)
    channels.drop(1)
    assert channels.credit(1) == 0
    channel = channels.open()
    channels.begin(channel)
    channels.got_data(channel, MAX_PAYLOAD_BYTES)
    channels.got_data(channel, MAX_PAYLOAD_BYTES)
    assert channels.acknowledge(channel, 2 * MAX_PAYLOAD_BYTES) == INITIAL_WINDOW_BYTES // 2 + INITIAL_WINDOW_BYTES


@pytest.mark.parametrize("size_bytes", [0, MAX_CREDIT_BYTES])
def test_credit_has_bounds(size_bytes: int) -> None:
    channels, channel = begun()
    with pytest.raises(RemoteProtocolError, match="a credit of"):
        channels.got_credit(channel, size_bytes)


def test_ends_both_ways_end_the_channel() -> None:
    channels, channel = begun()
    channels.send_end(channel)
    assert channel in channels
    assert channels.got_data(channel, 5) == (True, False)
    assert channels.got_end(channel)
    assert channel not in channels
    assert channels.acknowledge(channel, 5) == 0


def test_after_an_end_nothing_more_may_be_sent() -> None:
    channels, channel = begun()
    channels.send_end(channel)
    with pytest.raises(LocalProtocolError, match="after its end"):
        channels.spend(channel, 1)
    with pytest.raises(LocalProtocolError, match="twice"):
        channels.send_end(channel)

    channels, channel = begun()
    assert channels.got_end(channel)
    with pytest.raises(RemoteProtocolError, match="after its end"):
        channels.got_data(channel, 1)
    with pytest.raises(RemoteProtocolError, match="twice"):
        channels.got_end(channel)


def test_no_credit_is_given_after_the_other_sides_end() -> None:
    channels, channel = begun()
    fill(channels, channel)
    channels.got_end(channel)
    assert channels.acknowledge(channel, INITIAL_WINDOW_BYTES) == 0


def test_what_comes_late_is_ignored_and_what_never_was_is_refused() -> None:
    channels, channel = begun()
    channels.drop(channel)
    assert channels.got_data(channel, 1) == (False, False)
    assert not channels.got_credit(channel, 1)
    assert not channels.got_end(channel)
    assert not channels.got_reset(channel)
    for unknown in (0, 3, 2, 2**32 - 1):
        with pytest.raises(RemoteProtocolError, match="never begun"):
            channels.got_data(unknown, 1)


def test_channels_may_be_begun_in_another_order_than_opened() -> None:
    channels = Channels(is_client=True)
    first, second = channels.open(), channels.open()
    channels.begin(second)
    assert channels.got_data(second, 1) == (True, False)
    with pytest.raises(RemoteProtocolError, match="never begun"):
        channels.got_data(first, 1)
    channels.begin(first)
    assert channels.got_data(first, 1) == (True, False)
    channels.drop(first)
    channels.drop(second)
    assert channels.got_data(second, 1) == (False, False)


def test_a_channel_is_used_only_once_it_is_begun() -> None:
    channels = Channels(is_client=True)
    channel = channels.open()
    with pytest.raises(LocalProtocolError, match="not open"):
        channels.spend(channel, 1)
    assert not channels.abandon(channel)
    assert channel not in channels
    with pytest.raises(LocalProtocolError, match="has not been opened"):
        channels.check_begin(channel)


def test_abandoning_resets_unless_everything_was_sent() -> None:
    channels, channel = begun()
    assert channels.abandon(channel)
    assert channel not in channels
    assert not channels.abandon(channel)

    channels, channel = begun()
    channels.send_end(channel)
    assert not channels.abandon(channel)
    assert channel in channels
    assert not channels.got_credit(channel, 10)
    assert not channels.got_end(channel)
    assert channel not in channels


def test_data_for_an_abandoned_channel_is_refused() -> None:
    channels, channel = begun()
    channels.send_end(channel)
    channels.abandon(channel)
    assert channels.got_data(channel, 1) == (False, True)
    assert channel not in channels
    assert channels.got_data(channel, 1) == (False, False)

    channels, channel = begun()
    channels.got_data(channel, 1)
    channels.send_end(channel)
    assert channels.abandon(channel), "somebody left without reading what is held"


def test_channels_are_counted_on_both_sides() -> None:
    client, agent = Channels(is_client=True), Channels(is_client=False)
    for channel in range(1, 2 * MAX_CHANNELS, 2):
        assert client.open() == channel
        client.begin(channel)
        agent.begun_by_other(channel)
    assert not client.may_open
    with pytest.raises(LocalProtocolError, match="more than"):
        client.open()
    with pytest.raises(RemoteProtocolError, match="more than"):
        agent.begun_by_other(2 * MAX_CHANNELS + 1)
    client.drop(1)
    agent.drop(1)
    assert client.may_open
    agent.begun_by_other(client.open())
