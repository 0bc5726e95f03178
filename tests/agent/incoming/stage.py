"""What the tests of incoming traffic act on: a pod with a caller, the pod's own server, agents and their clients.

Everything is real: namespaces, the kernel's tables, an agent process, the protocol on a socket.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import trio

from mirror.protocol.messages import Accepted, Message, Notice, Subscribe, Unsubscribe
from mirror.protocol.stream import Channel, ConnectionLost, Peer

HERE = Path(__file__).parent
TARGET = {socket.AF_INET: "10.99.0.1", socket.AF_INET6: "fd99::1"}
CALLER = {socket.AF_INET: "10.99.0.2", socket.AF_INET6: "fd99::2"}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
"""Where nft and conntrack are, also for those who are not root."""
PATIENCE_S = 60.0
"""What counts as never, on a busy machine."""


class Pod:
    """Two network namespaces in a user namespace of their own (see `pod.py`)."""

    def __init__(self, process: subprocess.Popen[bytes], target: socket.socket, caller: socket.socket) -> None:
        self.process = process
        self._links = {"target": target, "caller": caller}
        self._connected: list[socket.socket] = []

    def make_socket(self, where: str, family: socket.AddressFamily, kind: int = socket.SOCK_STREAM) -> socket.socket:
        link = self._links[where]
        link.sendall(json.dumps({"socket": [family, kind]}).encode() + b"\n")
        _, fds, _, _ = socket.recv_fds(link, 4096, 1)
        return socket.socket(fileno=fds[0])

    def run(self, where: str, *command: str) -> str:
        """The output of a program run there."""
        link = self._links[where]
        link.sendall(json.dumps({"run": command}).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += link.recv(1 << 16)
        done = json.loads(answer)
        assert done["status"] == 0, done
        output: str = done["output"]
        return output

    async def connect(
        self,
        port: int,
        family: socket.AddressFamily = socket.AF_INET,
        where: str = "caller",
        address: str = "",
        source: str = "",
    ) -> trio.SocketStream:
        """A connection to the pod, from outside or (`where="target"`) from inside."""
        made = self.make_socket(where, family)
        if source:
            made.bind((source, 0))
        self._connected.append(made)
        connecting = trio.socket.from_stdlib_socket(made)
        await connecting.connect((address or TARGET[family], port))
        return trio.SocketStream(connecting)

    def close_connections(self) -> None:
        """Ends what `connect` has made."""
        for made in self._connected:
            made.close()
        self._connected.clear()

    def listen(
        self, port: int = 0, family: socket.AddressFamily = socket.AF_INET, address: str = ""
    ) -> trio.SocketListener:
        """A listener of the target's own process."""
        listening = self.make_socket("target", family)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(128)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


@contextlib.contextmanager
def make_pod(uid: int = 0) -> Iterator[Pod]:
    """A pod whose processes have this uid and gid inside.

    Raises:
        RuntimeError: User namespaces are forbidden here.
    """
    target, target_end = socket.socketpair()
    caller, caller_end = socket.socketpair()
    with target, caller:
        fds = target_end.fileno(), caller_end.fileno()
        unshare = ["unshare", "--user", f"--map-user={uid}", f"--map-group={uid}", "--net", "--keep-caps"]
        command = [*unshare, sys.executable, str(HERE / "pod.py"), *map(str, fds)]
        environment = {**os.environ, "PATH": PATH}
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, env=environment)
        target_end.close()
        caller_end.close()
        try:
            for link in target, caller:  # the caller's side waits for the veth pair
                if link is caller:
                    link.sendall(b"go\n")
                if link.recv(16) != b"{}\n":
                    raise RuntimeError("user and network namespaces cannot be made here")
            yield Pod(process, target, caller)
        finally:
            target.close()
            caller.close()
            process.wait(timeout=PATIENCE_S)  # both of its processes end with their link


class Client:
    """A proxy's end of the connection to an agent, as far as incoming traffic goes."""

    def __init__(self, stream: trio.SocketStream, user: str = "") -> None:
        self._accepted_in, self._accepted = trio.open_memory_channel[tuple[Accepted, Channel]](1000)
        self._notices_in, self._notices = trio.open_memory_channel[str](1000)
        self.peer = Peer(stream, is_client=True, handler=self._handle, user=user)

    async def subscribe(self, port: int, *, steal: bool, address: bytes = b"", **kept: Any) -> None:
        await self.peer.request(Subscribe(port, steal, address, **kept))

    async def unsubscribe(self, port: int) -> None:
        await self.peer.request(Unsubscribe(port))

    async def accept(self) -> tuple[Accepted, Channel]:
        with trio.fail_after(PATIENCE_S):
            return await self._accepted.receive()

    async def notice(self) -> str:
        with trio.fail_after(PATIENCE_S):
            return await self._notices.receive()

    def has_arrivals(self) -> bool:
        return self._accepted.statistics().current_buffer_used > 0

    def has_notices(self) -> bool:
        return self._notices.statistics().current_buffer_used > 0

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        with contextlib.suppress(ConnectionLost):
            await self.peer.run(task_status=task_status)

    async def _handle(self, message: Message) -> None:
        match message:
            case Accepted():
                self._accepted_in.send_nowait((message, self.peer.accept_channel(message.channel)))
            case Notice():
                self._notices_in.send_nowait(message.text)
            case _:
                raise AssertionError(message)


class AgentProcess:
    """An agent for the pod, in a process of its own (see `small_agent.py`)."""

    def __init__(self, pod: Pod, clients: int, support: dict[str, bool]) -> None:
        # Abstract unix addresses belong to a network namespace, which is not the target's: nothing shows there.
        listener = socket.socket(socket.AF_UNIX)
        with listener:
            listener.bind("")
            listener.listen(clients)
            self._address = listener.getsockname()
            pid, fd = str(pod.process.pid), listener.fileno()
            program = [sys.executable, "-W", "error", str(HERE / "small_agent.py")]
            arguments = [pid, json.dumps(support), str(fd), str(clients)]
            self.process = subprocess.Popen([*program, *arguments], pass_fds=[fd], stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        return self.process.pid

    @contextlib.asynccontextmanager
    async def client(self, user: str = "") -> AsyncIterator[Client]:
        connecting = trio.socket.socket(socket.AF_UNIX)
        await connecting.connect(self._address)
        client = Client(trio.SocketStream(connecting), user)
        async with trio.open_nursery() as nursery:
            await nursery.start(client.run)
            yield client
            await client.peer.aclose()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def start_agent(pod: Pod, clients: int = 1, **support: bool) -> Iterator[AgentProcess]:
    """An agent that is gone after the block, by itself if it has had so many clients."""
    agent = AgentProcess(pod, clients, support)
    try:
        yield agent
    finally:
        agent.kill()


class Agent:
    """An agent of one test's own, and its clients."""

    def __init__(self, process: AgentProcess, clients: list[Client]) -> None:
        self.process = process
        self.clients = clients

    @property
    def client(self) -> Client:
        return self.clients[0]


@contextlib.asynccontextmanager
async def run_agent(pod: Pod, clients: int = 1, **support: bool) -> AsyncIterator[Agent]:
    """An agent that lives as long as its clients do."""
    with start_agent(pod, clients, **support) as process:
        async with contextlib.AsyncExitStack() as stack:
            yield Agent(process, [await stack.enter_async_context(process.client()) for _ in range(clients)])
        await until(lambda: process.process.poll() is not None)


@contextlib.asynccontextmanager
async def serving(listener: trio.SocketListener) -> AsyncIterator[list[str]]:
    """The target's own process: greets each connection with its peer's address, then echoes. Gives the peers seen."""
    peers: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError, OSError):  # the caller may have gone already
                address = stream.socket.getpeername()[0]
                peers.append(address)
                await stream.send_all(f"target sees {address}\n".encode())
                async for data in stream:
                    await stream.send_all(data)
                await stream.send_all(b"end")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield peers
        nursery.cancel_scope.cancel()
    await listener.aclose()


async def read_line(stream: trio.SocketStream) -> bytes:
    line = b""
    with trio.fail_after(PATIENCE_S):
        while not line.endswith(b"\n"):
            data = await stream.receive_some(1)
            if not data:
                break
            line += data
    return line


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = bytearray()
    with trio.fail_after(PATIENCE_S):
        while len(data) < size and (piece := await stream.receive_some(size - len(data))):
            data += piece
    return bytes(data)


async def read_all(stream: trio.SocketStream) -> bytes:
    data = bytearray()
    with trio.fail_after(PATIENCE_S):
        async for piece in stream:
            data += piece
    return bytes(data)


async def receive_all(channel: Channel) -> bytes:
    data = b""
    with trio.fail_after(PATIENCE_S):
        while piece := await channel.receive(1 << 16):
            data += piece
    return data


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Waits for something that only asking again can tell."""
    with trio.fail_after(PATIENCE_S):
        while True:
            answer = condition()
            if answer is True or (not isinstance(answer, bool) and await answer):
                return
            await trio.sleep(0.005)
