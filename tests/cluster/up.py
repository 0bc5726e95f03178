"""`make cluster`: a cluster that is there gets the images that have changed; otherwise a new one is made."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

from tests.cluster import addons, api, kind, network
from tests.cluster.archives import layers, write_difference
from tests.cluster.binaries import ensure_binaries
from tests.cluster.commands import run, step
from tests.cluster.down import remove
from tests.cluster.images import Image, build_images
from tests.cluster.node import PRIVATE
from tests.cluster.node_process import Node, running_node, start_node, wait_until
from tests.cluster.places import BINARIES, KUBECONFIG, LOGS, NODE, ROOT, STATE, ClusterError
from tests.cluster.programs import CONTAINERD, write_programs

IMPORTED = STATE / "images.json"
COMPLETE = STATE / "complete"


def up() -> None:
    """Brings the cluster up, or up to date.

    Raises:
        ClusterError: it cannot be; what was started stays for a look at its logs.
    """
    if kind.docker_runs():
        kind.up()
        return
    check_machine()
    run([ROOT / "tests" / "install-packages", "cluster"], log=LOGS.parent.parent / "packages.log")
    ensure_binaries()
    images = build_images()
    node = running_node()
    if not node or not COMPLETE.exists():
        remove()
        node = make(images)
    else:
        wait_until("the API server", api.is_ready, node)
        import_images(node, images)


def check_machine() -> None:
    """Says what a cluster without Docker needs.

    Raises:
        ClusterError: something of it is not there.
    """
    if os.geteuid() != 0:
        raise ClusterError(
            "no Docker engine runs here, and a cluster without one needs root: sudo make cluster, or start Docker"
        )
    if not shutil.which("apt-get"):
        raise ClusterError(
            "no Docker engine runs here, and a cluster without one is made from Debian's packages: start Docker"
        )
    for place in (ROOT, STATE):
        if any(Path(private) in place.resolve().parents for private in PRIVATE):
            raise ClusterError(
                f"the cluster has {', '.join(PRIVATE)} of its own and would not see {place}: use another folder"
            )


def make(images: list[Image]) -> Node:
    """A new cluster."""
    started = time.monotonic()
    network.check_free()
    LOGS.mkdir(parents=True)
    with step("keys and configurations"):
        programs = write_programs()
    with step("namespaces"):
        node, parent = start_node(programs)
        network.connect(node.pid)
        assert parent.stdin, "a pipe"
        parent.stdin.write("go\n")
        parent.stdin.close()
    socket = Path(f"/proc/{node.pid}/root{CONTAINERD}")
    wait_until("containerd", socket.exists, node)
    import_images(node, images)
    with step("waiting for the API server"):
        wait_until("the API server", api.is_ready, node)
    addons.install_name_server()
    with step("waiting for the node"):
        if not api.wait_for("/api/v1/nodes", lambda item: api.has_condition(item, "Ready"), 120):
            raise ClusterError(f"{NODE} does not become ready: see {LOGS}/kubelet.log")
    with step("waiting for the name server"):
        if not api.wait_for(
            "/apis/apps/v1/namespaces/kube-system/deployments", lambda item: api.has_condition(item, "Available"), 120
        ):
            raise ClusterError(
                f"the name server does not start: see {LOGS}/kubelet.log and kubectl -n kube-system get pods"
            )
        wait_until(
            "the name server", lambda: network.ask_name_server(node.pid, "kubernetes.default.svc.cluster.local"), node
        )
    COMPLETE.touch()
    print(f"  the cluster is up after {time.monotonic() - started:.1f} s")
    return node


def import_images(node: Node, images: list[Image]) -> None:
    """Gives containerd the images that it does not have as they are now."""
    done = json.loads(IMPORTED.read_text()) if IMPORTED.exists() else {}
    control = ("ctr", f"--address={CONTAINERD}", "--namespace=k8s.io")
    difference = STATE / "difference.tar"
    for image in images:
        if done.get(image.name) != image.key:
            with step(f"importing {image.name}"):
                known = set(node.enter(*control, "content", "ls", "--quiet").split())
                if known.isdisjoint(layers(image.archive)):
                    node.enter(*control, "images", "import", image.archive)
                else:
                    write_difference(image.archive, f"docker.io/library/{image.name}", known, difference)
                    node.enter(*control, "images", "import", difference)
                    difference.unlink()
            done[image.name] = image.key
            IMPORTED.write_text(json.dumps(done))


def instructions() -> str:
    return f"export KUBECONFIG={KUBECONFIG}   # contexts: admin, developer, ...; a kubectl is in {BINARIES}"
