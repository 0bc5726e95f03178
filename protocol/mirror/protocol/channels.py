"""Credit: how many bytes each channel of a connection may still send and must still be ready to hold.

Each direction of a channel begins with a credit of INITIAL_WINDOW_BYTES; `Data` uses it up, `Credit` renews it once
the receiver's owner has taken bytes out. So a slow owner stops its own channel only, and what a connection can be
made to hold is bounded: MAX_CHANNELS times the initial window, and GROWTH_BUDGET_BYTES for windows that have grown.

A window grows while its owner keeps up (it has read everything when half a window is given back), as a fixed one
would limit a channel to window / round trip: 256 KiB at 100 ms are 2.5 MB/s.

Which side may do what to a channel when is checked here; frames are made by `connection`.
"""

from __future__ import annotations

from mirror.protocol.frame import LocalProtocolError, RemoteProtocolError

INITIAL_WINDOW_BYTES = 256 << 10
"""Both sides know it."""

MAX_WINDOW_BYTES = 4 << 20
"""How far a receiver lets one window grow: 40 MB/s at 100 ms."""

GROWTH_BUDGET_BYTES = 64 << 20
"""How much all windows of a connection may grow together; the receiver's own affair."""

MAX_CREDIT_BYTES = 2**31 - 1
"""More credit than this is a mistake or an attack."""

MAX_CHANNELS = 4096
"""Alive at a time, for each side that opens them."""

MAX_PAYLOAD_BYTES = 64 << 10
"""Of one `Data`: small enough that a request never waits long behind it."""

MAX_CHANNEL_ID = 2**32 - 1


class Channel:
    """What one side knows of a channel."""

    __slots__ = (
        "begun",
        "credit_bytes",
        "discards",
        "got_end",
        "held_bytes",
        "id",
        "is_ours",
        "owed_bytes",
        "sent_end",
        "window_bytes",
    )

    def __init__(self, channel_id: int, *, is_ours: bool) -> None:
        self.id = channel_id
        self.is_ours = is_ours
        self.begun = not is_ours
        """Whether the other side has been told of it."""
        self.sent_end = False
        self.got_end = False
        self.discards = False
        """Whether our owner has gone and only waits for the other side's end."""
        self.credit_bytes = INITIAL_WINDOW_BYTES
        """What the other side is ready to take."""
        self.window_bytes = INITIAL_WINDOW_BYTES
        self.held_bytes = 0
        """Received and not yet taken by the owner."""
        self.owed_bytes = 0
        """Taken by the owner and not yet given back as credit."""


class Channels:
    """The channels of one side of a connection.

    Args:
        is_client: The client opens odd channels, the agent even ones.
    """

    def __init__(self, *, is_client: bool) -> None:
        self._alive: dict[int, Channel] = {}
        self._next_id = 1 if is_client else 2
        self._our_parity = self._next_id % 2
        self._counts = {True: 0, False: 0}
        """How many are alive: ours, theirs."""
        self._highest = {True: 0, False: 0}
        """The highest number ever begun: ours, theirs."""
        self._budget_bytes = GROWTH_BUDGET_BYTES

    def __contains__(self, channel_id: int) -> bool:
        """Whether the channel is alive: known, not reset, not ended both ways."""
        return channel_id in self._alive

    def __len__(self) -> int:
        return len(self._alive)

    def is_begun(self, channel_id: int) -> bool:
        """Whether the channel is alive and the other side knows of it."""
        channel = self._alive.get(channel_id)
        return channel is not None and channel.begun

    @property
    def may_open(self) -> bool:
        """Whether there is room for one more of ours."""
        return self._counts[True] < MAX_CHANNELS and self._next_id <= MAX_CHANNEL_ID

    def open(self) -> int:
        """A number for a channel of ours. The other side learns of it by the message that begins it (`begin`).

        Raises:
            LocalProtocolError: Too many are alive.
        """
        if not self.may_open:
            raise LocalProtocolError(f"more than {MAX_CHANNELS} channels")
        channel_id = self._next_id
        self._next_id += 2
        self._alive[channel_id] = Channel(channel_id, is_ours=True)
        self._counts[True] += 1
        return channel_id

    def check_begin(self, channel_id: int) -> None:
        """Raises LocalProtocolError unless `begin` may be called."""
        channel = self._alive.get(channel_id)
        if channel is None or not channel.is_ours or channel.begun:
            raise LocalProtocolError(f"channel {channel_id} has not been opened for this message")

    def begin(self, channel_id: int) -> None:
        """A message of ours tells the other side of the channel."""
        self._alive[channel_id].begun = True
        self._highest[True] = max(self._highest[True], channel_id)

    def begun_by_other(self, channel_id: int) -> None:
        """A message of the other side has told us of the channel.

        Raises:
            RemoteProtocolError: The number is not the other side's to give, or is in use, or there are too many.
        """
        if channel_id % 2 == self._our_parity:
            raise RemoteProtocolError(f"channel {channel_id} has a number that only this side may give")
        if channel_id in self._alive:
            raise RemoteProtocolError(f"channel {channel_id} was begun twice")
        if self._counts[False] >= MAX_CHANNELS:
            raise RemoteProtocolError(f"more than {MAX_CHANNELS} channels")
        self._alive[channel_id] = Channel(channel_id, is_ours=False)
        self._counts[False] += 1
        self._highest[False] = max(self._highest[False], channel_id)

    def drop(self, channel_id: int) -> bool:
        """Forgets a channel; whether there was one."""
        channel = self._alive.pop(channel_id, None)
        if channel is None:
            return False
        self._counts[channel.is_ours] -= 1
        self._budget_bytes += channel.window_bytes - INITIAL_WINDOW_BYTES
        return True

    # --- this side acts -----------------------------------------------------------------------------------

    def credit(self, channel_id: int) -> int:
        """How many bytes may be sent at once; 0 for a channel that is not alive."""
        channel = self._alive.get(channel_id)
        return channel.credit_bytes if channel is not None else 0

    def spend(self, channel_id: int, wanted_bytes: int) -> int:
        """How many of `wanted_bytes` go into the next `Data`; the credit is taken. 0: wait for credit."""
        channel = self._ours_to_act(channel_id)
        if channel.sent_end:
            raise LocalProtocolError(f"data on channel {channel_id} after its end")
        size_bytes = min(wanted_bytes, channel.credit_bytes, MAX_PAYLOAD_BYTES)
        channel.credit_bytes -= size_bytes
        return size_bytes

    def send_end(self, channel_id: int) -> None:
        """This side sends no more."""
        channel = self._ours_to_act(channel_id)
        if channel.sent_end:
            raise LocalProtocolError(f"channel {channel_id} was ended twice")
        channel.sent_end = True
        if channel.got_end:
            self.drop(channel_id)

    def acknowledge(self, channel_id: int, size_bytes: int) -> int:
        """The owner has taken `size_bytes` out; the credit to send, 0 to send none yet or no more."""
        channel = self._alive.get(channel_id)
        if channel is None:
            return 0
        if size_bytes > channel.held_bytes:
            raise LocalProtocolError(f"channel {channel_id} holds {channel.held_bytes} bytes, not {size_bytes}")
        channel.held_bytes -= size_bytes
        channel.owed_bytes += size_bytes
        if channel.got_end or channel.owed_bytes * 2 < channel.window_bytes:
            return 0
        credit_bytes = channel.owed_bytes
        channel.owed_bytes = 0
        if channel.held_bytes == 0:
            growth = min(channel.window_bytes, MAX_WINDOW_BYTES - channel.window_bytes, self._budget_bytes)
            self._budget_bytes -= growth
            channel.window_bytes += growth
            credit_bytes += growth
        return credit_bytes

    def abandon(self, channel_id: int) -> bool:
        """The owner is gone. True: the other side has to be told by a Reset. False: it need not know (yet)."""
        channel = self._alive.get(channel_id)
        if channel is None:
            return False
        if not channel.begun:
            self.drop(channel_id)
            return False
        if channel.sent_end:
            # The other side may not have read everything yet, and a Reset could cost it the rest.
            channel.discards = True
            return self._refuse_if_held(channel)
        self.drop(channel_id)
        return True

    # --- the other side acts ------------------------------------------------------------------------------

    def got_data(self, channel_id: int, size_bytes: int) -> tuple[bool, bool]:
        """`Data` has come: whether the owner gets it, and whether a Reset is to be sent.

        Raises:
            RemoteProtocolError: It is empty or too large, more than the credit, after the end, or on a channel
                that never was.
        """
        if not 0 < size_bytes <= MAX_PAYLOAD_BYTES:
            raise RemoteProtocolError(f"data of {size_bytes} bytes, between 1 and {MAX_PAYLOAD_BYTES} are allowed")
        channel = self._theirs_to_act(channel_id)
        if channel is None:
            return False, False
        if channel.got_end:
            raise RemoteProtocolError(f"data on channel {channel_id} after its end")
        if channel.held_bytes + channel.owed_bytes + size_bytes > channel.window_bytes:
            raise RemoteProtocolError(f"more data on channel {channel_id} than its credit allows")
        channel.held_bytes += size_bytes
        if channel.discards:
            return False, self._refuse_if_held(channel)
        return True, False

    def got_credit(self, channel_id: int, size_bytes: int) -> bool:
        """`Credit` has come: whether the owner is to be told."""
        channel = self._theirs_to_act(channel_id)
        if channel is None:
            return False
        if size_bytes == 0 or channel.credit_bytes + size_bytes > MAX_CREDIT_BYTES:
            raise RemoteProtocolError(f"a credit of {size_bytes} bytes on channel {channel_id}")
        channel.credit_bytes += size_bytes
        return not channel.sent_end

    def got_end(self, channel_id: int) -> bool:
        """`EndOfData` has come: whether the owner is to be told."""
        channel = self._theirs_to_act(channel_id)
        if channel is None:
            return False
        if channel.got_end:
            raise RemoteProtocolError(f"channel {channel_id} was ended twice")
        channel.got_end = True
        if channel.sent_end:
            self.drop(channel_id)
        return not channel.discards

    def got_reset(self, channel_id: int) -> bool:
        """`Reset` has come: whether the owner is to be told."""
        channel = self._theirs_to_act(channel_id)
        if channel is None:
            return False
        self.drop(channel_id)
        return not channel.discards

    # --- inside -------------------------------------------------------------------------------------------

    def _refuse_if_held(self, channel: Channel) -> bool:
        """As TCP does when bytes come for a socket that was closed."""
        if channel.held_bytes == 0:
            return False
        self.drop(channel.id)
        return True

    def _ours_to_act(self, channel_id: int) -> Channel:
        channel = self._alive.get(channel_id)
        if channel is None or not channel.begun or channel.discards:
            raise LocalProtocolError(f"channel {channel_id} is not open")
        return channel

    def _theirs_to_act(self, channel_id: int) -> Channel | None:
        """The channel; None if it has ended on this side, which the other side may not know yet."""
        channel = self._alive.get(channel_id)
        if channel is not None and channel.begun:
            return channel
        is_ours = channel_id % 2 == self._our_parity
        if channel is not None or channel_id == 0 or channel_id > self._highest[is_ours]:
            raise RemoteProtocolError(f"channel {channel_id} was never begun")
        return None
