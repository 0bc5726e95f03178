"""An agent that can do nothing but incoming traffic.

    python small_agent.py PID SUPPORT LISTENER CLIENTS

PID is the target's; its first child is taken for the machine that the target is on.
SUPPORT is JSON: fields of `Support` to be taken as given, the others are found out.
LISTENER is the descriptor of a listening socket, whose clients are served as the real agent would serve them.
It ends when as many as CLIENTS have gone.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import sys

import msgspec
import trio

from mirror.agent import libc
from mirror.agent.incoming import Channel, Incoming, open_incoming
from mirror.agent.incoming.namespace import in_namespace
from mirror.agent.incoming.support import probe
from mirror.protocol.messages import Accepted, Done, Hello, Message, Notice, Subscribe, Unsubscribe
from mirror.protocol.stream import ConnectionLost, Peer, RequestFailed

KEPT = (bytes((10, 99, 0, 77)),)
"""The agent's own row of callers that are never taken from the target."""

FAULTY_PORT = 7999
"""Connections to it are delivered by code with an error."""


class Client:
    """One client, as owner of its subscriptions."""

    def __init__(self, incoming: Incoming, stream: trio.SocketStream) -> None:
        self.user = ""
        self._incoming = incoming
        self.peer = Peer(stream, is_client=False, handler=self.handle, capabilities=["incoming"])

    async def handle(self, message: Message) -> Message:
        match message:
            case Subscribe():
                introduction = await self.peer.handshake()
                assert isinstance(introduction, Hello)
                self.user = introduction.user
                await self._incoming.subscribe(self, message)
            case Unsubscribe():
                await self._incoming.unsubscribe(self, message.port)
            case _:
                raise RequestFailed(38)
        return Done()

    async def deliver(self, accepted: Accepted) -> Channel | None:
        if accepted.local.port == FAULTY_PORT:
            raise ValueError("an error on purpose")
        try:
            channel = self.peer.open_channel()
            await self.peer.notify(msgspec.structs.replace(accepted, channel=channel.id))
        except (ConnectionLost, RequestFailed):
            return None
        return channel

    async def notice(self, text: str) -> None:
        try:
            await self.peer.notify(Notice(text))
        except ConnectionLost:
            return

    async def run(self) -> None:
        try:
            await self.peer.run()
        except ConnectionLost:
            pass
        finally:
            with trio.CancelScope(shield=True):
                await self._incoming.close(self)


async def main(net_fd: int, node_fd: int, wanted: dict[str, bool], listener: trio.SocketListener, clients: int) -> None:
    with in_namespace(net_fd) as namespace:
        support = dataclasses.replace(namespace.call(probe), **wanted)
    async with (
        listener,
        open_incoming(net_fd, node_fd=node_fd, keep_from=KEPT, support=support) as incoming,
        trio.open_nursery() as nursery,
    ):
        for _ in range(clients):
            nursery.start_soon(Client(incoming, await listener.accept()).run)


if __name__ == "__main__":
    namespaces = f"/proc/{sys.argv[1]}/ns"
    net_fd = os.open(f"{namespaces}/net", os.O_RDONLY)
    wanted = json.loads(sys.argv[2])
    with open(f"/proc/{sys.argv[1]}/task/{sys.argv[1]}/children") as children:
        node = sys.argv[1] if wanted.pop("is_the_nodes", False) else children.read().split()[0]
        node_fd = os.open(f"/proc/{node}/ns/net", os.O_RDONLY)
    if not os.path.samefile(f"{namespaces}/user", "/proc/self/ns/user"):
        libc.setns(os.open(f"{namespaces}/user", os.O_RDONLY), libc.CLONE_NEWUSER)
    listening = trio.socket.from_stdlib_socket(socket.socket(fileno=int(sys.argv[3])))
    trio.run(main, net_fd, node_fd, wanted, trio.SocketListener(listening), int(sys.argv[4]))
