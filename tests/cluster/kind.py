"""The cluster where a Docker engine runs: kind's, with the images that Docker builds."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml  # type: ignore[import-untyped, unused-ignore]

from tests.cluster import certificates
from tests.cluster.commands import found, run, step
from tests.cluster.images import HERE, WORKLOAD_PACKAGES
from tests.cluster.places import AGENT_IMAGE, KUBECONFIG, LOGS, NAME, ROOT, STATE, WORKLOAD_IMAGE, ClusterError

USERS = ("developer", "colleague")
NODE = f"{NAME}-control-plane"


def docker_runs() -> bool:
    return found("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def exists() -> bool:
    return found("kind") and docker_runs() and NAME in run(["kind", "get", "clusters"]).split()


def up() -> None:
    """Makes the cluster unless it is there, and brings its images up to date.

    Raises:
        ClusterError: kind is missing, or it or Docker failed.
    """
    if not found("kind"):
        raise ClusterError(
            "a Docker engine runs here, but kind is missing: https://kind.sigs.k8s.io says how to get it"
        )
    STATE.mkdir(parents=True, exist_ok=True)
    with step("building the images"):
        agent = ["docker", "build", "--tag", AGENT_IMAGE, "--file", ROOT / "Dockerfile.agent", ROOT]
        run(agent, log=LOGS / "docker.log")
        packages = f"PACKAGES={' '.join(WORKLOAD_PACKAGES)}"
        workload = ["docker", "build", "--tag", WORKLOAD_IMAGE, "--file", HERE / "Dockerfile.workload"]
        run([*workload, "--build-arg", packages, HERE], log=LOGS / "docker.log")
    if not exists():
        with step("kind create cluster"):
            create = ["kind", "create", "cluster", "--name", NAME, "--kubeconfig", KUBECONFIG, "--wait", "180s"]
            run(create, log=LOGS / "kind.log")
        _add_users()
    elif not KUBECONFIG.exists():
        run(["kind", "export", "kubeconfig", "--name", NAME, "--kubeconfig", KUBECONFIG])
        _add_users()
    with step("kind load"):
        run(["kind", "load", "docker-image", "--name", NAME, AGENT_IMAGE, WORKLOAD_IMAGE], log=LOGS / "kind.log")


def down() -> None:
    run(["kind", "delete", "cluster", "--name", NAME, "--kubeconfig", KUBECONFIG])


def _add_users() -> None:
    """The users of the other kind of cluster, by certificate: kind has no token file."""
    keys = STATE / "keys"
    keys.mkdir(mode=0o700, exist_ok=True)
    for name in ("ca.crt", "ca.key"):
        (keys / name).write_text(run(["docker", "exec", NODE, "cat", f"/etc/kubernetes/pki/{name}"]))
    config = yaml.safe_load(Path(KUBECONFIG).read_text())
    cluster = config["contexts"][0]["context"]["cluster"]
    for user in USERS:
        certificates.make_certificate(keys, user, f"/O=developers/CN={user}")
        config["users"].append({"name": user, "user": certificates.by_certificate(keys, user)})
        config["contexts"].append({"name": user, "context": {"cluster": cluster, "user": user}})
    Path(KUBECONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
