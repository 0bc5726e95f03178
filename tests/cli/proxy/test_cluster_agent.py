"""What a session does when its connection to an agent breaks before the agent has introduced itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio
import trio.testing

from mirror.cli.cluster.api import ApiError
from mirror.cli.cluster.portforward import PortRefused
from mirror.cli.errors import TargetError
from mirror.cli.handover import Order
from mirror.cli.proxy import cluster_agent
from mirror.cli.proxy.cluster_agent import ClusterAgent
from mirror.cli.settings import AgentSettings, Settings
from mirror.protocol.connection import ConnectionLost
from tests.cli.cluster.test_agents import PLACE, RUNNING, Stage

LOST = ConnectionLost("the agent has gone away without a word")
ORDER = Order(
    settings=Settings("pod/web-1", namespace="shop", agent=AgentSettings(image="mirror-agent:1")),
    pid=1,
    files=(),
    argv=(),
    working_directory="/",
    variables={},
    console=None,
)


@dataclasses.dataclass
class Stream:
    """As much of a PortStream as is looked at."""

    pod: str
    failure: Exception | None = None


class Ports:
    """Stands in for the port-forward: `broken` names the pods of which nothing is left but their objects."""

    def __init__(self) -> None:
        self.broken: set[str] = set()

    async def open(self, _api: Any, _namespace: str, pod: str, _port: int) -> Any:
        await trio.lowlevel.checkpoint()
        if pod in self.broken:
            raise ApiError(500, "InternalError", "container not running")
        return Stream(pod)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> Ports:
    ports = Ports()
    monkeypatch.setattr(cluster_agent, "open_port", ports.open)
    return ports


async def tell(_: str) -> None:
    pass


async def connect(agent: ClusterAgent) -> Stream:
    stream: Any = await agent.connect(tell)
    return stream  # type: ignore[no-any-return]


async def test_one_that_was_about_to_end_is_replaced(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)

    async def controllers() -> None:
        while not stage.made:
            await trio.sleep(0.01)
        stage.put_pod("job-1", RUNNING)

    stage.put_pod("job-0", RUNNING)
    nursery.start_soon(controllers)
    assert (await connect(agent)).pod == "pod-of-job-0"
    assert await agent.explain(LOST) is None
    ports.broken.add("pod-of-job-0")
    stage.put_pod("job-0", {"terminated": {"exitCode": 0}}, phase="Succeeded")
    assert (await connect(agent)).pod == "pod-of-job-1"


async def test_one_that_says_why_is_believed(ports: Ports, autojump_clock: trio.testing.MockClock) -> None:
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    error = ConnectionLost("this client speaks another version")
    await connect(agent)
    assert await agent.explain(error) is None
    await connect(agent)
    failure = await agent.explain(error)
    assert isinstance(failure, TargetError)
    assert "another version" in failure.sentence


async def test_one_that_has_crashed_left_its_last_words(ports: Ports) -> None:
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await connect(agent)
    stage.put_pod("job-0", {"terminated": {"exitCode": 1, "message": "no process of container 0123abc can be seen"}})
    failure = await agent.explain(LOST)
    assert isinstance(failure, TargetError)
    assert "no process of container 0123abc" in failure.sentence


async def test_one_that_does_not_listen_is_tried_for_a_while(
    ports: Ports, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    failure = None
    began_at = trio.current_time()
    while failure is None:
        stream = await connect(agent)
        stream.failure = PortRefused("nothing listens on port 61337")
        failure = await agent.explain(LOST)
    assert 29 < trio.current_time() - began_at < 32
    assert isinstance(failure, TargetError)
    assert "cannot be reached (nothing listens" in failure.sentence
    assert stage.made == 0


async def test_no_right_to_connect_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        message = 'User "dev" cannot create resource "pods/portforward" in API group "" in the namespace "shop"'
        raise ApiError(403, "Forbidden", message)

    monkeypatch.setattr(cluster_agent, "open_port", refuse)
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    with pytest.raises(TargetError, match="user dev lacks the right to create pods/portforward in namespace shop"):
        await connect(ClusterAgent(ORDER, place=PLACE, api=stage))
