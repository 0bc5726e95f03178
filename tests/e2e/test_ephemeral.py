"""The agent as an ephemeral container of its target's pod: what works there, who joins it, who gets nothing of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.rights import role
from tests.e2e import workloads
from tests.e2e.cluster import MIRROR, WITHIN_S, Cluster, wait_until
from tests.e2e.test_refusals import refusal
from tests.e2e.test_rights import USER, rights, without

TARGET = "deployment/lent"
EPHEMERAL = ["--ephemeral"]
TELL = "echo $COLOUR, $PASSWORD, $MODE, $KUBERNETES_SERVICE_HOST, $POD_NAME"
LONG = ("sh", "-c", "echo begun; exec sleep 120")

LOOK = """
import json, os, socket
seen, agents = {}, 0
for pid in filter(str.isdecimal, os.listdir("/proc")):
    if b"mirror.agent" not in open(f"/proc/{pid}/cmdline", "rb").read() or int(pid) == os.getpid():
        continue
    agents += 1
    for name in ("root/tmp", "root/tmp/mirror-agent.pem", "cwd", "environ", "mem", "maps", "fd/0", "exe", "ns/mnt"):
        path = f"/proc/{pid}/{name}"
        try:
            if name in ("cwd", "exe", "ns/mnt", "fd/0"):
                seen[path] = os.readlink(path)
            elif name == "root/tmp":
                seen[path] = os.listdir(path)
            else:
                seen[path] = str(os.pread(os.open(path, os.O_RDONLY), 100, 0))
        except PermissionError:
            pass
ports = [int(line.split()[1].rpartition(":")[2], 16) for line in open("/proc/net/tcp").read().splitlines()[1:]
         if line.split()[3] == "0A" and line.split()[1].startswith("0100007F")]
heard = []
for port in ports:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(20)
    connection.sendall(bytes.fromhex("0000000568656c6c6f"))
    try:
        heard.append(connection.recv(100).hex())
    except ConnectionResetError:
        heard.append("")
print(json.dumps([agents, seen, ports, heard, os.getuid()]))
"""
"""What a process of the target tries, as root: which processes it sees of agents, what of them, and what they tell."""

KNOCK = """
import socket, sys
for port in sys.argv[2:]:
    try:
        connection = socket.create_connection((sys.argv[1], int(port)), timeout=20)
        connection.sendall(bytes.fromhex("0000000568656c6c6f"))
        print("heard", connection.recv(100).hex())
    except ConnectionError as error:
        print("refused" if error.errno == 111 else "heard ")
"""
"""What another pod tries."""


@pytest.fixture(scope="module")
def lent(cluster: Cluster) -> Iterator[Cluster]:
    """With a Deployment whose pod gets the ephemeral containers: they stay in it until its end."""
    deployment = workloads.web()
    text = json.dumps(deployment).replace('"web"', '"lent"')
    cluster.apply(json.loads(text))
    cluster.wait_ready("lent")
    yield cluster
    cluster.remove("deployment", "lent")


@pytest.fixture
def quiet(lent: Cluster) -> Iterator[Cluster]:
    """The same, while no agent runs in the pod, before and after."""
    wait_until(lambda: not running(lent), WITHIN_S, "an agent is left")
    yield lent
    # One that nobody came to stays for half a minute.
    wait_until(lambda: not running(lent), WITHIN_S, "an agent is left")


def running(cluster: Cluster) -> list[str]:
    """The agents that run in the pod."""
    statuses = cluster.pod_of("lent")["status"].get("ephemeralContainerStatuses") or ()
    return [status["name"] for status in statuses if "running" in status["state"]]


def pod_name(cluster: Cluster) -> str:
    return str(cluster.pod_of("lent")["metadata"]["name"])


def has_privileges(cluster: Cluster) -> bool:
    """Whether the cluster gives ephemeral containers any: from 1.22 on."""
    version = cluster.ask(lambda api: api.get("/version"))
    return int(re.sub(r"\D", "", version["minor"])) >= 22


@contextmanager
def session(cluster: Cluster, *options: str) -> Iterator[subprocess.Popen[str]]:
    """One that does nothing, for the length of a block."""
    with cluster.start(TARGET, *LONG, options=[*EPHEMERAL, *options]) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "begun\n"
            yield program
        finally:
            program.kill()


# --- what works -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        TELL,
        "hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname",
        "cat /app/config/orders.ini /app/login/PASSWORD; ls -la /app/config; stat -L -c '%n %s %a %u %g' /app/*/*",
        "cat /var/run/secrets/kubernetes.io/serviceaccount/namespace; cat /app/none; echo $?",
        "getent ahostsv4 web; getent ahostsv4 web.$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace).svc",
        "getent hosts kubernetes.default.svc.cluster.local; getent hosts nobody.invalid; echo $?",
        "curl -s -m 20 http://web/; curl -s -m 20 http://127.0.0.1:8080/; curl -s -m 20 http://127.0.0.1:9/; echo $?",
    ],
)
def test_a_program_finds_what_it_would_find_in_the_pod(lent: Cluster, command: str) -> None:
    """The pod itself is asked."""
    program = ("sh", "-c", f"exec 2>&1; {command}")
    expected = lent.run_in_container(pod_name(lent), *program)
    result = lent.run(TARGET, *program, options=EPHEMERAL)
    assert result.stdout == expected
    assert result.stderr == ""
    assert expected.strip()


def test_what_runs_in_a_pod_whose_containers_share_their_processes(lent: Cluster) -> None:
    """There the target is not the first process."""
    spec = workloads.pod_template("sharing", shareProcessNamespace=True)
    spec["metadata"]["name"] = "sharing"
    lent.apply({"apiVersion": "v1", "kind": "Pod", **spec})
    try:
        lent.wait_ready("sharing")
        result = lent.run("pod/sharing", "sh", "-c", "echo $COLOUR; cat /app/config/orders.ini", options=EPHEMERAL)
    finally:
        lent.remove("pod", "sharing")
    assert result.stdout == f"blue\n{workloads.ORDERS}", result.stderr


def test_incoming_traffic_as_far_as_the_version_has_it(quiet: Cluster) -> None:
    serve = "import socket; socket.create_server(('', 8080)); print('listens')"
    result = quiet.run(TARGET, "python3", "-c", serve, options=EPHEMERAL)
    assert result.stdout == "listens\n", result.stderr
    if has_privileges(quiet):
        assert result.stderr == ""
        return
    begun = len(quiet.pod_of("lent")["spec"]["ephemeralContainers"])
    assert "port 8080 of the target stays with the target: Kubernetes v1." in result.stderr
    assert "gives ephemeral containers no privileges" in result.stderr
    wait_until(lambda: not running(quiet), WITHIN_S, "an agent is left")
    assert "leave out --ephemeral" in refusal(quiet, TARGET, "--ephemeral", "--steal")
    assert len(quiet.pod_of("lent")["spec"]["ephemeralContainers"]) == begun


# --- who shares it ----------------------------------------------------------------------------------------


def test_a_second_session_joins_and_a_later_one_gets_another(quiet: Cluster) -> None:
    with session(quiet):
        (name,) = running(quiet)
        listed = subprocess.run(
            [*MIRROR, "agents", "-n", quiet.namespace], env=quiet.variables, capture_output=True, text=True, check=True
        ).stdout
        assert f"{name}   {quiet.namespace}/{pod_name(quiet)}/app   running" in listed
        second = quiet.run(TARGET, "sh", "-c", "echo $COLOUR", options=[*EPHEMERAL, "-v"])
        assert second.stdout == "blue\n"
        assert f"joining the agent in ephemeral container {name}" in second.stderr
        assert running(quiet) == [name]
    wait_until(lambda: not running(quiet), WITHIN_S, "an agent is left")
    with session(quiet):
        (later,) = running(quiet)
    base, _, number = name.rpartition("-")
    assert later == f"{base}-{int(number) + 1}"


def test_nothing_of_it_is_left_but_its_name(quiet: Cluster) -> None:
    """Neither when all goes well nor when the proxy is killed: no process in the pod, also no defunct one."""

    def processes() -> list[str]:
        pids = "import os; print(*sorted(filter(str.isdecimal, os.listdir('/proc')), key=int))"
        return quiet.run_in_container(pod_name(quiet), "python3", "-c", pids).split()

    before = len(processes())
    with session(quiet):
        assert len(processes()) > before
    wait_until(lambda: not running(quiet), WITHIN_S, "an agent is left")
    assert len(processes()) == before
    with session(quiet):
        (proxy,) = quiet.proxies()
        os.kill(proxy, signal.SIGKILL)
    wait_until(lambda: not running(quiet), WITHIN_S, "an agent is left")
    assert len(processes()) == before


def test_one_that_is_killed_is_replaced(quiet: Cluster) -> None:
    kill = "import os; pids = filter(str.isdecimal, os.listdir('/proc')); " + (
        "[os.kill(int(pid), 9) for pid in pids if b'mirror.agent' in open(f'/proc/{pid}/cmdline', 'rb').read() "
        "and int(pid) != os.getpid()]"
    )
    with session(quiet) as program:
        (name,) = running(quiet)
        quiet.run_in_container(pod_name(quiet), "python3", "-c", kill)
        wait_until(lambda: name not in running(quiet), WITHIN_S, "it is not killed")
        assert program.poll() is None
        result = quiet.run(TARGET, "sh", "-c", "echo $COLOUR", options=EPHEMERAL)
        assert result.stdout == "blue\n", result.stderr
        assert program.poll() is None


# --- who gets nothing of it -------------------------------------------------------------------------------


def test_a_process_of_the_target_gets_nothing(quiet: Cluster) -> None:
    """Though it is root, on the same loopback and among the same processes."""
    with session(quiet):
        found = json.loads(quiet.run_in_container(pod_name(quiet), "python3", "-c", LOOK))
        processes, seen, ports, heard, uid = found
        assert processes >= 2, "an agent and its worker"
        assert uid == 0
        assert seen == {}
        assert len(ports) == len(heard) == 1
        # Nothing of the agent's protocol: at most an alert of TLS, which is 7 bytes and begins with 21.
        assert all(not each or (each.startswith("15") and len(each) <= 14) for each in heard)
        again = quiet.run(TARGET, "sh", "-c", "echo $COLOUR", options=EPHEMERAL)
        assert again.stdout == "blue\n", again.stderr


def test_another_pod_gets_nothing(quiet: Cluster) -> None:
    with session(quiet):
        (port,) = json.loads(quiet.run_in_container(pod_name(quiet), "python3", "-c", LOOK))[2]
        address = quiet.pod_of("lent")["status"]["podIP"]
        said = quiet.run_in_pod("python3", "-c", KNOCK, address, str(port))
    assert said == "refused\n"


def test_the_secret_is_nowhere_in_the_cluster(quiet: Cluster) -> None:
    with session(quiet):
        pod = quiet.pod_of("lent")
        (name,) = running(quiet)
        log = quiet.ask(
            lambda api: api.text(
                f"/api/v1/namespaces/{quiet.namespace}/pods/{pod['metadata']['name']}/log", {"container": name}
            )
        )
        secret = quiet.run_in_container(
            pod["metadata"]["name"], "cat", "/tmp/mirror-agent.pem", container=name
        ).splitlines()[2]
        assert len(secret) == 64
        assert secret not in json.dumps(pod)
        assert secret not in log


# --- rights -----------------------------------------------------------------------------------------------

MORE: list[dict[str, Any]] = yaml.safe_load(role("ephemeral"))["rules"]


def test_the_rights_for_it_are_enough(lent: Cluster, tmp_path: Path) -> None:
    """Without the right to make Jobs."""
    kubeconfig = str(lent.as_user(USER, tmp_path))
    with rights(lent, [*without("jobs"), *MORE]):
        result = lent.run(TARGET, "sh", "-c", "echo $COLOUR", options=[*EPHEMERAL, "--kubeconfig", kubeconfig])
    assert result.stdout == "blue\n", result.stderr
    assert result.stderr == ""


@pytest.mark.parametrize("missing", ["pods/ephemeralcontainers", "pods/exec"])
def test_a_missing_right_is_named(quiet: Cluster, tmp_path: Path, missing: str) -> None:
    kubeconfig = str(quiet.as_user(USER, tmp_path))
    with rights(quiet, [*without("jobs"), *(rule for rule in MORE if rule["resources"] != [missing])]):
        sentence = refusal(quiet, TARGET, "--ephemeral", "--kubeconfig", kubeconfig)
    assert "lacks the right to" in sentence
    assert f"{missing} in namespace {quiet.namespace}" in sentence
