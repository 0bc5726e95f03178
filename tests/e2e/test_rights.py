"""What `mirror rbac` prints gives what is needed, and a right that is missing is named."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster import agents
from mirror.cli.cluster.rights import RIGHTS_EPHEMERAL, role
from mirror.cli.errors import EXIT_FAILED
from mirror.cli.settings import AgentSettings
from tests.cluster.places import AGENT_IMAGE, BINARIES
from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.relay import refusing_upgrades
from tests.e2e.test_inventory import run
from tests.e2e.test_reconnect import BACK, CONNECT, HOST_NAME, LOST, NAME, ORDERS, PROGRAM, Program
from tests.e2e.test_refusals import ghost, refusal, settings
from tests.e2e.test_replicas import answers
from tests.e2e.test_targets import rollouts
from tests.e2e.test_traffic import CALL, SERVER, serving, wait_for_request
from tests.e2e.workloads import PORT

__all__ = ["ghost", "rollouts"]

USER = "mirror-tester"
ADMIN = "mirror-administrator"
RULES: list[dict[str, Any]] = yaml.safe_load(role("user"))["rules"]
ADMIN_RULES: list[dict[str, Any]] = yaml.safe_load(role("admin"))["rules"]


def without(resource: str, *verbs: str, given: list[dict[str, Any]] = RULES) -> list[dict[str, Any]]:
    """The rules but for a resource, or but for some verbs on it."""
    rules = []
    for rule in given:
        others = [each for each in rule["resources"] if each != resource]
        left = [verb for verb in rule["verbs"] if verb not in verbs]
        if others:
            rules.append({**rule, "resources": others})
        if len(others) < len(rule["resources"]) and verbs and left:
            rules.append({**rule, "resources": [resource], "verbs": left})
    return rules


@contextmanager
def rights(cluster: Cluster, rules: list[dict[str, Any]]) -> Iterator[None]:
    """Gives USER rights in our namespace, and takes them away."""
    with bound(cluster, "Role", "tester", rules, USER):
        yield


@contextmanager
def admin_rights(cluster: Cluster, rules: list[dict[str, Any]]) -> Iterator[None]:
    """Gives ADMIN rights in the whole cluster, and takes them away."""
    with bound(cluster, "ClusterRole", cluster.namespace, rules, ADMIN):
        yield


@contextmanager
def bound(cluster: Cluster, kind: str, name: str, rules: list[dict[str, Any]], user: str) -> Iterator[None]:
    """A Role or ClusterRole, bound to a user."""
    api = "rbac.authorization.k8s.io"
    mark = f"mark-{uuid.uuid4().hex}"
    marking = {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": [mark]}
    common = {"apiVersion": f"{api}/v1", "metadata": {"name": name}}
    reference = {"apiGroup": api, "kind": kind, "name": name}
    subject = {"apiGroup": api, "kind": "User", "name": user}
    cluster.apply({**common, "kind": kind, "rules": [*rules, marking]})
    cluster.apply({**common, "kind": f"{kind}Binding", "roleRef": reference, "subjects": [subject]})
    try:
        # The API server goes by them, and without them, a moment after it was told.
        wait_until(lambda: has_right(cluster, user, mark), WITHIN_S, "the rights are not given")
        yield
    finally:
        for each in (f"{kind}Binding", kind):
            cluster.remove(each, name)
        wait_until(lambda: not has_right(cluster, user, mark), WITHIN_S, "the rights are left")


def has_right(cluster: Cluster, user: str, configmap: str) -> bool:
    """Whether a user may get a ConfigMap of our namespace."""
    attributes = {"namespace": cluster.namespace, "verb": "get", "resource": "configmaps", "name": configmap}
    return is_allowed(cluster, {"spec": {"user": user, "resourceAttributes": attributes}})


def is_allowed(cluster: Cluster, review: dict[str, Any]) -> bool:
    """What the API server says to a SubjectAccessReview."""
    answer = cluster.ask(lambda api: api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review))
    return bool(answer["status"]["allowed"])


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> str:
    """Of USER, who has no other rights."""
    return str(cluster.as_user(USER, tmp_path))


@pytest.fixture
def admin_kubeconfig(cluster: Cluster, tmp_path: Path) -> str:
    """Of ADMIN, likewise."""
    return str(cluster.as_user(ADMIN, tmp_path))


# --- with what is printed everything works ----------------------------------------------------------------


def kubectl(cluster: Cluster, *arguments: str, feed: str = "") -> None:
    """As an administrator of the cluster uses it."""
    command = [shutil.which("kubectl") or str(BINARIES / "kubectl"), "--kubeconfig", str(cluster.kubeconfig)]
    done = subprocess.run([*command, *arguments], input=feed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def granted_to(cluster: Cluster, group: str, who: str, *, everywhere: bool) -> Iterator[None]:
    """What `mirror rbac` prints, applied and bound to a group as its first lines say."""
    name = f"mirror-{who}"
    binding = "clusterrolebinding" if everywhere else "rolebinding"
    binding_name = f"{name}-{cluster.namespace}"
    kubectl(cluster, "apply", "-f", "-", feed=run(cluster, "rbac", who).stdout)
    words = [binding, binding_name, f"--clusterrole={name}", f"--group={group}"]
    kubectl(cluster, "-n", cluster.namespace, "create", *words)
    rule = yaml.safe_load(role(who))["rules"][-1]
    attributes = {"namespace": cluster.namespace, "verb": rule["verbs"][0], "group": rule["apiGroups"][0]}
    review = {"spec": {"groups": [group], "resourceAttributes": {**attributes, "resource": rule["resources"][0]}}}
    try:
        wait_until(lambda: is_allowed(cluster, review), WITHIN_S, "the rights are not given")
        yield
    finally:
        kubectl(cluster, "-n", cluster.namespace, "delete", binding, binding_name)
        kubectl(cluster, "delete", "clusterrole", name)


@pytest.fixture(scope="module")
def granted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The options of somebody who has what is printed for users, in our namespace, and nothing else."""
    group = f"{cluster.namespace}-users"
    with granted_to(cluster, group, "user", everywhere=False):
        yield ["--kubeconfig", str(cluster.as_user(USER, tmp_path_factory.mktemp("user"), group))]


@pytest.fixture
def granted_admin(cluster: Cluster, tmp_path: Path) -> Iterator[list[str]]:
    """The same for administrators, in the whole cluster."""
    group = f"{cluster.namespace}-admins"
    with granted_to(cluster, group, "admin", everywhere=True):
        yield ["--kubeconfig", str(cluster.as_user(ADMIN, tmp_path, group))]


@pytest.mark.parametrize(
    ("target", "app"),
    [
        ("pod/db-0", "db"),
        ("deployment/web", "web"),
        ("statefulset/db", "db"),
        ("daemonset/logs", "logs"),
        ("replicaset/rs", "rs"),
        ("job/load", "load"),
        ("cronjob/nightly", "nightly"),
        ("service/web", "web"),
        ("label/app=web", "web"),
    ],
)
def test_targets_of_every_kind(cluster: Cluster, granted: list[str], target: str, app: str) -> None:
    result = cluster.run(target, "sh", "-c", "echo $POD_NAME", options=granted)
    assert result.stdout.strip() == cluster.pod_of(app)["metadata"]["name"], result.stderr
    assert result.stderr == ""


def test_a_rollout(cluster: Cluster, granted: list[str], request: pytest.FixtureRequest) -> None:
    target, _ = request.getfixturevalue("rollouts")
    result = cluster.run(target, "sh", "-c", "echo $COLOUR", options=granted)
    assert (result.stdout, result.stderr) == ("blue\n", "")


def test_no_target(cluster: Cluster, granted: list[str]) -> None:
    result = cluster.run("targetless", "curl", "-s", "-m", "60", "http://web/", options=granted)
    assert result.stdout.startswith("pod, to "), result.stderr
    assert result.stderr == ""


def test_nowhere_else(cluster: Cluster, granted: list[str]) -> None:
    sentence = refusal(cluster, "deployment/web", "-n", "default", *granted)
    assert f"user {USER} lacks the right to get deployments.apps in namespace default" in sentence


def test_stealing_and_mirroring(cluster: Cluster, granted: list[str]) -> None:
    with serving(cluster, *granted, "--steal"):
        assert cluster.run_in_pod(*CALL).splitlines()[0] == "user"
    with serving(cluster, *granted, "--mirror") as program:
        answer, caller = cluster.run_in_pod(*CALL).splitlines()
        assert answer == f"pod, to {caller.strip()}"
        assert wait_for_request(program, "/hello") == caller.strip()


def test_several_replicas(alone: Cluster, granted: list[str]) -> None:
    alone.apply(workloads.many(2))
    try:
        alone.wait_ready("many", count=2)
        addresses = [pod["status"]["podIP"] for pod in alone.ready_pods("many")]
        with serving(alone, *granted, "--steal", target="deployment/many"):
            assert answers(alone, addresses) == ["user", "user"]
            assert len(alone.jobs()) == 2
    finally:
        alone.remove("deployment", "many")


@contextmanager
def asking(cluster: Cluster, *options: str) -> Iterator[Program]:
    """A program that listens, and does what it is asked."""
    command = ("python3", "-u", "-c", PROGRAM)
    with cluster.start("deployment/web", *command, options=options, stdin=subprocess.PIPE) as process:
        try:
            program = Program(process)
            assert program.hear() == "begun", program.told
            yield program
        finally:
            process.kill()


def test_a_session_and_its_agent(alone: Cluster, granted: list[str]) -> None:
    """From what it finds to where it goes: it is joined, its agent is listed and removed, its pod is replaced."""
    in_ours = ("-n", alone.namespace, *granted)
    with asking(alone, *granted, "--steal") as program:
        assert [program.ask(question) for question in (ORDERS, NAME, CONNECT)] == ["[orders]", "found", "connected"]
        assert program.ask('__import__("os").environ["PASSWORD"]') == workloads.PASSWORD
        joined = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=[*granted, "-v"])
        assert joined.stdout == "blue\n"
        assert "joining the agent" in joined.stderr
        assert program.told == []
        listed = run(alone, "agents", *in_ours, "-o", "json")
        assert listed.stderr == ""
        (agent,) = json.loads(listed.stdout)
        removed = run(alone, "agents", *in_ours, "--remove", agent["job"])
        assert removed.stdout == f"{alone.namespace}/{agent['job']} is being removed\n", removed.stderr
        program.wait_told(LOST, BACK)
        old = program.ask(HOST_NAME)
        alone.remove("pod", old)
        program.wait_told(f"pod {old} is ")
        alone.wait_ready("web")
        # That it goes on is told before its ports are there again.
        address = alone.pod_of("web")["status"]["podIP"]
        wait_until(lambda: answers(alone, [address]) == ["user"], WITHIN_S, "nothing is stolen any more")


def test_commands_that_look(cluster: Cluster, granted: list[str]) -> None:
    in_ours = ("-n", cluster.namespace)
    shown = run(cluster, "ls", *in_ours, *granted)
    assert (shown.stdout, shown.stderr) == (run(cluster, "ls", *in_ours).stdout, "")
    found = run(cluster, "doctor", *in_ours, *granted)
    assert found.returncode == 0, found.stdout
    missing = [line for line in found.stdout.splitlines() if "no right to" in line]
    # What the other way of running an agent takes is printed by `mirror rbac ephemeral`.
    assert [line.split(" in namespace")[0].split()[-1] for line in missing] == [*map(str, RIGHTS_EPHEMERAL)]


def test_two_users_at_once(alone: Cluster, tmp_path: Path) -> None:
    """One agent serves both; the port that the first has taken the second does not get."""
    first, second = (["--kubeconfig", str(alone.as_user(user, tmp_path)), "--steal"] for user in ("anna", "ben"))
    with bound(alone, "Role", "anna", RULES, "anna"), bound(alone, "Role", "ben", RULES, "ben"):
        with serving(alone, *first, target="deployment/web"):
            joined = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=[*second, "-v"])
            assert joined.stdout == "blue\n"
            assert "joining the agent" in joined.stderr
            refused = alone.run("deployment/web", "python3", "-c", SERVER, options=second)
            assert refused.returncode == 1
            assert f"port {PORT} of the target is taken by " in refused.stderr
            assert "Address already in use" in refused.stderr
            assert alone.run_in_pod(*CALL).splitlines()[0] == "user"
            assert len(alone.jobs()) == 1
        with serving(alone, *second, target="deployment/web"):
            assert alone.run_in_pod(*CALL).splitlines()[0] == "user"


# --- what is missing is named -----------------------------------------------------------------------------


def test_without_any(cluster: Cluster, kubeconfig: str) -> None:
    sentence = refusal(cluster, "deployment/web", "--kubeconfig", kubeconfig)
    assert f"user {USER} lacks the right to get deployments.apps in namespace {cluster.namespace}" in sentence
    assert "administrator" in sentence
    said = run(cluster, "doctor", "-n", cluster.namespace, "--kubeconfig", kubeconfig).stdout
    named = {
        (line.split(" in namespace")[0].split()[-1], verb.strip(","))
        for line in said.splitlines()
        if "no right to " in line
        for verb in line.split("no right to ")[1].split(" in namespace")[0].split()[:-1]
    }
    assert named >= {(f"{resource}.{group}".rstrip("."), verb) for group, resource, verb in every(RULES)}


@contextmanager
def ended_agent(cluster: Cluster, folder: Path) -> Iterator[str]:
    """The Job of an agent for `deployment/web` that has ended, and is in the way of the next; its name."""
    file = settings(folder, ttl=1000, grace=0)
    assert cluster.run("deployment/web", "true", options=["-f", file]).returncode == 0
    try:

        def has_ended() -> bool:
            return all(job.get("status", {}).get("succeeded") for job in cluster.objects("job", cluster.agents))

        wait_until(has_ended, WITHIN_S, "the agent does not end")
        (name,) = cluster.jobs()
        yield name
    finally:
        for name in cluster.jobs():
            cluster.remove("job", name)


Lacking = Callable[[Cluster, Path, Path], str]
"""Does what needs a right as somebody who lacks it, given a kubeconfig and a folder; the sentence that is said."""


def starting(target: str, *options: str) -> Lacking:
    """A session is begun."""
    return lambda cluster, kubeconfig, _: refusal(cluster, target, "--kubeconfig", str(kubeconfig), *options)


def listing(cluster: Cluster, kubeconfig: Path, _: Path) -> str:
    """What there is is shown, but for what may not be seen."""
    result = run(cluster, "ls", "-n", cluster.namespace, "--kubeconfig", str(kubeconfig))
    assert result.returncode == 0
    assert "pod/db-0" in result.stdout
    return one_sentence(result)


def replacing(cluster: Cluster, kubeconfig: Path, folder: Path) -> str:
    """A session is begun where an agent that has ended is in the way."""
    with ended_agent(cluster, folder):
        return refusal(cluster, "deployment/web", "--kubeconfig", str(kubeconfig))


def tunnelling(protocol: str) -> Lacking:
    """A session is begun through a proxy that lets one of the two ways of forwarding a port not through."""

    def begin(cluster: Cluster, kubeconfig: Path, folder: Path) -> str:
        with refusing_upgrades(kubeconfig, folder, protocol) as narrow:
            return refusal(cluster, "deployment/web", "--kubeconfig", str(narrow))

    return begin


def being_refused(cluster: Cluster, kubeconfig: Path, _: Path) -> str:
    """A session is begun where a quota forbids the agent's pod."""
    options = ("--agent-startup-timeout", "2")
    with no_pods(cluster):
        return refusal(cluster, "deployment/web", "--kubeconfig", str(kubeconfig), *options)


@contextmanager
def no_pods(cluster: Cluster) -> Iterator[None]:
    """A quota that lets no more pods into our namespace."""
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.apply({"apiVersion": "v1", "kind": "ResourceQuota", **quota})
    try:
        wait_until(
            lambda: (cluster.get("resourcequota", "none") or {}).get("status", {}).get("used"),
            WITHIN_S,
            "the quota is not in force",
        )
        yield
    finally:
        cluster.remove("resourcequota", "none")


def one_sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert result.stderr.startswith("mirror: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


LACKING: dict[tuple[str, str], Lacking] = {
    ("pods", "get"): starting("pod/db-0"),
    ("pods", "list"): starting("deployment/web"),
    ("pods", "watch"): starting("deployment/web"),
    ("pods/portforward", "create"): tunnelling("websocket"),
    ("pods/portforward", "get"): tunnelling("SPDY/3.1"),
    ("jobs", "get"): starting("job/load"),
    ("jobs", "list"): starting("cronjob/nightly"),
    ("jobs", "create"): starting("deployment/web"),
    ("jobs", "patch"): starting("deployment/web"),
    ("jobs", "delete"): replacing,
    ("events", "watch"): being_refused,
    ("services", "get"): starting("service/web"),
    ("services", "list"): listing,
    ("deployments", "get"): starting("deployment/web"),
    ("deployments", "list"): listing,
    ("statefulsets", "get"): starting("statefulset/db"),
    ("statefulsets", "list"): listing,
    ("daemonsets", "get"): starting("daemonset/logs"),
    ("daemonsets", "list"): listing,
    ("replicasets", "get"): starting("replicaset/rs"),
    ("replicasets", "list"): listing,
    ("cronjobs", "get"): starting("cronjob/nightly"),
    ("cronjobs", "list"): listing,
    ("rollouts", "get"): starting("rollout/web"),
    ("rollouts", "list"): listing,
}
"""What does not work without each right of the role."""


def every(rules: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """The API group, resource and verb of each right."""
    return [
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    ]


@pytest.mark.parametrize(("group", "resource", "verb"), every(RULES))
def test_a_missing_one_is_named(
    alone: Cluster, kubeconfig: str, tmp_path: Path, group: str, resource: str, verb: str
) -> None:
    with rights(alone, without(resource, verb)):
        sentence = LACKING[resource, verb](alone, Path(kubeconfig), tmp_path)
    shown = resource if LACKING[resource, verb] is listing else f"{resource}.{group}".rstrip(".")
    assert f"lack the right to {verb} {shown} in namespace {alone.namespace}" in sentence.replace("lacks", "lack")


@pytest.mark.parametrize("protocol", ["websocket", "SPDY/3.1"])
def test_each_way_of_forwarding_ports_is_enough(
    cluster: Cluster, kubeconfig: str, tmp_path: Path, protocol: str
) -> None:
    with rights(cluster, RULES), refusing_upgrades(Path(kubeconfig), tmp_path, protocol) as narrow:
        result = cluster.run("statefulset/db", "sh", "-c", "echo $COLOUR", options=["--kubeconfig", str(narrow)])
    assert (result.stdout, result.stderr) == ("blue\n", "")


def test_no_right_to_see_an_agent_that_is_in_the_way(alone: Cluster, kubeconfig: str, tmp_path: Path) -> None:
    with rights(alone, without("jobs", "get")):
        sentence = replacing(alone, Path(kubeconfig), tmp_path)
    assert f"user {USER} lacks the right to get jobs.batch in namespace {alone.namespace}" in sentence


def test_an_agent_that_is_in_the_way_is_removed(alone: Cluster, granted: list[str], tmp_path: Path) -> None:
    with ended_agent(alone, tmp_path):
        result = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=granted)
        assert (result.stdout, result.stderr) == ("blue\n", "")


def test_no_right_to_remove_what_fails(alone: Cluster, kubeconfig: str) -> None:
    """Its deadline does that, in the end."""
    with rights(alone, without("jobs", "delete")):
        sentence = refusal(alone, "deployment/web", "--kubeconfig", kubeconfig, "-i", "127.0.0.1:1/none:1")
    (job,) = alone.jobs()
    alone.remove("job", job)
    assert f"its Job {job} stays for up to 91 s, as user {USER} lacks the right to delete jobs.batch" in sentence


def test_no_right_to_see_events(alone: Cluster, kubeconfig: str) -> None:
    """It works, and what may be missed is said to who wants to know."""
    with rights(alone, without("events")):
        result = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=["--kubeconfig", kubeconfig, "-v"])
    assert result.stdout == "blue\n", result.stderr
    assert f"user {USER} lacks the right to watch events in namespace {alone.namespace}, so" in result.stderr


def test_no_right_to_watch_pods_where_an_agent_is(alone: Cluster, kubeconfig: str) -> None:
    """That can be joined. The session follows its target all the same, a little later."""
    told = f"user {USER} lacks the right to watch pods in namespace {alone.namespace}, so"
    with rights(alone, without("pods", "watch")), alone.held("deployment/web"):
        alone.running_agent_pods()
        with asking(alone, "--kubeconfig", kubeconfig) as program:
            program.wait_told(told)
            pod = program.ask(HOST_NAME)
            alone.remove("pod", pod)
            wait_until(lambda: any(f"pod {pod} " in each for each in program.told), WITHIN_S, "it is not told")


def test_no_right_to_see_what_was_meant(cluster: Cluster, kubeconfig: str) -> None:
    with rights(cluster, without("deployments", "list")):
        sentence = refusal(cluster, "deployment/wbe", "--kubeconfig", kubeconfig)
    assert f"there is no deployment/wbe in namespace {cluster.namespace}" in sentence
    assert f"user {USER} lacks the right to list deployments.apps in namespace {cluster.namespace}" in sentence


@pytest.mark.parametrize(
    ("resource", "verb", "names"), [("jobs", "list", ()), ("jobs", "delete", ("--remove",)), ("pods", "list", ())]
)
def test_a_missing_right_to_agents_is_named(
    cluster: Cluster, kubeconfig: str, agent: str, resource: str, verb: str, names: tuple[str, ...]
) -> None:
    with rights(cluster, without(resource, verb)):
        options = ("-n", cluster.namespace, "--kubeconfig", kubeconfig)
        result = run(cluster, "agents", *options, *names, *([agent] if names else []))
    shown = "jobs.batch" if resource == "jobs" else resource
    where = f"in namespace {cluster.namespace}"
    assert f"user {USER} lacks the right to {verb} {shown} {where}" in one_sentence(result)
    assert result.returncode == (0 if resource == "pods" else EXIT_FAILED)
    assert (agent in result.stdout) == (resource == "pods")


# --- administrators ---------------------------------------------------------------------------------------


@pytest.fixture
def agent(alone: Cluster) -> Iterator[str]:
    """The Job of somebody's agent in our namespace; no node takes its pod, so that it goes at once."""
    settings = AgentSettings(node_selector={"mirror-e2e": "nowhere"})
    job = agents.manifest(agents.Wish(None, alone.namespace, ("names",), settings, AGENT_IMAGE))
    alone.apply(job)
    yield job["metadata"]["name"]
    alone.remove("job", job["metadata"]["name"])


def test_administrators_see_and_remove_agents_everywhere(
    cluster: Cluster, granted_admin: list[str], agent: str
) -> None:
    shown = run(cluster, "agents", "-A", *granted_admin)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert [cluster.namespace, agent] in [line.split()[:2] for line in shown.stdout.splitlines()]
    removed = run(cluster, "agents", "-A", "--remove", agent, *granted_admin)
    assert removed.stdout == f"{cluster.namespace}/{agent} is being removed\n", removed.stderr
    wait_until(lambda: agent not in cluster.jobs(), WITHIN_S, "the agent is left")


def test_administrators_are_told_that_a_namespace_does_not_exist(cluster: Cluster, granted_admin: list[str]) -> None:
    options = ("-n", "mirror-nowhere", *granted_admin)
    assert "there is no namespace mirror-nowhere" in refusal(cluster, "deployment/web", *options)


LackingAdmin = Callable[[Cluster, str, list[str]], str]
"""The same, given an agent and the options of who lacks the right."""


def listing_agents(cluster: Cluster, _: str, options: list[str]) -> str:
    """All agents are shown."""
    return one_sentence(run(cluster, "agents", "-A", *options))


def removing_agents(cluster: Cluster, agent: str, options: list[str]) -> str:
    """One is removed."""
    return one_sentence(run(cluster, "agents", "-A", "--remove", agent, *options))


def looking_nowhere(cluster: Cluster, _: str, options: list[str]) -> str:
    """A session is begun in a namespace that does not exist."""
    return refusal(cluster, "deployment/web", "-n", "mirror-nowhere", *options)


LACKING_ADMIN: dict[tuple[str, str], LackingAdmin] = {
    ("namespaces", "get"): looking_nowhere,
    ("pods", "list"): listing_agents,
    ("jobs", "list"): listing_agents,
    ("jobs", "delete"): removing_agents,
}
"""What administrators do not learn, or cannot do, without each right of their role but that to nodes."""


@pytest.mark.parametrize(
    ("group", "resource", "verb"), [right for right in every(ADMIN_RULES) if right != ("", "nodes", "get")]
)
def test_an_administrators_missing_right_is_named(
    cluster: Cluster, admin_kubeconfig: str, agent: str, group: str, resource: str, verb: str
) -> None:
    with admin_rights(cluster, without(resource, verb, given=ADMIN_RULES)):
        sentence = LACKING_ADMIN[resource, verb](cluster, agent, ["--kubeconfig", admin_kubeconfig])
    assert f" the right to {verb} {resource}{f'.{group}' if group else ''}" in sentence
    assert agent in cluster.jobs()


def test_an_administrators_missing_right_to_nodes_is_named(
    cluster: Cluster, admin_kubeconfig: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Where an agent waits for one that starts nothing."""
    pod = request.getfixturevalue("ghost")
    file = settings(tmp_path, resources={"requests": {"cpu": "1m", "memory": "1Mi"}}, startup_timeout=15)
    with admin_rights(cluster, [*RULES, *without("nodes", given=ADMIN_RULES)]):
        sentence = refusal(cluster, f"pod/{pod}", "-f", file, "--kubeconfig", admin_kubeconfig)
    assert f"waited for node {pod} to start the agent's container" in sentence
    assert f"user {ADMIN} lacks the right to get nodes in the whole cluster" in sentence


def test_doctor_names_what_an_administrator_would_see(cluster: Cluster, kubeconfig: str) -> None:
    with rights(cluster, RULES):
        said = run(cluster, "doctor", "-n", cluster.namespace, "--kubeconfig", kubeconfig).stdout
    (line,) = (line for line in said.splitlines() if "PodSecurity" in line)
    assert f"user {USER} lacks the right to get namespaces" in line
