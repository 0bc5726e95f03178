"""Connected peers for tests, and a raw end for what no peer would do."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from mirror.protocol import messages as m
from mirror.protocol.frame import FrameReader, encode_frame
from mirror.protocol.stream import Channel, ConnectionLost, Handler, Peer, RequestFailed

STAT = m.Stat(*range(13))
HERE = m.SocketAddress(b"\x7f\0\0\1", 80)
STAT_FILE = m.StatFile(b"/etc/hosts", follow=True)
STATTED = m.FileStatted(STAT)

MIB = 1 << 20

Pair = tuple[trio.abc.Stream, trio.abc.Stream]
MakePair = Callable[[], Pair]


def memory_pair() -> Pair:
    """Any trio stream."""
    return trio.testing.memory_stream_pair()


async def refuse(message: m.Message) -> m.Message:
    """A handler for a side that should not be asked."""
    raise RequestFailed(38, f"{type(message).__name__} is not expected here")


@asynccontextmanager
async def connect(pair: Pair, *, client: Handler = refuse, agent: Handler = refuse) -> AsyncIterator[tuple[Peer, Peer]]:
    """A client and an agent that have introduced themselves; ended by the client, in peace, afterwards."""
    ours = Peer(pair[0], is_client=True, handler=client)
    theirs = Peer(pair[1], is_client=False, handler=agent, capabilities=("files",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_until_told, theirs, "done")
        welcome = await nursery.start(ours.run)
        assert welcome == m.Welcome(1, ("files",), {})
        assert await theirs.handshake() == m.Hello(1, 1, ())
        yield ours, theirs
        await ours.aclose("done")


async def run_until_told(peer: Peer, reason: str) -> None:
    """Runs a peer until the other side says goodbye for this reason."""
    try:
        await peer.run()
    except ConnectionLost as lost:
        if str(lost) != reason:
            raise


async def never_answer(message: m.Message) -> m.Message:
    await trio.sleep_forever()
    raise AssertionError


async def receive_all(channel: Channel) -> bytes:
    received = bytearray()
    while data := await channel.receive():
        received += data
    return bytes(received)


async def count_all(channel: Channel) -> int:
    count = 0
    while data := await channel.receive():
        count += len(data)
    return count


async def send_and_end(channel: Channel, data: bytes, times: int = 1) -> None:
    for _ in range(times):
        await channel.send(data)
    await channel.send_eof()


class Switchboard:
    """A handler that connects every channel and keeps it for the test."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.channels: dict[int, Channel] = {}

    async def __call__(self, message: m.Message) -> m.Message:
        """Accepts `Connect`s."""
        assert self.peer is not None
        match message:
            case m.Connect(channel=channel, endpoint=endpoint):
                self.channels[channel] = self.peer.accept_channel(channel)
                return m.Connected(HERE, endpoint)
            case m.StatFile():
                return STATTED
            case _:
                return await refuse(message)


@asynccontextmanager
async def connect_channels(
    pair: Pair, count: int = 1
) -> AsyncIterator[tuple[Peer, Peer, list[Channel], list[Channel]]]:
    """As `connect`, with channels that are open: the client's ends and the agent's."""
    switchboard = Switchboard()
    async with connect(pair, agent=switchboard) as (client, agent):
        switchboard.peer = agent
        ours = [client.open_channel() for _ in range(count)]
        for channel in ours:
            await client.request(m.Connect(channel.id, HERE))
        yield client, agent, ours, [switchboard.channels[channel.id] for channel in ours]
        for channel in ours:
            channel.close()


class Raw:
    """One end of a link that is told every frame to send."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._reader = FrameReader(m.AgentMessage)
        self._frames: deque[tuple[int, m.Message]] = deque()

    async def send(self, *frames: tuple[int, m.Message]) -> None:
        """Sends these frames."""
        await self.stream.send_all(b"".join(encode_frame(*frame) for frame in frames))

    async def receive(self) -> tuple[int, m.Message] | None:
        """The next frame; None if the stream has ended."""
        while not self._frames:
            data = await self.stream.receive_some()
            if not data:
                return None
            self._reader.feed(data)
            self._frames += [(frame.request_id, frame.message) for frame in self._reader]
        return self._frames.popleft()

    async def introduce(self) -> None:
        """Plays the agent's part of the introduction."""
        frame = await self.receive()
        assert frame is not None
        assert isinstance(frame[1], m.Hello)
        await self.send((0, m.Welcome(1)))
