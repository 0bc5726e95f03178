"""What this package asks of those whose subscriptions it serves; the agent's clients are the real ones."""

from __future__ import annotations

from typing import Protocol

from mirror.protocol.messages import Accepted


class Channel(Protocol):
    """A stream to the client, as `mirror.protocol.stream.Channel`.

    Raises: ChannelReset once the client has reset it, ConnectionLost once the client is gone.
    """

    async def send(self, data: bytes, /) -> None:
        """Sends all of it, at the client's pace."""

    async def receive(self, max_bytes: int, /) -> bytes:
        """Something, or empty at the client's end of data."""
        ...

    async def send_eof(self) -> None:
        """No more data in this direction."""

    def reset(self, errno: int = 0, /) -> None:
        """Ends both directions at once. Never raises."""

    async def aclose(self) -> None:
        """Gives the channel up. Never raises, and may be called at any time."""


class Owner(Protocol):
    """A client with subscriptions. Compared by identity.

    Attributes:
        user: Who that is, for others to read: `anna@laptop`; empty if that is not known.
    """

    user: str

    async def deliver(self, accepted: Accepted) -> Channel | None:
        """Opens a channel and announces the connection on it.

        Args:
            accepted: Complete but for its channel, which is 0.

        Returns:
            The channel, or None if the client cannot be reached: a connection that was to be stolen then goes to
            the target's own process.
        """
        ...

    async def notice(self, text: str) -> None:
        """Shows the user a sentence. Never raises."""
