"""`make cluster-down`: nothing of the cluster stays but what is cached. Also after an interrupted `make cluster`."""

from __future__ import annotations

import os
import shutil

from tests.cluster import cgroups, kind, network
from tests.cluster.commands import found
from tests.cluster.node_process import running_node
from tests.cluster.places import STATE, ClusterError


def down() -> bool:
    """Removes the cluster; says whether there was one.

    Raises:
        ClusterError: something of it stays.
    """
    was = exists()
    if kind.exists():
        kind.down()
    if was and os.geteuid() != 0 and not kind.docker_runs():
        raise ClusterError("the cluster was made by root: sudo make cluster-down")
    remove()
    return was


def exists() -> bool:
    return STATE.exists() or bool(cgroups.folders())


def remove() -> None:
    """Removes a cluster that has no Docker engine, or what is left of one."""
    if cgroups.folders():
        node = running_node()
        cgroups.end_processes([node.pid] if node else [])
        cgroups.remove_cgroups()
    if found("ip"):
        network.disconnect()
    if STATE.exists():
        shutil.rmtree(STATE)
