"""A namespace in a real cluster, with one object of each kind that can be a target."""

from __future__ import annotations

import os
import subprocess
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


@pytest.fixture(scope="module")
def near(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, with a way from this machine to its pods."""
    (node,) = cluster.ask(lambda api: api.list("/api/v1/nodes"))
    address = next(each["address"] for each in node["status"]["addresses"] if each["type"] == "InternalIP")
    pods = node["spec"].get("podCIDR") or f"{cluster.pod_of('web')['status']['podIP'].rpartition('.')[0]}.0/24"
    if os.geteuid():
        pytest.skip("only root may lay a route to the cluster's pods: sudo make test")
    route = [pods, "via", address]
    made = subprocess.run(["ip", "route", "add", *route], check=False, capture_output=True, text=True)
    assert made.returncode == 0 or "File exists" in made.stderr, made.stderr
    yield cluster
    if made.returncode == 0:
        subprocess.run(["ip", "route", "del", *route], check=True)
