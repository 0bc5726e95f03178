"""A session follows its target, and never tells its program anything but what a living container has.

The program looks at the target again and again. Whatever comes of its containers meanwhile, each answer is one that the
pod itself gives, before or after, and none is an error; what is asked in between waits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mirror.cli.cluster.api import ApiError
from mirror.cli.cluster.podexec import CommandFailed
from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_reconnect import Program

FILES = 20
"""Each is asked for once in a second, since answers are kept so long."""
GRACE_S = 3
CONTAINER = f"""
who="$POD_NAME $(cat /proc/sys/kernel/random/uuid)"
for number in $(seq {FILES}); do echo "$who" > /data/next; mv /data/next /data/$number; done
touch /data/ready
exec sleep infinity
"""
"""Ignores SIGTERM, and so lives for as long as its pod is given."""
LOOK = f"""
import itertools, socket, time
def look(number):
    yield "host", open("/etc/hostname").read().strip()
    yield "who", open(f"/data/{{number}}").read().strip()
    yield "config", open("/app/config/orders.ini").read().split()[0]
    yield "name", socket.gethostbyname("web")
last = {{}}
for number in itertools.cycle(range(1, {FILES} + 1)):
    try:
        for what, answer in look(number):
            if last.get(what) != answer:
                print(what, answer, flush=True)
                last[what] = answer
    except OSError as error:
        print("failed", error, flush=True)
    time.sleep(0.01)
"""


def template(command: str, grace_s: int = 0, **spec: Any) -> dict[str, Any]:
    """A pod of which each container has something of its own to read."""
    made = workloads.pod_template("followed", "sh", "-c", command, **spec)
    made["spec"]["terminationGracePeriodSeconds"] = grace_s
    made["spec"]["volumes"].append({"name": "data", "emptyDir": {}})
    (container,) = made["spec"]["containers"]
    container["volumeMounts"].append({"name": "data", "mountPath": "/data"})
    container["readinessProbe"] = {"exec": {"command": ["test", "-e", "/data/ready"]}, "periodSeconds": 1}
    return made


def followed(grace_s: int) -> dict[str, Any]:
    """A Deployment of such pods."""
    spec = {"selector": {"matchLabels": {"app": "followed"}}, "template": template(CONTAINER, grace_s)}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "followed"}, "spec": spec}


def finite(name: str) -> dict[str, Any]:
    """A Job that is done when somebody makes /data/stop."""
    command = CONTAINER.replace("exec sleep infinity", "until test -e /data/stop; do sleep 0.1; done")
    spec = {"template": template(command, restartPolicy="Never")}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


class Looking(Program):
    """A program that looks, and what may be seen."""

    def __init__(self, cluster: Cluster, *options: str, target: str = "deployment/followed") -> None:
        process = cluster.start(target, "python3", "-u", "-c", LOOK, options=options)
        super().__init__(process)
        self._cluster = cluster
        self._who = ""
        service = cluster.get("service", "web")
        assert service is not None
        self.truths = {f"name {service['spec']['clusterIP']}", "config [orders]"}

    def see(self, *, may_fail: bool = False) -> str:
        """Waits for the next container, until the program sees what that has; nothing else on the way; what that is."""
        wait_until(self._finds_another, WITHIN_S, "there is no other container")
        while (said := self.hear()) != f"who {self._who}":
            assert said in self.truths or (may_fail and said.startswith("failed ")), (said, self.truths, self.told)
        return self._who

    def wait_failed(self, why: str) -> None:
        """Until what it asks fails, after nothing but what was to be seen before, and the user has been told."""
        while not (said := self.hear()).startswith("failed "):
            assert said in self.truths, (said, self.truths, self.told)
        wait_until(lambda: any(why in told for told in self.told), WITHIN_S, f"not told: {why}")

    def _finds_another(self) -> bool:
        """Looks for a container that was not there before, and at what it has."""
        for pod in self._cluster.ready_pods("followed"):
            name = pod["metadata"]["name"]
            try:
                who = self._cluster.run_in_container(name, "cat", f"/data/{FILES}").strip()
            except (ApiError, CommandFailed):
                continue  # it has ended, as the cluster has yet to see
            if f"who {who}" not in self.truths:
                self.truths |= {f"host {name}", f"who {who}"}
                self._who = who
                return True
        return False


@pytest.fixture
def look(alone: Cluster) -> Iterator[Callable[..., Looking]]:
    """Starts the program. Afterwards there are no agents."""
    with contextlib.ExitStack() as stack:

        def start(*options: str, target: str = "deployment/followed") -> Looking:
            alone.wait_ready("followed")
            looking = Looking(alone, *options, target=target)
            stack.enter_context(looking.process)
            stack.callback(looking.process.kill)
            return looking

        yield start


@pytest.fixture
def deployment(alone: Cluster, grace_s: int) -> Iterator[None]:
    """The Deployment `followed`."""
    alone.apply(followed(grace_s))
    yield
    alone.remove("deployment", "followed")
    wait_until(lambda: not alone.objects("pod", "app=followed"), WITHIN_S, "a pod is left")


def kill(cluster: Cluster) -> None:
    cluster.kill_containers("followed")


def delete(cluster: Cluster) -> None:
    cluster.remove("pod", cluster.pod_of("followed")["metadata"]["name"])


def roll_out(cluster: Cluster) -> None:
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/followed"
    change = {"spec": {"template": {"metadata": {"annotations": {"mirror-e2e/release": "next"}}}}}
    cluster.ask(lambda api: api.patch(path, change))


def scale(cluster: Cluster) -> None:
    cluster.scale("followed", 0)
    wait_until(lambda: not cluster.objects("pod", "app=followed"), WITHIN_S, "the pod does not go")
    cluster.scale("followed", 1)


def follow(cluster: Cluster, looking: Looking) -> None:
    """All that may come of a target's pod, one after the other."""
    seen = [looking.see()]
    for change in kill, delete, roll_out, scale:
        change(cluster)
        seen.append(looking.see())
    assert len({*seen}) == len(seen)
    assert [told for told in looking.told if "can be seen" in told] == []  # an agent was put beside a dead container


PATIENT = ("--no-incoming", "--reconnect-timeout", str(WITHIN_S))


@pytest.mark.usefixtures("deployment")
@pytest.mark.parametrize(
    ("grace_s", "options"),
    [
        pytest.param(0, (), id="without grace"),
        pytest.param(GRACE_S, (), id="with grace"),
        pytest.param(GRACE_S, ("--ephemeral",), id="ephemeral"),
    ],
)
def test_nothing_is_seen_but_what_living_containers_have(
    alone: Cluster, look: Callable[..., Looking], options: tuple[str, ...]
) -> None:
    follow(alone, look(*PATIENT, *options))


@pytest.mark.usefixtures("near", "deployment")
@pytest.mark.parametrize("grace_s", [0])
def test_an_agent_that_is_reached_directly_is_followed_alike(alone: Cluster, look: Callable[..., Looking]) -> None:
    follow(alone, look(*PATIENT, "--agent-transport", "direct"))


IMPATIENT = ("--no-incoming", "--reconnect-timeout", "1")


def test_a_deployment_that_is_scaled_to_0_is_waited_for(alone: Cluster, look: Callable[..., Looking]) -> None:
    alone.apply(followed(0))
    try:
        looking = look(*IMPATIENT)
        looking.see()
        alone.scale("followed", 0)
        looking.wait_failed(f"deployment/followed in namespace {alone.namespace} is scaled to 0")
        alone.scale("followed", 1)
        looking.see(may_fail=True)
    finally:
        alone.remove("deployment", "followed")


def test_a_job_that_has_completed_is_waited_for(alone: Cluster, look: Callable[..., Looking]) -> None:
    alone.apply(finite("finite"))
    try:
        looking = look(*IMPATIENT, target="job/finite")
        looking.see()
        pod = alone.pod_of("followed")["metadata"]["name"]
        alone.run_in_container(pod, "touch", "/data/stop")
        looking.wait_failed("(has completed); begin it anew, or name one that runs")
        assert len(looking.told) == 1, looking.told
        assert looking.told[0].startswith(f"container app of pod {pod} has ended, and the session cannot go on")
        alone.remove("job", "finite")
        alone.apply(finite("finite"))
        looking.see(may_fail=True)
    finally:
        alone.remove("job", "finite")
        for left in alone.objects("pod", "app=followed"):
            alone.remove("pod", left["metadata"]["name"])
