"""Where the cluster for tests lives: folders, addresses, names, versions. And what goes wrong, in one sentence."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The checkout."""

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirror"
"""Outside the checkout, so that nothing expensive is made twice."""

INSTANCE = int(os.environ.get("MIRROR_CLUSTER") or 0)
"""0 for the cluster that tests use; another digit for one beside it, which tests of the harness bring up and remove."""

_SUFFIX = str(INSTANCE or "")

STATE = CACHE / f"cluster{_SUFFIX}"
"""All that belongs to the running cluster; `make cluster-down` removes it."""

KUBECONFIG = STATE / "kubeconfig"
LOGS = STATE / "logs"
LOCK = CACHE / f"cluster{_SUFFIX}.lock"

KUBERNETES = "1.20.2"
"""The version that Debian 12 has the source of."""

BINARIES = CACHE / "kubernetes" / f"{KUBERNETES}-mended"
"""Compiled with what binaries.py changes in the source."""

IMAGES = CACHE / "images"
CACHE_LOCK = CACHE / "cache.lock"
"""Held while something is made that is kept: clusters share it."""

NAME = f"mirror-cluster{_SUFFIX}"
"""Of the interface, the cgroups, kind's cluster."""

NODE = "mirror-node"

# A point-to-point network between this machine and the cluster, and what is used inside the cluster's own namespace.
NETWORK = f"10.99.7.{4 * INSTANCE}/30"
HOST_ADDRESS = f"10.99.7.{4 * INSTANCE + 1}"
NODE_ADDRESS = f"10.99.7.{4 * INSTANCE + 2}"
PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
KUBERNETES_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
DOMAIN = "cluster.local"
API_PORT = 6443

VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
AGENT_IMAGE = f"mirror-agent:{VERSION}"
WORKLOAD_IMAGE = "mirror-test:1"
PAUSE_IMAGE = "mirror-pause:1"


class ClusterError(Exception):
    """What went wrong and what to do about it, in a sentence for the one who typed `make cluster`."""
