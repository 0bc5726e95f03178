"""What the two ways of a port-forward have in common. No I/O here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

WRITE_BYTES = 256 << 10
"""The most data that is written at once: every write wakes four processes on its way."""


@dataclasses.dataclass
class Received:
    """What some bytes from the other side meant.

    Attributes:
        data: From the port, in order. These are views of what was received, so they last as long as that.
        error: What the cluster says went wrong, in its words.
        ended: Whether the port, or the cluster, has ended the stream.
        broken: Why what came cannot be understood; empty if it can.
        replies: To be sent back.
    """

    data: list[memoryview] = dataclasses.field(default_factory=list)
    error: bytes = b""
    ended: bool = False
    broken: str = ""
    replies: bytes = b""


class Forwarding(Protocol):
    """The client's end of a port-forward: bytes in, bytes out."""

    @property
    def is_ready(self) -> bool:
        """Whether data may be sent; else something must be received first."""
        ...

    def headers(self) -> list[tuple[str, str]]:
        """What asks for the upgrade."""
        ...

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether the answer (names in small letters) agrees to what was asked for."""
        ...

    def begin(self, port: int) -> bytes:
        """What to send first."""
        ...

    def frames(self, data: memoryview) -> bytes | memoryview:
        """What carries `data`, at most WRITE_BYTES. It lasts until the next call."""
        ...

    def ping(self) -> bytes:
        """What asks the other side for a sign of life."""
        ...

    def close(self) -> bytes:
        """What ends the stream."""
        ...

    def receive(self, data: bytes | memoryview) -> Received:
        """What has come, understood."""
        ...
