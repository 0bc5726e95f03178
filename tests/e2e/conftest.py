"""A namespace in a real cluster, with one object of each kind that can be a target."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.cli.errors import MirrorError
from tests.e2e import workloads
from tests.e2e.cluster import WITHIN_S, Cluster, find, wait_until


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    kubeconfig = find()
    if kubeconfig is None:
        pytest.skip("there is no cluster to test with; `make cluster` brings one up")
    cluster = Cluster(kubeconfig)
    name = cluster.namespace
    try:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, patience_s=0)
    except MirrorError as error:
        pytest.skip(f"the cluster to test with does not answer ({error.sentence}); `make cluster` brings one up")
    try:
        # Pods are refused until the namespace has its service account.
        wait_until(lambda: cluster.get("serviceaccount", "default"), WITHIN_S, "there is no service account")
        cluster.apply(*workloads.CONFIGURATION, *workloads.WORKLOADS)
        owner = cluster.get("cronjob", "nightly")
        assert owner is not None
        cluster.apply(workloads.job_of(owner))
        cluster.wait_ready(*workloads.APPS)
        # The node's rules for a service come a moment after its pod is ready.
        wait_until(lambda: cluster.run_in_pod("curl", "-s", "-m", "60", "http://web/"), WITHIN_S, "no service answers")
        yield cluster
    finally:
        cluster.remove("Namespace", name)
        wait_until(lambda: cluster.get("Namespace", name) is None, 2 * WITHIN_S, f"namespace {name} is left")


@pytest.fixture
def alone(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster without any agent, before and after."""
    cluster.wait_without_agents()
    yield cluster
    cluster.wait_without_agents()
