"""A `Connection` on a trio stream: the one part of this package that does I/O.

`Peer.run` reads and lets `Connection` say what it means; requests of the other side become tasks that run the
handler, notifications are handed to it one after the other, bytes of channels wait in their `Channel`. Whoever sends
appends whole frames to one buffer, so they never interleave, and has the `Writer` write it: on a socket at once,
without a detour through the scheduler, as far as that is possible; a task does the rest. Senders of anything wait
while that buffer is over HIGH_WATER_BYTES; the reader waits for nothing but bytes.

Cancellation is safe everywhere: a cancelled `request` is abandoned (its late answer is dropped), a cancelled
`Channel.send` may have sent a part. Nothing here decides what a message does: that is the handler.

    peer = Peer(stream, is_client=True, handler=handle)
    async with trio.open_nursery() as nursery:
        welcome = await nursery.start(peer.run)
        answer = await peer.request(StatFile(b"/etc/hosts", follow=True), FileStatted)
"""

from mirror.protocol.connection import ConnectionLost, TargetEnded
from mirror.protocol.frame import LocalProtocolError, ProtocolError, RemoteProtocolError
from mirror.protocol.stream.channel import Channel, ChannelReset
from mirror.protocol.stream.peer import Handler, Peer, RequestFailed

__all__ = [
    "Channel",
    "ChannelReset",
    "ConnectionLost",
    "Handler",
    "LocalProtocolError",
    "Peer",
    "ProtocolError",
    "RemoteProtocolError",
    "RequestFailed",
    "TargetEnded",
]
