"""A program finds in a pod what it would find if it ran there; its exit status is its own, and nothing stays."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from mirror.cli.errors import EXIT_FAILED
from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until


def output(cluster: Cluster, *command: str, target: str = "deployment/web") -> str:
    result = cluster.run(target, *command)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_environment_from_configmap_and_secret(cluster: Cluster) -> None:
    said = output(cluster, "sh", "-c", "echo $COLOUR, $PASSWORD, $MODE, $KUBERNETES_SERVICE_HOST")
    colour, password, mode, host = said.strip().split(", ")
    assert (colour, password, mode) == ("blue", workloads.PASSWORD, "pod")
    assert host


def test_host_name_is_the_pods(cluster: Cluster) -> None:
    assert output(cluster, "hostname").strip() == cluster.pod_of("web")["metadata"]["name"]


def test_files_from_volumes(cluster: Cluster) -> None:
    token = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    said = output(cluster, "cat", "/app/config/orders.ini", "/app/login/PASSWORD", token)
    assert said == workloads.ORDERS + workloads.PASSWORD + cluster.namespace


def test_a_volumes_directory(cluster: Cluster) -> None:
    assert output(cluster, "ls", "/app/config") == "orders.ini\n"


def test_names_short_and_long(cluster: Cluster) -> None:
    names = ["web", f"web.{cluster.namespace}", f"web.{cluster.namespace}.svc.cluster.local"]
    addresses = {line.split()[0] for line in output(cluster, "getent", "ahostsv4", *names).splitlines()}
    service = cluster.get("service", "web")
    assert service is not None
    assert addresses == {service["spec"]["clusterIP"]}


def test_a_service_is_called_from_the_pod(cluster: Cluster) -> None:
    """The service's pod sees the target's address, not this machine's."""
    said = output(cluster, "curl", "-s", "-m", "60", "http://web/", target="statefulset/db")
    assert said == f"pod, to {cluster.pod_of('db')['status']['podIP']}\n"


def test_a_refused_connection_is_refused(cluster: Cluster) -> None:
    program = "import socket, sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', 9)))"
    assert cluster.run("deployment/web", "python3", "-c", program).returncode == 111


def test_exit_status(cluster: Cluster) -> None:
    assert cluster.run("deployment/web", "sh", "-c", "exit 7").returncode == 7
    killed = cluster.run("deployment/web", "sh", "-c", "kill -9 $$")
    assert killed.returncode == -signal.SIGKILL


def test_nothing_stays(alone: Cluster) -> None:
    with alone.held("deployment/web"):
        assert len(alone.jobs()) == 1


def test_a_second_session_joins(alone: Cluster) -> None:
    with alone.start("deployment/web", "sh", "-c", "echo begun; exec sleep 1000") as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "begun\n"
            second = alone.run("deployment/web", "sh", "-c", "echo $COLOUR", options=["-v"])
            assert second.stdout == "blue\n"
            assert "joining the agent" in second.stderr
            assert len(alone.agent_pods()) == 1
            # The first lives on without the second.
            third = alone.run("deployment/web", "cat", "/app/config/orders.ini", options=["-v"])
            assert third.stdout == workloads.ORDERS
            assert "joining the agent" in third.stderr
        finally:
            first.kill()


def test_other_needs_get_another_agent_with_fewer_rights(alone: Cluster) -> None:
    options = ["--no-incoming", "--no-outgoing", "--no-remote-dns"]
    with alone.held("deployment/web", "cat /app/config/orders.ini", options=options) as said:
        assert said == workloads.ORDERS
        (pod,) = alone.agent_pods()
    capabilities = pod["spec"]["containers"][0]["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    assert not {"SYS_ADMIN", "NET_ADMIN"} & {*capabilities["add"]}


def test_nothing_stays_when_everything_is_killed(alone: Cluster) -> None:
    """Proxy and agent by SIGKILL: the cluster finds the Job ended, and removes it."""
    with alone.held("deployment/web"):
        (proxy,) = alone.proxies()
        os.kill(proxy, signal.SIGKILL)
        alone.kill_agents()


def test_an_interrupted_start_leaves_nothing(alone: Cluster, tmp_path: Path) -> None:
    """Ctrl-C while the agent's pod waits for more processors than there are."""
    file = tmp_path / "mirror.json"
    file.write_text(json.dumps({"agent": {"resources": {"requests": {"cpu": "1000"}}}}))
    options = ["-v", "-f", str(file)]
    with alone.start("deployment/web", "true", options=options, start_new_session=True) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if "waiting for the agent's pod to be scheduled" in line:
                break
        os.killpg(program.pid, signal.SIGINT)
        assert program.wait(WITHIN_S) == -signal.SIGINT


def test_a_start_that_is_killed_leaves_nothing_for_long(alone: Cluster) -> None:
    """The proxy by SIGKILL, and an image that does not exist: nobody is left to remove the Job but the cluster."""
    timeout_s = 5
    options = ["-v", "-i", "127.0.0.1:1/none:1", "--agent-startup-timeout", str(timeout_s)]
    with alone.start("deployment/web", "true", options=options) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if "is asked for" in line:
                break
        (proxy,) = alone.proxies()
        os.kill(proxy, signal.SIGKILL)
        assert program.wait(WITHIN_S) == EXIT_FAILED
    wait_until(
        lambda: not alone.jobs() and not alone.agent_pods(), timeout_s + 2 * WITHIN_S, "what never came up is left"
    )


def test_an_agent_that_runs_has_no_deadline(alone: Cluster) -> None:
    with alone.held("deployment/web"):
        (job,) = alone.objects("job", alone.agents)
        assert "activeDeadlineSeconds" not in job["spec"]
