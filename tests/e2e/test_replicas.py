"""Of a target with several pods the traffic of all comes, unless one is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import workloads
from tests.e2e.cluster import Cluster
from tests.e2e.test_traffic import serving

REPLICAS = 3


@pytest.fixture(scope="module")
def addresses(cluster: Cluster) -> Iterator[list[str]]:
    """Of the pods of the Deployment `many`."""
    deployment = workloads.many(REPLICAS)
    cluster.apply(deployment)
    cluster.wait_ready("many", count=REPLICAS)
    yield [pod["status"]["podIP"] for pod in cluster.objects("pod", "app=many")]
    cluster.remove("deployment", "many")


def answers(cluster: Cluster, addresses: list[str], patience_s: int = 60) -> list[str]:
    """What each pod answers; nothing for one that takes longer."""
    urls = [f"http://{address}:{workloads.PORT}/" for address in addresses]
    said = cluster.run_in_pod("curl", "-s", "-m", str(patience_s), *urls)
    return sorted(line.split(",")[0] for line in said.splitlines())


def test_all_are_stolen(alone: Cluster, addresses: list[str]) -> None:
    with serving(alone, "--steal", target="deployment/many"):
        assert answers(alone, addresses) == ["user"] * REPLICAS
        assert len(alone.jobs()) == REPLICAS
    assert answers(alone, addresses) == ["pod"] * REPLICAS


def test_all_are_mirrored(alone: Cluster, addresses: list[str]) -> None:
    with serving(alone, "--mirror", target="deployment/many") as program:
        assert answers(alone, addresses) == ["pod"] * REPLICAS
        assert program.stdout is not None
        assert [program.stdout.readline().split()[0] for _ in addresses] == ["/"] * REPLICAS


def test_one_is_enough(alone: Cluster, addresses: list[str]) -> None:
    with serving(alone, "--steal", "--replicas", "one", target="deployment/many"):
        assert answers(alone, addresses) == [*["pod"] * (REPLICAS - 1), "user"]
        assert len(alone.jobs()) == 1


def test_who_listens_to_nothing_needs_one_agent(alone: Cluster, addresses: list[str]) -> None:
    with alone.held("deployment/many"):
        assert len(alone.jobs()) == 1


def test_a_lost_replica_is_told_and_had_again(alone: Cluster, addresses: list[str]) -> None:
    with serving(alone, "--steal", target="deployment/many") as program:
        features = "mirror-agent/features"
        others = [
            job for job in alone.objects("job", alone.agents) if job["metadata"]["annotations"][features] == "incoming"
        ]
        assert len(others) == REPLICAS - 1
        alone.remove("job", others[0]["metadata"]["name"])
        assert program.stdout is not None
        agent = f"connection to the agent of pod {others[0]['metadata']['annotations']['mirror-agent/target-pod']}"
        assert f"there is no {agent} (" in program.stdout.readline()
        assert f"there is a {agent} again" in program.stdout.readline()
        assert answers(alone, addresses) == ["user"] * REPLICAS
