"""The kubelet's probes of a stolen port stay with the target's own process."""

from __future__ import annotations

import socket

import pytest
import trio

from mirror.agent.incoming.probes import is_probe

from .small_agent import KEPT
from .stage import CALLER, TARGET, Client, Pod, read_line, run_agent, serving

NODE = {socket.AF_INET: bytes((10, 99, 0, 2)), socket.AF_INET6: b"\xfd\x99" + bytes(13) + b"\2"}
OTHER = socket.inet_ntoa(KEPT[0])
PROBE = (
    b"GET /healthz HTTP/1.1\r\nHost: 10.244.1.7:8080\r\nUser-Agent: kube-probe/1.31\r\nAccept: */*\r\n"
    b"Connection: close\r\n\r\n"
)
REQUEST = PROBE.replace(b"kube-probe/1.31", b"curl/8.5.0")


@pytest.mark.parametrize(
    "beginning",
    [
        PROBE,
        PROBE.replace(b"User-Agent: ", b"user-agent:"),
        PROBE.replace(b"HTTP/1.1", b"HTTP/1.0"),
        b"HEAD /a?b HTTP/1.1\r\nuser-agent: kube-probe/",
    ],
)
def test_what_a_probe_begins_with(beginning: bytes) -> None:
    assert is_probe(beginning)


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        REQUEST,
        PROBE[:40],
        REQUEST + PROBE,
        b"POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nUser-Agent: kube-probe/1.31\r\n\r\n",
        PROBE.replace(b"User-Agent: ", b"X-User-Agent: "),
        PROBE.replace(b"kube-probe", b"not-kube-probe"),
        b"\x16\x03\x01\x02\x00\x01" + bytes(200),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50),
        b"User-Agent: kube-probe/1.31\r\n\r\n",
    ],
)
def test_what_it_does_not(beginning: bytes) -> None:
    assert not is_probe(beginning)


async def test_callers_who_are_kept_reach_the_target_untouched(
    pod: Pod, client: Client, port: int, family: socket.AddressFamily
) -> None:
    async with serving(pod.listen(port, family)):
        await client.subscribe(port, steal=True, keep_from=list(NODE.values()))
        kept = await pod.connect(port, family)
        assert await read_line(kept) == f"target sees {CALLER[family]}\n".encode()
        await pod.connect(port, family, where="target", address=TARGET[family])
        accepted, _ = await client.accept()
        assert accepted.peer.address == accepted.local.address
        assert not client.has_arrivals()
        # Asked for after all.
        await client.subscribe(port, steal=True)
        await pod.connect(port, family)
        assert (await client.accept())[0].peer.address == NODE[family]


async def test_where_nobody_listens_a_kept_caller_is_refused(pod: Pod, client: Client, port: int) -> None:
    """So that a TCP probe tells the truth about the target's process."""
    await client.subscribe(port, steal=True, keep_from=[NODE[socket.AF_INET]])
    with pytest.raises(ConnectionRefusedError):
        await pod.connect(port)


async def test_the_nodes_own_calls_are_kept_and_those_through_it_are_not(
    pod: Pod, support: dict[str, bool], port: int, family: socket.AddressFamily
) -> None:
    """The stage's caller is the agent's node: it calls from the address that its route to the target gives."""
    async with serving(pod.listen(port, family)), run_agent(pod, **support) as agent:
        await agent.client.subscribe(port, steal=True, keep_node=True)
        assert await read_line(await pod.connect(port, family)) == f"target sees {CALLER[family]}\n".encode()
        await pod.connect(port, family, where="target", address=TARGET[family])
        assert (await agent.client.accept())[0].steal
        assert not agent.client.has_notices()


async def test_an_agents_own_row_of_callers_is_never_stolen_from(pod: Pod, client: Client, port: int) -> None:
    async with serving(pod.listen(port)):
        await client.subscribe(port, steal=True)
        assert await read_line(await pod.connect(port, source=OTHER)) == f"target sees {OTHER}\n".encode()
        await pod.connect(port)
        assert (await client.accept())[0].peer.address == NODE[socket.AF_INET]


async def test_kept_callers_are_mirrored_all_the_same(pod: Pod, support: dict[str, bool], port: int) -> None:
    async with serving(pod.listen(port)) as peers, run_agent(pod, clients=2, **support) as agent:
        thief, listener = agent.clients
        await thief.subscribe(port, steal=True, keep_from=[NODE[socket.AF_INET]])
        await listener.subscribe(port, steal=False)
        kept = await pod.connect(port)
        assert await read_line(kept) == b"target sees 10.99.0.2\n"
        await kept.send_all(b"question")
        _, copy = await listener.accept()
        assert await copy.receive() == b"question"
        assert not thief.has_arrivals()
        assert peers == ["10.99.0.2"]


async def test_http_probes_are_kept_and_other_requests_are_not(pod: Pod, client: Client, port: int) -> None:
    async with serving(pod.listen(port)) as peers:
        await client.subscribe(port, steal=True, keep_http_probes=True)
        probe = await pod.connect(port)
        await probe.send_all(PROBE)
        assert await read_line(probe) == b"target sees 10.99.0.2\n"
        assert await read_line(probe) == PROBE.splitlines(keepends=True)[0]
        caller = await pod.connect(port)
        await caller.send_all(REQUEST)
        _, channel = await client.accept()
        assert await channel.receive() == REQUEST
        await channel.send(b"outside\n")
        assert await read_line(caller) == b"outside\n"
        assert peers == ["10.99.0.2"]
        # Who ends, or is gone, before anything was said is the program's.
        silent = await pod.connect(port)
        await silent.send_eof()
        _, channel = await client.accept()
        assert await channel.receive() == b""


async def test_who_waits_for_the_server_to_speak_first_is_handed_over_after_a_while(
    pod: Pod, client: Client, port: int
) -> None:
    await client.subscribe(port, steal=True, keep_http_probes=True)
    began = trio.current_time()
    caller = await pod.connect(port)
    _, channel = await client.accept()
    assert trio.current_time() - began >= 0.9
    await channel.send(b"welcome\n")
    assert await read_line(caller) == b"welcome\n"
