"""Agents run as the settings say: where, with what, with which rights, for how long; seen in agents that run.

Settings are of a configuration file, but for those that have an option. The kernel says what an agent may do; what is
the cluster's affair (priority, profiles that this kernel may not have) is read from the pod as the API server keeps it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.cli.cluster.api import Object
from mirror.cli.errors import EXIT_USAGE
from tests.cluster.places import AGENT_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_refusals import ghost, refusal, settings
from tests.e2e.test_traffic import SERVER

__all__ = ["ghost"]

LOOK = """
import json, os
mine, found = open("/proc/self/cgroup").read(), []
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        is_ours = int(pid) != os.getpid() and open(f"/proc/{pid}/cgroup").read() == mine
        status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if is_ours)
    except OSError:
        continue
    if is_ours:
        found.append({name: value.strip() for name, value in status.items()})
def read(*paths):
    return next((open(path).read().split() for path in paths if os.path.exists(path)), None)
cgroups = "/sys/fs/cgroup"
print(json.dumps([
    found,
    read(f"{cgroups}/memory.max", f"{cgroups}/memory/memory.limit_in_bytes"),
    read(f"{cgroups}/cpu.max") or read(f"{cgroups}/cpu/cpu.cfs_quota_us") + read(f"{cgroups}/cpu/cpu.cfs_period_us"),
    next(line.split()[1] for line in open("/proc/1/status") if line.startswith("CapBnd")),
]))
"""
"""What is run in the agent's container: its processes, also with the node's pids, and the limits of their cgroup."""

CAPABILITIES = {
    "DAC_OVERRIDE": 1,
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}
"""Their numbers in `include/uapi/linux/capability.h`: of those that agents ask for."""
NO_SECCOMP, FILTERED = "0", "2"
"""As `Seccomp` in /proc/PID/status has it (proc(5))."""


def mask(*names: str) -> int:
    return sum(1 << CAPABILITIES[name] for name in names)


class Seen:
    """What an agent's container shows.

    Attributes:
        processes: For each of its processes /proc/PID/status.
        memory: Its limit in bytes.
        cpus: How many it may use.
        of_node: The capabilities that the node's first process may have, where that is seen.
    """

    def __init__(self, cluster: Cluster, pod: Object) -> None:
        said = json.loads(cluster.run_in_container(pod["metadata"]["name"], "python3", "-c", LOOK, container="agent"))
        self.processes: list[dict[str, str]] = said[0]
        assert self.processes
        self.memory = int(said[1][0])
        self.cpus = int(said[2][0]) / int(said[2][1])
        self.of_node = int(said[3], 16)

    def may(self, kind: str) -> set[int]:
        """`CapEff`, `CapPrm` or `CapBnd` of all processes."""
        return {int(process[kind], 16) for process in self.processes}


@contextmanager
def agent_of(
    cluster: Cluster, folder: Path, *options: str, target: str = "deployment/web", **agent: Any
) -> Iterator[Object]:
    """The pod of a session's agent with some settings, while the session lasts; it ends with it."""
    file = settings(folder, **{"grace": 0, **agent})
    with cluster.held(target, options=["-f", file, *options]):
        (pod,) = cluster.running_agent_pods()
        yield pod


# --- where, and with what ---------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(cluster: Cluster) -> Iterator[str]:
    """A second namespace."""
    name = f"{cluster.namespace}-agents"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agents"}}
    cluster.apply(account, namespace=name)
    wait_until(
        lambda: cluster.get("serviceaccount", "default", namespace=name), WITHIN_S, "there is no service account"
    )
    yield name
    cluster.remove("Namespace", name)
    wait_until(lambda: cluster.get("Namespace", name) is None, 2 * WITHIN_S, f"namespace {name} is left")


def test_another_namespace_and_more(alone: Cluster, elsewhere: str, tmp_path: Path) -> None:
    file = settings(
        tmp_path,
        labels={"team": "shop"},
        annotations={"note": "test"},
        service_account="agents",
        resources={"requests": {"cpu": "5m"}},
        grace=0,
    )
    with alone.held("deployment/web", "echo $COLOUR", options=["-f", file, "-a", elsewhere]) as said:
        assert said == "blue\n"
        assert alone.jobs() == []
        (pod,) = alone.objects("pod", alone.agents, namespace=elsewhere)
        (job,) = alone.objects("job", alone.agents, namespace=elsewhere)
    for thing in (job, pod):
        assert thing["metadata"]["labels"]["team"] == "shop"
        assert thing["metadata"]["annotations"]["note"] == "test"
    assert pod["spec"]["serviceAccountName"] == "agents"
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert pod["spec"]["containers"][0]["resources"] == {"requests": {"cpu": "5m"}}
    wait_until(lambda: not alone.objects("job", alone.agents, namespace=elsewhere), WITHIN_S, "an agent is left")


@pytest.fixture
def priority_class(cluster: Cluster) -> Iterator[str]:
    """One of its own."""
    name = cluster.namespace
    described = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}}
    cluster.apply({**described, "value": 4711, "preemptionPolicy": "Never"})
    yield name
    cluster.remove("PriorityClass", name)


def test_what_the_cluster_makes_of_the_settings(alone: Cluster, priority_class: str, tmp_path: Path) -> None:
    toleration = {"key": "mirror-e2e", "operator": "Exists", "effect": "NoSchedule"}
    agent: dict[str, Any] = {
        "image_pull_policy": "Never",
        "image_pull_secrets": [{"name": "registry"}],
        "priority_class": priority_class,
        "tolerations": [toleration],
        "resources": {"requests": {"cpu": "5m", "memory": "16Mi"}, "limits": {"cpu": "700m", "memory": "200Mi"}},
        "communication_timeout": 77,
        "grace": 0,
        "startup_timeout": 90,
        "disable_mesh_sidecar_injection": False,
        "security_context": {"se_linux_options": {"type": "spc_t"}, "app_armor_profile": {"type": "Unconfined"}},
    }
    with agent_of(alone, tmp_path, "--agent-ttl", "7", **agent) as pod:
        (job,) = alone.objects("job", alone.agents)
        seen = Seen(alone, pod)
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert (spec["priorityClassName"], spec["priority"]) == (priority_class, 4711)
    # The cluster adds those of its own.
    assert toleration in spec["tolerations"]
    assert {"operator": "Exists"} not in spec["tolerations"]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert container["imagePullPolicy"] == "Never"
    assert container["resources"] == agent["resources"]
    assert seen.memory == 200 << 20
    assert seen.cpus == pytest.approx(0.7)
    arguments = container["args"]
    assert float(arguments[arguments.index("--grace") + 1]) == 0
    assert float(arguments[arguments.index("--first-client-within") + 1]) == 77
    assert container["securityContext"]["seLinuxOptions"] == {"type": "spc_t"}
    profile = pod["metadata"]["annotations"]["container.apparmor.security.beta.kubernetes.io/agent"]
    assert profile == "unconfined"
    assert not [name for name in pod["metadata"]["labels"] if "inject" in name]
    assert job["spec"]["ttlSecondsAfterFinished"] == 7


def test_what_they_are_if_nobody_says_anything(alone: Cluster) -> None:
    with alone.held("deployment/web"):
        (pod,) = alone.running_agent_pods()
        (job,) = alone.objects("job", alone.agents)
        seen = Seen(alone, pod)
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    assert {"operator": "Exists"} in spec["tolerations"]
    assert spec["automountServiceAccountToken"] is False
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert container["image"] == AGENT_IMAGE
    assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {process["Seccomp"] for process in seen.processes} == {FILTERED}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert seen.memory == 512 << 20
    assert seen.cpus == pytest.approx(1)
    arguments = container["args"]
    assert float(arguments[arguments.index("--grace") + 1]) == 5
    assert pod["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    assert job["spec"]["ttlSecondsAfterFinished"] == 1


def test_a_node_selector(alone: Cluster, tmp_path: Path) -> None:
    """Of an agent without a target; one with a target is on its node, whatever is selected."""
    node = alone.pod_of("web")["spec"]["nodeName"]
    selector = {"kubernetes.io/hostname": alone.ask(lambda api: api.get(f"/api/v1/nodes/{node}"))["metadata"]["labels"][
        "kubernetes.io/hostname"
    ]}  # fmt: skip
    with agent_of(alone, tmp_path, target="targetless", node_selector=selector) as pod:
        assert pod["spec"]["nodeSelector"] == selector
        assert pod["spec"]["nodeName"] == node
    alone.wait_without_agents()
    with agent_of(alone, tmp_path, node_selector={"mirror-e2e": "nowhere"}) as pod:
        assert pod["spec"]["nodeName"] == node


def test_a_taint_that_is_not_tolerated(alone: Cluster, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pod = request.getfixturevalue("ghost")
    small = {"requests": {"cpu": "1m", "memory": "1Mi"}}
    sentence = refusal(alone, f"pod/{pod}", "-f", settings(tmp_path, tolerations=[], resources=small))
    assert "the agent's pod cannot be scheduled" in sentence
    assert "mirror-e2e: ghost" in sentence
    assert "let it be there with agent.tolerations" in sentence


# --- what it may do ---------------------------------------------------------------------------------------

ENTER = ("SYS_PTRACE",)
FILES = (*ENTER, "SETUID", "SETGID", "SYS_CHROOT", "DAC_OVERRIDE")
NETWORK = ("SYS_ADMIN",)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (("--no-incoming", "--no-outgoing", "--no-remote-dns", "--fs-mode", "local"), (*ENTER, "DAC_OVERRIDE")),
        (("--no-incoming", "--no-outgoing", "--no-remote-dns"), FILES),
        (("--no-incoming", "--no-outgoing"), (*FILES, *NETWORK)),
        (("--no-incoming", "--no-remote-dns"), (*FILES, *NETWORK, "NET_BIND_SERVICE")),
        (("--no-incoming",), (*FILES, *NETWORK, "NET_BIND_SERVICE")),
        (("--no-outgoing", "--no-remote-dns"), (*FILES, *NETWORK, "NET_ADMIN")),
        (("--steal",), (*FILES, *NETWORK, "NET_BIND_SERVICE", "NET_ADMIN")),
    ],
)
def test_no_process_may_more_than_the_features_need(
    alone: Cluster, tmp_path: Path, options: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    """Seen while the session uses them, so that the helpers of each are there."""
    use = "cat /app/config/orders.ini; getent hosts web; curl -s -m 20 http://web/"
    # A port of this machine's own may be somebody else's.
    serve = "echo listening; exec sleep 1000" if "--no-incoming" in options else 'exec python3 -c "$0"'
    command = ("sh", "-c", f"{use}; {serve}", SERVER)
    file = settings(tmp_path, grace=0)
    with alone.start("deployment/web", *command, options=["-f", file, *options]) as program:
        try:
            assert program.stdout is not None
            assert any(line == "listening\n" for line in program.stdout)
            (pod,) = alone.running_agent_pods()
            seen = Seen(alone, pod)
        finally:
            program.kill()
    assert seen.may("CapBnd") == {mask(*allowed)}
    assert all(effective & ~mask(*allowed) == 0 for effective in seen.may("CapEff") | seen.may("CapPrm"))
    assert {process["Seccomp"] for process in seen.processes} == {FILTERED}


def test_without_a_target_it_may_nothing(alone: Cluster, tmp_path: Path) -> None:
    with agent_of(alone, tmp_path, target="targetless") as pod:
        seen = Seen(alone, pod)
    assert {*seen.may("CapEff"), *seen.may("CapPrm"), *seen.may("CapBnd")} == {0}
    assert {process["Uid"].split()[0] for process in seen.processes} == {"65534"}
    assert {process["NoNewPrivs"] for process in seen.processes} == {"1"}


def test_a_capability_that_it_is_denied(alone: Cluster, tmp_path: Path) -> None:
    """The user is told what does not work."""
    file = settings(tmp_path, grace=0, disabled_capabilities=["CAP_NET_ADMIN", "NET_RAW"])
    with alone.start("deployment/web", "python3", "-c", SERVER, options=["-f", file]) as program:
        try:
            assert program.stdout is not None
            assert any("stays with the target" in line and "NET_ADMIN" in line for line in program.stdout)
            (pod,) = alone.running_agent_pods()
            seen = Seen(alone, pod)
        finally:
            program.kill()
    assert seen.may("CapBnd") == {mask(*FILES, *NETWORK, "NET_BIND_SERVICE")}


def test_privileged(alone: Cluster, tmp_path: Path) -> None:
    with agent_of(alone, tmp_path, privileged=True) as pod:
        seen = Seen(alone, pod)
    assert pod["spec"]["containers"][0]["securityContext"]["privileged"] is True
    assert seen.may("CapBnd") == {seen.of_node}
    assert mask(*CAPABILITIES) & ~seen.of_node == 0


def test_no_seccomp(alone: Cluster, tmp_path: Path) -> None:
    with agent_of(alone, tmp_path, security_context={"seccomp_profile": {"type": "Unconfined"}}) as pod:
        seen = Seen(alone, pod)
    assert {process["Seccomp"] for process in seen.processes} == {NO_SECCOMP}


ON_THE_NODE = """
import os, sys
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        if open(f"/proc/{pid}/comm").read() == "kubelet\\n":
            break
    except OSError:
        continue
folder = f"/proc/{pid}/root/var/lib/kubelet/seccomp"
os.makedirs(folder, exist_ok=True)
if len(sys.argv) > 2:
    open(f"{folder}/{sys.argv[1]}", "w").write(sys.argv[2])
else:
    os.remove(f"{folder}/{sys.argv[1]}")
print("done")
"""
"""Writes or removes a profile where the kubelet looks for them."""


@pytest.fixture
def profile(cluster: Cluster) -> Iterator[str]:
    """A seccomp profile on the node, which allows everything but one system call."""
    name = f"{cluster.namespace}.json"
    denied = {"names": ["sched_get_priority_max"], "action": "SCMP_ACT_ERRNO"}
    content = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [denied]})
    on_node = ("python3", "-c", ON_THE_NODE, name)
    assert cluster.run_in_pod(*on_node, content, is_privileged=True, hostPID=True) == "done\n"
    yield name
    assert cluster.run_in_pod(*on_node, is_privileged=True, hostPID=True) == "done\n"


def test_a_seccomp_profile_of_the_nodes_own(alone: Cluster, profile: str, tmp_path: Path) -> None:
    context = {"seccomp_profile": {"type": "Localhost", "localhost_profile": profile}}
    attempt = "import os\ntry:\n    os.sched_get_priority_max(0)\nexcept PermissionError:\n    print('denied')"
    with agent_of(alone, tmp_path, security_context=context) as pod:
        said = alone.run_in_container(pod["metadata"]["name"], "python3", "-c", attempt, container="agent")
        assert {process["Seccomp"] for process in Seen(alone, pod).processes} == {FILTERED}
    assert said == "denied\n"


# --- for how long -----------------------------------------------------------------------------------------


def test_it_stays_for_its_grace_period(alone: Cluster, tmp_path: Path) -> None:
    """Nobody waits for it to end: the next session joins it."""
    file = settings(tmp_path, grace=1000)
    assert alone.run("deployment/web", "true", options=["-f", file]).returncode == 0
    (job,) = alone.objects("job", alone.agents)
    try:
        second = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=["-v"])
        assert second.stdout == "blue\n"
        assert "joining the agent" in second.stderr
        assert [each["metadata"]["uid"] for each in alone.objects("job", alone.agents)] == [job["metadata"]["uid"]]
    finally:
        alone.remove("job", job["metadata"]["name"])


def test_nothing_stays_without_a_grace_period(alone: Cluster, tmp_path: Path) -> None:
    """Not the agent, nor its Job, when everything has been killed: the cluster removes that."""
    options = ["-f", settings(tmp_path, grace=0, ttl=2)]
    with alone.held("deployment/web", options=options):
        (proxy,) = alone.proxies()
        os.kill(proxy, signal.SIGKILL)
        alone.kill_agents()


def test_a_start_that_takes_too_long(alone: Cluster, tmp_path: Path) -> None:
    """The option wins over the file."""
    file = settings(tmp_path, startup_timeout=1000, resources={"requests": {"cpu": "1000"}})
    sentence = refusal(alone, "deployment/web", "-f", file, "--agent-startup-timeout", "1")
    assert "the agent did not start within 1 s" in sentence


# --- what is wrong is named -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "said"),
    [
        (
            {"service_account": "mirror-nobody"},
            "there is no service account mirror-nobody in namespace {namespace}; correct agent.service_account",
        ),
        ({"priority_class": "mirror-none"}, "the cluster has no priority class mirror-none; correct agent.priority_cl"),
        ({"namespace": "mirror-nowhere"}, "there is no namespace mirror-nowhere; choose one with --agent-namespace"),
        ({"labels": {"team": "no label!"}}, 'metadata.labels: Invalid value: "no label!"'),
        ({"annotations": {"no key!": ""}}, 'metadata.annotations: Invalid value: "no key!"'),
        ({"tolerations": [{"operator": "Equal"}]}, "tolerations[0].operator: Invalid value"),
        (
            {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
            'resources.requests: Invalid value: "2": must be less than or equal to cpu limit',
        ),
        (
            {"security_context": {"seccomp_profile": {"type": "Localhost", "localhost_profile": "mirror-none.json"}}},
            "; correct agent.security_context.seccomp_profile",
        ),
        ({"image": "mirror-none:1", "image_pull_policy": "Never"}, "set agent.image_pull_policy to IfNotPresent"),
    ],
)
def test_what_the_cluster_refuses(alone: Cluster, tmp_path: Path, agent: dict[str, Any], said: str) -> None:
    sentence = refusal(alone, "deployment/web", "-f", settings(tmp_path, **agent))
    assert said.format(namespace=alone.namespace) in sentence


def test_a_profile_of_apparmor_that_the_node_does_not_have(alone: Cluster, tmp_path: Path) -> None:
    """Whether or not its kernel has AppArmor."""
    context = {"app_armor_profile": {"type": "Localhost", "localhost_profile": "mirror-none"}}
    sentence = refusal(alone, "deployment/web", "-f", settings(tmp_path, security_context=context))
    assert "AppArmor" in sentence
    assert "correct agent.security_context.app_armor_profile" in sentence


@pytest.mark.parametrize(
    ("agent", "named"),
    [
        ({"resources": {"limits": {"cpu": "lots"}}}, "agent.resources.limits.cpu"),
        ({"security_context": {"seccomp_profile": {"type": "None"}}}, "agent.security_context.seccomp_profile.type"),
        ({"disabled_capabilities": ["NET_ADMN"]}, "agent.disabled_capabilities"),
    ],
)
def test_what_cannot_be_meant(cluster: Cluster, tmp_path: Path, agent: dict[str, Any], named: str) -> None:
    sentence = refusal(cluster, "deployment/web", "-f", settings(tmp_path, **agent), status=EXIT_USAGE)
    assert f"`{named}`" in sentence
