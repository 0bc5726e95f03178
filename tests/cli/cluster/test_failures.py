from __future__ import annotations

from typing import Any

import pytest

from mirror.cli.cluster import failures
from mirror.cli.cluster.api import ApiError
from mirror.cli.cluster.failures import Ended, Refused, Running, Waiting

# --- the API server's answers, as Kubernetes 1.20 to 1.34 write them --------------------------------------

FORBIDDEN = (
    'jobs.batch is forbidden: User "developer" cannot create resource "jobs" in API group "batch" in the namespace '
    '"shop"'
)
QUOTA = 'pods "mirror-agent-1-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2'
QUOTA_WANTS = 'pods "mirror-agent-1-x" is forbidden: failed quota: strict: must specify limits.cpu,limits.memory'
POD_SECURITY = (
    'pods "mirror-agent-1-x" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostPID=true), '
    'non-default capabilities (container "agent" must not include "SYS_PTRACE" in securityContext.capabilities.add)'
)
POLICY = (
    'pods "mirror-agent-1-" is forbidden: PodSecurityPolicy: unable to admit pod: [spec.securityContext.hostPID: '
    "Invalid value: true: Host PID is not allowed to be used]"
)
VALIDATING_POLICY = (
    "pods \"mirror-agent-1-\" is forbidden: ValidatingAdmissionPolicy 'no-host' with binding 'shop' denied request: "
    "failed expression: !object.spec.hostPID"
)
WEBHOOK = 'admission webhook "rules.example.org" denied the request: no host namespaces here'
ACCOUNT = (
    'pods "mirror-agent-1-" is forbidden: error looking up service account shop/agents: serviceaccount "agents" not '
    "found"
)
PRIORITY = 'pods "mirror-agent-1-" is forbidden: no PriorityClass with name high was found'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ApiError(401, "Unauthorized", "Unauthorized"), "credentials (Unauthorized); log in"),
        (
            ApiError(403, "Forbidden", FORBIDDEN),
            "user developer lacks the right to create jobs.batch in namespace shop, which mirror needs",
        ),
        (ApiError(403, "Forbidden", QUOTA), "quota small of namespace shop"),
        (ApiError(403, "Forbidden", WEBHOOK), "rule rules.example.org refuses"),
        (ApiError(400, "", WEBHOOK), "rule rules.example.org refuses the agent's pod (no host namespaces here); put"),
        (ApiError(422, "Invalid", WEBHOOK), "rule rules.example.org refuses"),
        (ApiError(500, "InternalError", WEBHOOK), "rule rules.example.org refuses"),
        (ApiError(400, "", 'admission webhook "x" denied the request without explanation'), "rule x refuses"),
        (ApiError(422, "Invalid", VALIDATING_POLICY), "failed expression: !object.spec.hostPID); put the agent into"),
        (
            ApiError(400, "BadRequest", 'admission webhook "x" does not support dry run'),
            "dry run); correct the setting",
        ),
        (ApiError(404, "NotFound", 'namespaces "shop" not found'), "there is no namespace shop"),
        (ApiError(404, "NotFound", "gone"), "gone (status 404)"),
        (ApiError(422, "Invalid", 'Job.batch "x" is invalid: spec.x: Required'), "spec.x: Required"),
        (ApiError(429, "TooManyRequests", "slow down"), "too much to do (slow down)"),
        (ApiError(500, "InternalError", "etcd is gone"), "the cluster failed (etcd is gone)"),
        (ApiError(502, "", ""), "the cluster failed"),
    ],
)
def test_answers(error: ApiError, said: str) -> None:
    sentence = failures.explain(error, "start an agent", "shop")
    assert said in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("message", "right"),
    [
        (FORBIDDEN, "create jobs.batch in namespace shop"),
        (
            'User "a" cannot get resource "pods/portforward" in API group "" in the namespace "x"',
            "get pods/portforward in",
        ),
        (
            'nodes is forbidden: User "a" cannot list resource "nodes" in API group "" at the cluster scope',
            "whole cluster",
        ),
    ],
)
def test_a_missing_right_is_named(message: str, right: str) -> None:
    assert right in failures.missing_right(message)


def test_other_refusals_name_no_right() -> None:
    assert failures.missing_right(QUOTA) == ""


@pytest.mark.parametrize(
    ("message", "said", "remedy"),
    [
        (
            QUOTA,
            "quota small of namespace shop refuses the agent's pod (requested: pods=1, used: pods=2",
            "--agent-namespace",
        ),
        (QUOTA_WANTS, "quota strict of namespace shop wants the agent's pod to specify limits.cpu", "agent.resources"),
        (
            'pods "x" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, maximum memory usage per '
            "Container is 64Mi, but limit is 512Mi]",
            "a LimitRange of namespace shop refuses the agent's pod (maximum cpu usage per Container is 1, but limit "
            "is 2, maximum memory usage per Container is 64Mi, but limit is 512Mi); ",
            "agent.resources",
        ),
        (
            'pods "x" is forbidden: cpu max limit to request ratio per Container is 2, but provided ratio is 10.0',
            "(cpu max limit to request ratio per Container is 2, but provided ratio is 10.0)",
            "agent.resources",
        ),
        (
            POD_SECURITY,
            "PodSecurity baseline of namespace shop refuses the agent's pod (host namespaces",
            "--agent-namespace",
        ),
        (POLICY, "Host PID is not allowed", "--ephemeral"),
        (WEBHOOK, "rule rules.example.org refuses the agent's pod (no host namespaces here)", "--no-incoming"),
        ('admission webhook "x" denied the request without explanation', "does not say why", "--agent-namespace"),
        (ACCOUNT, "no service account agents", "agent.service_account"),
        (PRIORITY, "no priority class high", "agent.priority_class"),
        ("something\nelse.", "(something else)", "--agent-namespace"),
    ],
)
def test_refused_pods(message: str, said: str, remedy: str) -> None:
    sentence = failures.explain_refused_pod(message, "shop")
    assert said in sentence
    assert remedy in sentence
    assert "\n" not in sentence


def test_long_texts_are_cut() -> None:
    assert len(failures.in_one_line("x" * 10_000)) == failures.LONGEST


# --- the agent's pod --------------------------------------------------------------------------------------


def agent_pod(state: dict[str, Any] | None = None, *, node: str = "node-1", **status: Any) -> dict[str, Any]:
    statuses = [] if state is None else [{"name": "agent", "state": state}]
    return {
        "metadata": {"name": "mirror-agent-1-x"},
        "spec": {"containers": [{"name": "agent", "image": "mirror-agent:1"}], **({"nodeName": node} if node else {})},
        "status": {"phase": "Pending", "containerStatuses": statuses, **status},
    }


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


def terminated(exit_code: int, message: str = "", reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": exit_code, "message": message, "reason": reason}}


UNSCHEDULED = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "1 Insufficient cpu."}]


@pytest.mark.parametrize(
    ("pod", "verdict"),
    [
        (agent_pod(node=""), Waiting("the agent's pod to be scheduled")),
        (agent_pod(), Waiting("node node-1 to start the agent's container")),
        (agent_pod(waiting("ContainerCreating")), Waiting("node node-1 to start the agent's container")),
        (agent_pod({"running": {}}, phase="Running"), Running()),
        (agent_pod(terminated(0), phase="Succeeded"), Ended()),
        (agent_pod(phase="Succeeded"), Ended()),
        (agent_pod(terminated(0), phase="Running"), Ended()),
        (agent_pod(phase="Pending") | {"metadata": {"name": "x", "deletionTimestamp": "y"}}, Ended()),
        (
            agent_pod(node="", conditions=UNSCHEDULED, nominatedNodeName="node-2"),
            Waiting("room for the agent's pod on node node-2"),
        ),
    ],
)
def test_states(pod: dict[str, Any], verdict: failures.Verdict) -> None:
    assert failures.judge(pod) == verdict


@pytest.mark.parametrize(
    ("pod", "said"),
    [
        (
            agent_pod(waiting("ErrImagePull", "manifest\nunknown")),
            "mirror-agent:1 cannot be pulled (ErrImagePull: manifest",
        ),
        (agent_pod(waiting("ImagePullBackOff")), "cannot be pulled (ImagePullBackOff)"),
        (agent_pod(waiting("ErrImageNeverPull")), "agent.image_pull_policy"),
        (agent_pod(waiting("InvalidImageName")), "'mirror-agent:1' is no name of an image"),
        (agent_pod(waiting("CreateContainerError", "no such profile")), "(CreateContainerError: no such profile)"),
        (
            agent_pod(waiting("CreateContainerError", 'cannot load seccomp profile "x"')),
            'cannot load seccomp profile "x"); correct agent.security_context.seccomp_profile',
        ),
        (
            agent_pod(waiting("Blocked"), phase="Pending", reason="AppArmor", message="AppArmor is not enabled"),
            "(AppArmor: AppArmor is not enabled); correct agent.security_context.app_armor_profile",
        ),
        (
            agent_pod(phase="Failed", reason="AppArmor", message="Cannot enforce AppArmor"),
            "node-1 gave up the agent's pod (AppArmor: Cannot enforce AppArmor); correct agent.security_context.app_a",
        ),
        (
            agent_pod(terminated(1, "a\nprocess 7 has ended; name one\n"), phase="Failed"),
            "process 7 has ended; name one",
        ),
        (agent_pod(terminated(127), phase="Failed"), "exit status 127); is its image an agent's?"),
        (agent_pod(terminated(128, "exec: no such file", "StartError")), "started (exec: no such file); is its image"),
        (agent_pod(terminated(137, reason="OOMKilled"), phase="Failed"), "agent.resources.limits.memory"),
        (
            agent_pod(terminated(137, "mirror's agent listens on 127.0.0.1:61337\n"), phase="Failed"),
            "the agent was killed on its node (signal 9); try again",
        ),
        (agent_pod(phase="Failed", reason="OutOfcpu", message="Node didn't have enough"), "node-1 has no cpu left"),
        (
            agent_pod(phase="Failed", reason="Evicted", message="low on disk"),
            "gave up the agent's pod (Evicted: low on disk)",
        ),
    ],
)
def test_refusals(pod: dict[str, Any], said: str) -> None:
    verdict = failures.judge(pod)
    assert isinstance(verdict, Refused)
    assert said in verdict.sentence
    assert "\n" not in verdict.sentence


def test_what_may_get_better_is_given_time() -> None:
    verdict = failures.judge(agent_pod(node="", conditions=UNSCHEDULED))
    assert isinstance(verdict, Waiting)
    assert "1 Insufficient cpu" in verdict.what
    assert "cannot be scheduled (1 Insufficient cpu)" in verdict.complaint


@pytest.mark.parametrize(
    ("message", "selector", "remedy"),
    [
        ("0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match node affinity.", {}, "agent.resources"),
        ("0/2 nodes are available: 1 Too many pods, 1 node(s) didn't match node affinity.", {}, "agent.priority_class"),
        ("1 node(s) had taint {a: b}, that the pod didn't tolerate, 1 didn't match affinity", {}, "agent.tolerations"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity.", {"a": "b"}, "agent.node_selector"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity.", {}, "choose a pod on another node"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", {}, "choose a pod on another node"),
    ],
)
def test_what_helps_an_unscheduled_pod(message: str, selector: dict[str, str], remedy: str) -> None:
    pod = agent_pod(node="", conditions=[{**UNSCHEDULED[0], "message": message}])
    pod["spec"]["nodeSelector"] = selector
    verdict = failures.judge(pod)
    assert isinstance(verdict, Waiting)
    assert remedy in verdict.complaint.partition("); ")[2]


def test_sidecars_of_a_mesh_are_not_the_agent() -> None:
    pod = agent_pod()
    pod["spec"]["containers"].insert(0, {"name": "istio-proxy", "image": "proxy"})
    pod["status"]["containerStatuses"] = [
        {"name": "istio-proxy", "state": waiting("ErrImagePull")},
        {"name": "agent", "state": {"running": {}}},
    ]
    assert failures.judge(pod) == Running()


def test_a_node_that_is_not_ready() -> None:
    ready = {"type": "Ready", "status": "True"}
    silent = {
        "type": "Ready",
        "status": "Unknown",
        "reason": "NodeStatusUnknown",
        "message": "Kubelet stopped posting.",
    }
    assert failures.say_node_silent({"metadata": {"name": "n"}, "status": {"conditions": [ready]}}) == ""
    sentence = failures.say_node_silent({"metadata": {"name": "n"}, "status": {"conditions": [silent]}})
    assert "node n is not ready (Kubelet stopped posting)" in sentence
