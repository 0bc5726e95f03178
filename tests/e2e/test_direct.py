"""The agent reached at its pod's address, as from a machine with a VPN into the cluster."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.agents import PORT
from mirror.cli.cluster.rights import role
from tests.e2e import workloads
from tests.e2e.cluster import Cluster
from tests.e2e.test_ephemeral import KNOCK
from tests.e2e.test_refusals import refusal
from tests.e2e.test_rights import RULES, USER, rights

DIRECT = ["--agent-transport", "direct"]


def test_everything_works(near: Cluster) -> None:
    command = "echo $COLOUR; cat /app/config/orders.ini; hostname; curl -s -m 20 http://web/"
    result = near.run("statefulset/db", "sh", "-c", command, options=DIRECT)
    address = near.pod_of("db")["status"]["podIP"]
    assert result.stdout == f"blue\n{workloads.ORDERS}db-0\npod, to {address}\n", result.stderr
    assert result.stderr == ""


def test_a_second_session_joins_and_others_get_nothing(near: Cluster) -> None:
    near.wait_without_agents()
    with near.start("deployment/web", "sh", "-c", "echo begun; exec sleep 120", options=DIRECT) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "begun\n"
            (agent,) = (pod for pod in near.agent_pods() if pod["status"]["phase"] == "Running")
            said = near.run_in_pod("python3", "-c", KNOCK, agent["status"]["podIP"], str(PORT))
            # An alert of TLS at most.
            heard = said.removeprefix("heard ").strip()
            assert said.startswith("heard ")
            assert not heard or (heard.startswith("15") and len(heard) <= 14)
            second = near.run("deployment/web", "sh", "-c", "echo $COLOUR", options=[*DIRECT, "-v"])
            assert second.stdout == "blue\n"
            assert "joining the agent" in second.stderr
            # One that is not direct is another's: its port is for nobody else.
            third = near.run("deployment/web", "sh", "-c", "echo $COLOUR", options=["-v"])
            assert third.stdout == "blue\n"
            assert "is asked for" in third.stderr
        finally:
            first.kill()


def test_no_data_goes_through_the_api_server(near: Cluster, tmp_path: Path) -> None:
    """Nor is the right to forward ports needed, but that to run the command which tells the agent's secret."""
    kubeconfig = str(near.as_user(USER, tmp_path))
    more: list[dict[str, Any]] = yaml.safe_load(role("ephemeral"))["rules"]
    by_exec = [rule for rule in more if rule["resources"] == ["pods/exec"]]
    enough = [rule for rule in copy.deepcopy(RULES) if rule["resources"] != ["pods/portforward"]]
    options = [*DIRECT, "--kubeconfig", kubeconfig]
    with rights(near, [*enough, *by_exec]):
        result = near.run("deployment/web", "sh", "-c", "echo $COLOUR", options=options)
        assert result.stdout == "blue\n", result.stderr
    with rights(near, RULES):
        sentence = refusal(near, "deployment/web", *options)
    assert "lacks the right to get pods/exec" in sentence


def test_without_a_target(near: Cluster) -> None:
    result = near.run("targetless", "getent", "hosts", "web", options=DIRECT)
    assert f"web.{near.namespace}.svc" in result.stdout, result.stderr
