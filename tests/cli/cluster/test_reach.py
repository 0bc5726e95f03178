"""The way to an agent that others can reach too: a real agent, behind a server that forwards and runs commands."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from mirror.cli.cluster import identity, reach
from mirror.cli.cluster.agents import Agent
from mirror.cli.cluster.api import Api, ApiError, open_api
from mirror.cli.cluster.identity import GuardedStream
from mirror.cli.cluster.portforward import PortRefused
from mirror.cli.errors import TargetError
from mirror.protocol import messages as m
from mirror.protocol.stream import Peer
from tests.agent.actors import ListeningAgent, listen_agent
from tests.cli.cluster.servers import Answer, Asked, access_to, failure, forward, http_server

PATIENCE_S = 20.0
AGENT = Agent("shop", "", "", "web-1", is_begun=True, container="mirror-agent-1", is_guarded=True)


class Pod:
    """What the API server knows: an agent that runs on this machine.

    Attributes:
        file: Where it has put its secret.
        address: Its pod's.
        runs: How many commands have been run.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.address = "127.0.0.1"
        self.runs = 0

    async def answer(self, asked: Asked) -> Answer:
        if asked.path == "/api/v1/namespaces/shop/pods/web-1":
            return Answer(200, {"kind": "Pod", "status": {"podIP": self.address}})
        return failure(404, "NotFound", "nothing")

    async def upgrade(self, stream: trio.abc.Stream, asked: Asked) -> Answer | None:
        try:
            if asked.path.endswith("/portforward"):
                await forward(stream, asked)
            else:
                await self.run(stream, asked)
        except* (trio.ClosedResourceError, trio.BrokenResourceError):
            pass  # agent and client close it at the same time
        return None

    async def run(self, stream: trio.abc.Stream, asked: Asked) -> None:
        query = parse_qs(urlsplit(asked.target).query)
        assert query["container"] == ["mirror-agent-1"]
        python, *words = query["command"]
        assert python == "python3"
        assert words.pop() == identity.FILE
        self.runs += 1
        command = [sys.executable, *words, str(self.file)]
        ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(asked.headers['sec-websocket-key'])}\r\n"
            "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        )
        outcome = b'{"status":"Success"}' if ended.returncode == 0 else b'{"status":"Failure","message":"exit status"}'
        frames = [(1, ended.stdout), (2, ended.stderr), (3, outcome)]
        content = [Frame(Opcode.BINARY, bytes([channel]) + data).serialize(mask=False) for channel, data in frames]
        farewell = Frame(Opcode.CLOSE, (1000).to_bytes(2, "big")).serialize(mask=False)
        await stream.send_all(head.encode() + b"".join(content) + farewell)


@contextlib.asynccontextmanager
async def cluster(pod: Pod) -> AsyncIterator[Api]:
    async with (
        http_server(pod.answer, upgrade=pod.upgrade) as server,
        open_api(access_to(server.url)) as api,
    ):
        yield api


@contextlib.contextmanager
def agent_of(pod: Pod, *arguments: str) -> Iterator[ListeningAgent]:
    with listen_agent("--targetless", "--identity", str(pod.file), *arguments) as agent:
        yield agent


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    return Pod(tmp_path / "agent.pem")


async def hear(_: m.Message) -> None:
    pass


async def works(stream: GuardedStream) -> bool:
    peer = Peer(stream, is_client=True, handler=hear)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(peer.run)
            answer = await peer.request(m.StatFile(b"/", follow=True))
            await peer.aclose()
    return isinstance(answer, m.FileStatted)


@pytest.mark.parametrize("is_direct", [False, True])
async def test_it_is_reached_and_known(pod: Pod, is_direct: bool) -> None:
    with agent_of(pod, *(["--direct"] if is_direct else [])) as listening:
        async with cluster(pod) as api:
            agent = await reach.identify(api, dataclasses.replace(AGENT, is_direct=is_direct))
            assert agent.identity is not None
            assert agent.identity.port == listening.port
            for _ in range(2):
                stream = await reach.open_guarded(api, agent)
                assert stream.failure is None
                assert await works(stream)
            assert await reach.identify(api, agent) is agent
    assert pod.runs == 1


async def test_one_that_has_ended(pod: Pod) -> None:
    """By a port-forward that is known only later, directly at once."""
    async with cluster(pod) as api:
        with agent_of(pod) as listening:
            agent = await reach.identify(api, AGENT)
            listening.process.kill()
            await trio.to_thread.run_sync(listening.process.wait)
        stream = await reach.open_guarded(api, agent)
        assert isinstance(stream.failure, PortRefused)
        await trio.aclose_forcefully(stream)
        with pytest.raises(ApiError, match=f"nothing listens on port {listening.port} of 127.0.0.1"):
            await reach.open_guarded(api, dataclasses.replace(agent, is_direct=True, address="127.0.0.1"))


async def test_one_that_has_no_secret(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "COMMAND", ("python3", "-c", "print('no agent')", identity.FILE))
    async with cluster(pod) as api:
        with pytest.raises(ApiError, match="is its image an agent's of this release"):
            await reach.identify(api, AGENT)
    monkeypatch.setattr(identity, "COMMAND", ("python3", "-c", "exit('no such module')", identity.FILE))
    async with cluster(pod) as api:
        with pytest.raises(ApiError, match="the agent's secret cannot be read: no such module"):
            await reach.identify(api, AGENT)


async def test_an_address_that_the_cluster_does_not_know_yet(pod: Pod) -> None:
    """Which is worth another try: the node's word that the container runs comes first."""
    pod.address = ""
    direct = dataclasses.replace(AGENT, is_direct=True)
    with agent_of(pod, "--direct"):
        async with cluster(pod) as api:
            with pytest.raises(ApiError, match="does not yet know the address of the pod shop/web-1"):
                await reach.identify(api, direct)
            pod.address = "127.0.0.1"
            assert (await reach.identify(api, direct)).address == "127.0.0.1"


async def test_an_address_that_cannot_be_reached(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.address = "192.0.2.1"

    class Unreachable:
        def __init__(self, *_: object) -> None:
            self.is_closed = False

        async def connect(self, _: object) -> None:
            raise OSError(errno.EHOSTUNREACH, "No route to host")

        def close(self) -> None:
            self.is_closed = True

    with agent_of(pod):
        async with cluster(pod) as api:
            agent = await reach.identify(api, dataclasses.replace(AGENT, is_direct=True))
            monkeypatch.setattr(trio.socket, "socket", Unreachable)
            with pytest.raises(TargetError) as caught:
                await reach.open_guarded(api, agent)
            monkeypatch.undo()
    assert "at its pod's address 192.0.2.1, port " in caught.value.sentence
    assert "(No route to host); leave out --agent-transport direct" in caught.value.sentence
