"""What a session does when its connection to an agent breaks before the agent has introduced itself."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from mirror.cli.cluster import agents, targets
from mirror.cli.cluster.api import ApiError, Unreachable
from mirror.cli.cluster.portforward import PortRefused
from mirror.cli.cluster.targets import NoTarget, Place, choose_container
from mirror.cli.errors import TargetError
from mirror.cli.handover import Order
from mirror.cli.proxy import cluster_agent
from mirror.cli.proxy.cluster_agent import ClusterAgent
from mirror.cli.settings import AgentSettings, Settings
from mirror.protocol.connection import ConnectionLost, TargetEnded
from tests.cli.cluster.objects import pod
from tests.cli.cluster.test_agents import JOBS, PLACE, PODS, RUNNING, WISH, Stage

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
NAME = agents.name_of(dataclasses.replace(WISH, features=("incoming",)))


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


async def tell(text: str, /, *, stays: bool = False) -> None:
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


async def test_a_node_that_does_not_know_the_pod_may_be_late(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def nodes() -> None:
        await trio.sleep(2)
        ports.broken.clear()

    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    ports.broken.add("pod-of-job-0")
    nursery.start_soon(nodes)
    assert (await connect(ClusterAgent(ORDER, place=PLACE, api=stage))).pod == "pod-of-job-0"
    ports.broken.add("pod-of-job-0")
    with pytest.raises(TargetError, match="container not running"):
        await connect(ClusterAgent(ORDER, place=PLACE, api=stage))


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
    began_at, tried_at = trio.current_time(), [0.0]
    while failure is None:
        stream = await connect(agent)
        tried_at.append(trio.current_time() - began_at)
        stream.failure = PortRefused("nothing listens on port 61337")
        failure = await agent.explain(LOST)
    assert 29 < trio.current_time() - began_at < 32
    assert isinstance(failure, TargetError)
    assert "cannot be reached (nothing listens" in failure.sentence
    assert stage.made == 0
    # Without asking too often, and without losing time when it listens soon.
    assert len(tried_at) < 100
    assert all(later - earlier <= max(0.025, 0.11 * later) for earlier, later in itertools.pairwise(tried_at))


async def test_no_right_to_connect_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        message = 'User "dev" cannot create resource "pods/portforward" in API group "" in the namespace "shop"'
        raise ApiError(403, "Forbidden", message)

    monkeypatch.setattr(cluster_agent, "open_port", refuse)
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    with pytest.raises(TargetError, match="user dev lacks the right to create pods/portforward in namespace shop"):
        await connect(ClusterAgent(ORDER, place=PLACE, api=stage))


# --- after a connection has broken ------------------------------------------------------------------------


async def begin(stage: Stage, agent: ClusterAgent, nursery: trio.Nursery) -> Stream:
    """A connection to an agent that is made for it."""

    async def controllers(made: int) -> None:
        while stage.made == made:
            await trio.sleep(0.01)
        stage.put_pod(f"job-{stage.made}", RUNNING)

    nursery.start_soon(controllers, stage.made)
    return await connect(agent)


async def test_the_same_agent_is_tried_first(ports: Ports, nursery: trio.Nursery) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    first = await begin(stage, agent, nursery)
    assert stage.dropped == 0
    agent.begin_again(None)
    assert (await connect(agent)).pod == first.pod
    assert stage.dropped == 1
    # That the API server cannot be reached says nothing against the agent.
    agent.begin_again(Unreachable("the API server is not there"))
    assert (await connect(agent)).pod == first.pod
    assert stage.made == 1


async def test_one_that_cannot_be_had_again_is_replaced(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    first = await begin(stage, agent, nursery)
    agent.welcomed()
    stage.put_pod("job-1", {"terminated": {"exitCode": 137}})
    agent.begin_again(None)
    ports.broken.add(first.pod)
    with pytest.raises(TargetError, match="was killed on its node") as caught:
        await connect(agent)
    stage.objects[PODS].clear()
    stage.objects[JOBS].clear()
    agent.begin_again(caught.value)
    assert (await begin(stage, agent, nursery)).pod != first.pod
    assert stage.made == 2


async def test_one_that_does_not_listen_any_more_is_soon_given_up(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await begin(stage, agent, nursery)
    agent.begin_again(None)
    began_at, failure = trio.current_time(), None
    while failure is None:
        stream = await connect(agent)
        stream.failure = PortRefused("nothing listens on port 61337")
        failure = await agent.explain(LOST)
    assert trio.current_time() - began_at < 3


@pytest.mark.parametrize("is_met", [False, True])
async def test_one_that_was_never_met_is_removed(ports: Ports, nursery: trio.Nursery, is_met: bool) -> None:
    """The session ends while it moves: nobody has been there, so that it would wait for the first."""
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await begin(stage, agent, nursery)
    if is_met:
        agent.welcomed()
    await agent.end(at_once=False)
    assert stage.removed == ([] if is_met else ["job-1"])


async def test_one_that_hangs_is_removed_and_another_begun(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Though its pod is seen to run for a while after its Job is gone."""
    stage = Stage()
    stage.put(JOBS, {"metadata": {"name": NAME, "uid": "job-0"}})
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    for _ in range(2):
        assert (await connect(agent)).pod == "pod-of-job-0"
        failure = await agent.explain_silence(5)
        assert isinstance(failure, TargetError)
        assert failure.sentence == "the agent of pod web-1 did not answer within 5 s; try again"
        agent.begin_again(failure)
    assert (await connect(agent)).pod == "pod-of-job-0"
    assert await agent.explain_silence(5) is None
    assert stage.removed == ["job-0"]
    stage.put_pod("job-0", RUNNING)
    assert (await begin(stage, agent, nursery)).pod == "pod-of-job-1"


async def test_one_that_answers_now_and_then_is_not_removed(ports: Ports) -> None:
    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    for _ in range(9):
        await connect(agent)
        assert await agent.explain_silence(10) is not None
        agent.welcomed()
    assert stage.removed == []


async def test_one_that_was_just_begun_is_not_taken_for_hung(ports: Ports, nursery: trio.Nursery) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await begin(stage, agent, nursery)
    assert await agent.explain_silence(30) is not None
    assert stage.removed == []


async def test_one_that_hangs_and_may_not_be_removed(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> Any:
        message = 'User "dev" cannot delete resource "jobs" in API group "batch" in the namespace "shop"'
        raise ApiError(403, "Forbidden", message)

    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    monkeypatch.setattr(stage, "delete", refuse)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await connect(agent)
    failure = await agent.explain_silence(30)
    assert isinstance(failure, TargetError)
    assert failure.sentence == (
        "the agent in pod pod-of-job-0 does not answer, and mirror could not remove it (user dev lacks the right to "
        f"delete jobs.batch in namespace shop); have it removed with `mirror agents --remove {NAME} -n shop`"
    )


async def test_silence_of_the_cluster_is_not_the_agents(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> Any:
        raise Unreachable("the API server is not there")

    stage = Stage()
    stage.put_pod("job-0", RUNNING)
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await connect(agent)
    monkeypatch.setattr(stage, "get", refuse)
    assert isinstance(await agent.explain_silence(30), Unreachable)
    assert stage.removed == []


# --- the target's pods ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Shop:
    """Pods of `deployment/web`, as `targets` shows them."""

    pods: list[Any]
    changed: trio.Event = dataclasses.field(default_factory=trio.Event)
    broken: int = 0
    formers: list[str] = dataclasses.field(default_factory=list)
    out_of_reach: list[bool] = dataclasses.field(default_factory=list)
    known: list[list[str]] = dataclasses.field(default_factory=list)

    def put(self, *pods: Any) -> None:
        self.pods = [*pods]
        self.changed.set()
        self.changed = trio.Event()

    async def find(
        self,
        _api: Any,
        _reference: Any,
        _namespace: str,
        *,
        former: Place | None,
        is_out_of_reach: bool,
        known: Collection[Place],
        ended: Collection[str],
    ) -> targets.Found:
        self.out_of_reach.append(is_out_of_reach)
        self.known.append([place.pod for place in known])
        self.formers.append(former.pod if former is not None else "")
        pods = targets.order_ready(targets.but_for(ended, self.pods))
        if not pods:
            raise NoTarget("there is none")
        place = choose_container(pods[0])
        return targets.Found(place, (place, *targets.other_places(place, pods)), {"labelSelector": "app=web"})

    async def follow(self, _api: Any, namespace: str, scope: Any, see: Any) -> None:
        assert (namespace, scope) == ("shop", {"labelSelector": "app=web"})
        if self.broken:
            self.broken -= 1
            raise ApiError(403, "Forbidden", 'User "dev" cannot watch resource "pods" in API group ""')
        while see(self.pods):
            await self.changed.wait()


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Shop:
    shop = Shop([pod("web-1"), pod("web-2")])
    monkeypatch.setattr(targets, "find", shop.find)
    monkeypatch.setattr(targets, "follow", shop.follow)
    return shop


def hear_nothing(sentence: str) -> None:
    raise AssertionError(sentence)


def names(agent: ClusterAgent) -> list[str]:
    return [replica.name for replica in agent.replicas]


def of_deployment(**settings: Any) -> Order:
    return dataclasses.replace(ORDER, settings=dataclasses.replace(ORDER.settings, target="deployment/web", **settings))


async def started(stage: Stage, nursery: trio.Nursery, **settings: Any) -> ClusterAgent:
    stage.access = SimpleNamespace(namespace="shop", server="https://cluster")  # type: ignore[assignment]
    agent = ClusterAgent(of_deployment(**settings), api=stage)
    await begin(stage, agent, nursery)
    return agent


async def test_replicas_follow_the_pods(ports: Ports, nursery: trio.Nursery, shop: Shop) -> None:
    agent = await started(Stage(), nursery)
    assert agent.whereabouts == "pod web-1"
    assert names(agent) == ["pod web-2"]
    kept = agent.replicas
    nursery.start_soon(agent.until_gone, hear_nothing)
    await trio.testing.wait_all_tasks_blocked()
    assert agent.replicas is kept
    shop.put(pod("web-1"), pod("web-2", ready=False), pod("web-3"))
    await agent.until_others(kept)
    assert names(agent) == ["pod web-2", "pod web-3"]
    assert agent.replicas[0] is kept[0]
    kept = agent.replicas
    shop.put(pod("web-1"), pod("web-3"))
    await agent.until_others(kept)
    assert names(agent) == ["pod web-3"]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("settings", [{"replicas": "one"}, {"incoming": "off"}])
async def test_who_wants_no_replicas_has_none(
    ports: Ports, nursery: trio.Nursery, shop: Shop, settings: dict[str, str]
) -> None:
    agent = await started(Stage(), nursery, **settings)
    nursery.start_soon(agent.until_gone, hear_nothing)
    shop.put(pod("web-1"), pod("web-3"))
    await trio.testing.wait_all_tasks_blocked()
    assert names(agent) == []
    nursery.cancel_scope.cancel()


async def test_a_target_that_goes_is_told_and_its_next_is_connected_to(
    ports: Ports, nursery: trio.Nursery, shop: Shop
) -> None:
    stage = Stage()
    agent = await started(stage, nursery)
    shop.put(pod("web-2"), pod("web-1", deletionTimestamp="2026-01-02T00:00:00Z"))
    assert await agent.until_gone(hear_nothing) == "pod web-1 is being removed"
    agent.begin_again(None)
    await begin(stage, agent, nursery)
    assert agent.whereabouts == "pod web-2"
    assert names(agent) == []


ENDED = TargetEnded("process 42, the target of this agent, has ended")


def restarted(name: str, container_id: str = "id-app-2") -> dict[str, Any]:
    """A pod whose container is the next one."""
    made = pod(name)
    made["status"]["containerStatuses"][0]["containerID"] = f"containerd://{container_id}"
    return made


async def test_a_container_that_has_ended_is_not_found_again(
    ports: Ports, nursery: trio.Nursery, shop: Shop, autojump_clock: trio.testing.MockClock
) -> None:
    """Though the API server has it running still."""
    stage = Stage()
    shop.put(pod("web-1"))
    agent = await started(stage, nursery)
    agent.welcomed()
    assert agent.lost(ENDED) == "container app of pod web-1 has ended"
    agent.begin_again(None)
    with pytest.raises(NoTarget):
        await connect(agent)
    assert stage.made == 1
    first = agent.target_id
    with trio.move_on_after(4):
        await agent.pause(0.1)
        raise AssertionError("there is nothing to begin again with")
    nursery.start_soon(put_later, shop, restarted("web-1"))
    began_at = trio.current_time()
    await agent.pause(0.1)
    assert trio.current_time() - began_at < 2
    await begin(stage, agent, nursery)
    assert agent.whereabouts == "pod web-1"
    assert agent.target_id != first


async def put_later(shop: Shop, *pods: Any) -> None:
    await trio.sleep(1)
    shop.put(*pods)


async def test_an_agent_that_is_joined_when_its_target_ends(
    ports: Ports, nursery: trio.Nursery, shop: Shop, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    shop.put(pod("web-1"))
    agent = await started(stage, nursery)
    assert await agent.explain(ENDED) is None
    with pytest.raises(NoTarget):
        await connect(agent)
    assert stage.made == 1


async def test_the_container_that_has_ended_is_that_of_the_connection(
    ports: Ports, nursery: trio.Nursery, shop: Shop
) -> None:
    """While another is being connected to."""
    stage = Stage()
    agent = await started(stage, nursery)
    agent.welcomed()
    shop.put(restarted("web-2"), pod("web-1", deletionTimestamp="2026-01-02T00:00:00Z"))
    await agent.until_gone(hear_nothing)
    agent.begin_again(None)
    stage.objects[PODS].clear()
    stage.objects[JOBS].clear()
    assert (await begin(stage, agent, nursery)).pod == "pod-of-job-2"
    assert agent.lost(ENDED) == "container app of pod web-1 has ended"
    assert (await connect(agent)).pod == "pod-of-job-2"
    assert agent.whereabouts == "pod web-2"


async def test_a_place_is_kept_unless_it_is_to_be_left(ports: Ports, nursery: trio.Nursery, shop: Shop) -> None:
    """It may be the last one that there is when its connection breaks."""
    stage = Stage()
    agent = await started(stage, nursery)
    agent.welcomed()
    shop.put(pod("web-2"), pod("web-1", deletionTimestamp="2026-01-02T00:00:00Z"))
    await agent.until_gone(hear_nothing)
    shop.put(pod("web-1", deletionTimestamp="2026-01-02T00:00:00Z"))
    for is_lost in False, True:
        if is_lost:
            assert agent.lost(LOST) == ""
        with pytest.raises(NoTarget):
            await connect(agent)
    assert shop.formers == ["", "", "web-1"]


async def test_a_pause_is_as_long_as_it_is_meant_where_nothing_can_be_seen(
    ports: Ports, nursery: trio.Nursery, shop: Shop, autojump_clock: trio.testing.MockClock
) -> None:
    agent = await started(Stage(), nursery)
    agent.welcomed()
    began_at = trio.current_time()
    await agent.pause(3)
    assert trio.current_time() - began_at == 3
    shop.put()
    agent.lost(ENDED)
    with pytest.raises(NoTarget):
        await connect(agent)
    shop.broken = 1
    began_at = trio.current_time()
    await agent.pause(3)
    assert 3 <= trio.current_time() - began_at < 4


async def test_a_replica_that_has_ended_is_not_entered_again(
    ports: Ports, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await begin(stage, agent, nursery)
    assert await agent.explain(ENDED) is None
    with pytest.raises(NoTarget, match="container app of pod web-1 has ended"):
        await connect(agent)
    agent.begin_again(None)
    with trio.move_on_after(100) as patience:
        await connect(agent)
    assert patience.cancelled_caught
    assert stage.made == 1


def node(status: str) -> dict[str, Any]:
    return {"metadata": {"name": "node-1"}, "status": {"conditions": [{"type": "Ready", "status": status}]}}


@pytest.mark.parametrize(
    ("status", "is_out_of_reach"),
    [("Unknown", True), ("False", True), ("True", False), ("", True)],
    ids=["dead", "not ready", "ready", "not to be seen"],
)
async def test_a_pod_on_a_dead_node_is_out_of_reach_after_a_while(
    ports: Ports,
    nursery: trio.Nursery,
    shop: Shop,
    autojump_clock: trio.testing.MockClock,
    status: str,
    is_out_of_reach: bool,
) -> None:
    stage = Stage()
    if status:
        stage.node = node(status)
    else:
        stage.broken["/api/v1/nodes/node-1"] = ApiError(403, "Forbidden", "no looking at nodes")
    agent = await started(stage, nursery)
    agent.welcomed()
    agent.lost(LOST)
    for _ in range(2):
        agent.begin_again(TargetError("it cannot be had"))
        await connect(agent)
        await trio.sleep(6)
    agent.welcomed()
    agent.begin_again(TargetError("it cannot be had"))
    await connect(agent)
    assert shop.out_of_reach == [False, False, is_out_of_reach, False]
    assert shop.known == [[], ["web-2"], ["web-2"], ["web-2"]]


async def test_a_watch_that_cannot_be_had_is_tried_again(
    ports: Ports, nursery: trio.Nursery, shop: Shop, autojump_clock: trio.testing.MockClock
) -> None:
    agent = await started(Stage(), nursery)
    shop.broken = 3
    shop.put(pod("web-2"))
    told: list[str] = []
    assert await agent.until_gone(told.append) == "pod web-1 is gone"
    assert "user dev lacks the right to watch pods" in told[0]


async def test_a_replicas_agent_follows_nobody(
    ports: Ports, nursery: trio.Nursery, shop: Shop, autojump_clock: trio.testing.MockClock
) -> None:
    stage = Stage()
    agent = ClusterAgent(ORDER, place=PLACE, api=stage)
    await begin(stage, agent, nursery)
    shop.put()
    with trio.move_on_after(100) as patience:
        await agent.until_gone(hear_nothing)
    assert patience.cancelled_caught
