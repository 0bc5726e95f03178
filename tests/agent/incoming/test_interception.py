"""An agent that is killed or stopped gives the traffic back; one that comes back takes it again."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from .stage import PATIENCE_S, TARGET, Agent, Client, Pod, read_exactly, read_line, run_agent, serving, until


def ruleset(pod: Pod) -> str:
    return pod.run("target", "nft", "list", "ruleset")


def keepers(agent: Agent) -> list[int]:
    """The processes that an agent has started."""
    tasks = Path(f"/proc/{agent.process.pid}/task").glob("*/children")
    return [int(pid) for children in tasks for pid in children.read_text().split()]


def kill_keeper(agent: Agent) -> None:
    (keeper,) = keepers(agent)
    os.kill(keeper, signal.SIGKILL)


@contextmanager
def watched(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def has_ended(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


class Load:
    """Callers who send one request after the other, each on a connection of its own or on one that is kept."""

    def __init__(self, pod: Pod, port: int, family: socket.AddressFamily) -> None:
        self._pod = pod
        self._port = port
        self._family = family
        self.answered = 0
        self.lost = 0

    async def call_once_each(self) -> None:
        while True:
            made = trio.socket.from_stdlib_socket(self._pod.make_socket("caller", self._family))
            with made:
                try:
                    await made.connect((TARGET[self._family], self._port))
                    await self._ask(trio.SocketStream(made))
                except (OSError, trio.BrokenResourceError):
                    self.lost += 1

    async def _ask(self, stream: trio.SocketStream) -> None:
        await read_line(stream)
        await stream.send_all(b"question")
        if await read_exactly(stream, 8) == b"question":
            self.answered += 1
        else:
            self.lost += 1


async def test_killed_under_load_only_what_was_in_flight_is_lost(
    pod: Pod, support: dict[str, bool], port: int, family: socket.AddressFamily
) -> None:
    callers = 8
    load = Load(pod, port, family)
    async with serving(pod.listen(port, family)), trio.open_nursery() as nursery:
        async with run_agent(pod, **support) as agent:
            await agent.client.subscribe(port, steal=False)
            (keeper,) = keepers(agent)
            with watched(keeper) as pidfd:
                for _ in range(callers):
                    nursery.start_soon(load.call_once_each)
                await until(lambda: load.answered > 50)
                assert load.lost == 0
                agent.process.kill()
                with trio.fail_after(PATIENCE_S):
                    await trio.lowlevel.wait_readable(pidfd)
            assert ruleset(pod) == ""
            seen = load.answered
            await until(lambda: load.answered > seen + 50)
        nursery.cancel_scope.cancel()
    if not support:
        # What each had asked, and perhaps once more: while a process dies its listener outlives its connections.
        assert load.lost <= 2 * callers
    # With redirect there is a moment in which nobody listens and the rules still lead there.


async def test_stopped_agent_gives_the_traffic_back_and_takes_it_again(
    pod: Pod, support: dict[str, bool], port: int
) -> None:
    async with serving(pod.listen(port)) as peers, run_agent(pod, **support) as agent:
        await agent.client.subscribe(port, steal=True)
        await pod.connect(port)
        await agent.client.accept()
        agent.process.stop()
        try:
            await until(lambda: ruleset(pod) == "")
            assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        finally:
            agent.process.resume()
        assert "led here again" in await agent.client.notice()
        assert peers == ["10.99.0.2"]
        caller = await pod.connect(port)
        _, channel = await agent.client.accept()
        await channel.send(b"taken again\n")
        assert await read_line(caller) == b"taken again\n"


async def test_all_processes_of_an_agent_are_stopped(
    pod: Pod, support: dict[str, bool], port: int, family: socket.AddressFamily
) -> None:
    """The rules stay, without effect on what begins; and what has begun needs none."""
    async with (
        serving(pod.listen(port, family)),
        run_agent(pod, **support) as agent,
        trio.open_nursery() as nursery,
    ):
        await agent.client.subscribe(port, steal=True)
        older = await pod.connect(port, family)
        _, channel = await agent.client.accept()
        nursery.start_soon(greet_callers, agent.client)
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGSTOP)
        agent.process.stop()
        try:
            await until(lambda: is_greeted(pod, port, family, b"target sees "))
            assert "@alive" in ruleset(pod)
            await older.send_all(b"question")
        finally:
            agent.process.resume()
            os.kill(keeper, signal.SIGCONT)
        await until(lambda: is_greeted(pod, port, family, b"taken"))
        assert await channel.receive(100) == b"question"
        await channel.send(b"answer\n")
        assert await read_line(older) == b"answer\n"
        nursery.cancel_scope.cancel()


async def test_rules_that_have_expired_are_renewed(pod: Pod, support: dict[str, bool], port: int) -> None:
    """Only what holds them was stopped, and not for long."""
    async with (
        serving(pod.listen(port)),
        run_agent(pod, **support) as agent,
        trio.open_nursery() as nursery,
    ):
        await agent.client.subscribe(port, steal=True)
        nursery.start_soon(greet_callers, agent.client)
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGSTOP)
        try:
            await until(lambda: is_greeted(pod, port, socket.AF_INET, b"target sees "))
        finally:
            os.kill(keeper, signal.SIGCONT)
        await until(lambda: is_greeted(pod, port, socket.AF_INET, b"taken"))
        nursery.cancel_scope.cancel()


async def greet_callers(client: Client) -> None:
    while True:
        _, channel = await client.accept()
        await channel.send(b"taken\n")


async def is_greeted(pod: Pod, port: int, family: socket.AddressFamily, beginning: bytes) -> bool:
    """Whether a new caller is greeted soon, and so."""
    caller = await pod.connect(port, family)
    greeting = b""
    with trio.move_on_after(1):
        greeting = await read_line(caller)
    return greeting.startswith(beginning)


async def test_rules_are_put_back_with_the_callers_addresses(pod: Pod, port: int) -> None:
    async with serving(pod.listen(port)), run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=False)
        assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        kill_keeper(agent)
        assert "led here again" in await agent.client.notice()
        await agent.client.accept()
        assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        await agent.client.accept()


async def test_rules_that_are_lost_time_and_again_are_given_up(pod: Pod, port: int) -> None:
    async with serving(pod.listen(port)), run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=True)
        for _ in range(2):
            kill_keeper(agent)
            assert "led here again" in await agent.client.notice()
        kill_keeper(agent)
        assert "stays with the target" in await agent.client.notice()
        assert ruleset(pod) == ""
        assert await read_line(await pod.connect(port)) == b"target sees 10.99.0.2\n"
        # and may be asked for again
        await agent.client.subscribe(port, steal=True)
        await pod.connect(port)
        await agent.client.accept()


async def test_a_stopped_keeper_is_replaced(pod: Pod, port: int) -> None:
    async with serving(pod.listen(port)) as peers, run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=False)
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGSTOP)
        await agent.client.subscribe(port, steal=True)
        assert "led here again" in await agent.client.notice()
        await pod.connect(port)
        assert (await agent.client.accept())[0].steal
        assert peers == []


async def test_a_keeper_that_is_stopped_and_asked_nothing_is_replaced(pod: Pod, port: int) -> None:
    async with serving(pod.listen(port)), run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=True)
        (keeper,) = keepers(agent)
        os.kill(keeper, signal.SIGSTOP)
        assert "led here again" in await agent.client.notice()
        await pod.connect(port)
        await agent.client.accept()


async def test_callers_wait_while_the_agent_has_no_descriptors_left(pod: Pod, port: int) -> None:
    async with serving(pod.listen(port)), run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=False)
        pid = agent.process.pid
        former = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, former[1]))
        caller = await pod.connect(port)
        assert "no descriptors left" in await agent.client.notice()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, former)
        assert await read_line(caller) == b"target sees 10.99.0.2\n"


@pytest.mark.parametrize("steal", [True, False], ids=["steal", "mirror"])
async def test_what_a_killed_agent_cuts_off_does_not_look_complete(
    pod: Pod, port: int, support: dict[str, bool], steal: bool
) -> None:
    async with serving(pod.listen(port)), run_agent(pod, **support) as agent:
        await agent.client.subscribe(port, steal=steal)
        caller = await pod.connect(port)
        _, channel = await agent.client.accept()
        if steal:
            await channel.send(b"the first half\n")
        await read_line(caller)
        agent.process.kill()
        with trio.fail_after(PATIENCE_S), pytest.raises(trio.BrokenResourceError):
            await caller.receive_some(1)


async def test_keeper_of_a_stopped_agent_that_is_killed(pod: Pod, port: int) -> None:
    async with run_agent(pod) as agent:
        await agent.client.subscribe(port, steal=True)
        (keeper,) = keepers(agent)
        with watched(keeper) as pidfd:
            agent.process.stop()
            agent.process.kill()
            with trio.fail_after(PATIENCE_S):
                await trio.lowlevel.wait_readable(pidfd)
            assert has_ended(pidfd)
        assert ruleset(pod) == ""
