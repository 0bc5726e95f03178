"""A pod as target of the conformance tests, and around it what the demo has: its files, names, services and callers.

Two pods. One is the target; a second container in it has the address of a service in IPv6, which the cluster need not
know. The other is the services, which Services of the names of the demo's lead to, and from which the target is called.
Programs and code come in a ConfigMap. Inside means: in the target's container, as `kubectl exec` would.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from mirror.cli.cluster import podexec
from mirror.cli.targets.demo import scene
from tests.cluster.places import ROOT, WORKLOAD_IMAGE
from tests.conformance import catalogue
from tests.conformance.outcome import TIMEOUT_S, Outcome
from tests.conformance.sides import Sides
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until

PYTHON = "/usr/bin/python3"
"""Debian's, here and in the pods' image."""

_ZIP = "/scene/scene.zip"
_PROGRAM = (PYTHON, _ZIP)
_PORTS = (80, scene.ECHO_PORT, *range(7001, 7007), 7009)
"""Of the services. At the last one nobody listens: without it a Service would not answer there at all."""
_FLEET = scene.SERVICES[f"fleet.{scene.NAMESPACE}"]
_OF_THE_CLUSTER = ("PATH", "HOSTNAME", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
"""Variables that a pod has from elsewhere."""


class Pod(Sides):
    """A pod that runs."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        addresses = {
            "POD": (cluster.get("pod", scene.HOST_NAME) or {})["status"]["podIP"],
            "INVENTORY": (cluster.get("service", "inventory") or {})["spec"]["clusterIP"],
            "STOREFRONT": (cluster.get("service", "storefront") or {})["spec"]["clusterIP"],
            "NAMESPACE": cluster.namespace,
        }
        target = ("-t", f"pod/{scene.HOST_NAME}", "-n", cluster.namespace, "--kubeconfig", str(cluster.kubeconfig))
        super().__init__(target, folder, PYTHON, addresses)
        self._cluster = cluster

    def inside(self, command: Sequence[str]) -> Outcome:
        """Runs a command in the target's container."""
        running = (*_PROGRAM, "run", str(self.folder), json.dumps(self.user_environment), *command)
        said = self._cluster.ask(
            lambda api: podexec.run(
                api, self._cluster.namespace, scene.HOST_NAME, "app", running, within_s=TIMEOUT_S + WITHIN_S
            )
        )
        output, _, status = said.rpartition(b"\n")
        return Outcome(output, int(status))

    def outside(self, command: Sequence[str], options: Sequence[str] = (), **extra: str) -> Outcome:
        """Runs a command under `mirror exec`.

        An agent without incoming traffic has no part in the pod: it stays for the next program. Another one is
        waited for, since it goes when its rules have gone.
        """
        if "--no-incoming" in options:
            return super().outside(command, options, **extra)
        settings = self.folder / "no-grace.json"
        settings.write_text(json.dumps({"agent": {"grace": 0}}))
        others = self._cluster.jobs()
        outcome = super().outside(command, [*options, "-f", str(settings)], **extra)
        wait_until(lambda: set(self._cluster.jobs()) <= set(others), WITHIN_S, "an agent is left")
        return outcome


@contextmanager
def in_pod(cluster: Cluster, folder: Path) -> Iterator[Pod]:
    """Makes the pods, with the programs in them.

    Args:
        cluster: It is alone there that uses the names of the demo's services.
        folder: An empty one for the programs.
    """
    catalogue.prepare(folder)
    things = [
        _object("ConfigMap", "scene", binaryData={"programs.tar.xz": _archive(folder), "scene.zip": _code()}),
        _object("ConfigMap", "shop", data=scene.CONFIG),
        _object("ConfigMap", "shop-variables", data=_variables()),
        *(_service(name, selector={"scene": "services"}, ports=_ports()) for name in ("inventory", "storefront")),
        _service("orders", selector={"scene": "orders"}, clusterIP="None"),
        _service("stock", type="ExternalName", externalName=f"inventory.{cluster.namespace}.svc.{scene.DOMAIN}"),
        *_many("convoy", _FLEET),
        _services_pod(),
        _target_pod(folder),
    ]
    try:
        cluster.apply(*things)
        for name in ("services", scene.HOST_NAME):
            cluster.wait_pod_ready(name)
        pod = Pod(cluster, folder)
        # The node's rules for Services, and names, come a moment after.
        asking = f"""
            curl -sS -m 20 http://inventory/items/x http://storefront/items/x 'http://[{scene.INVENTORY_V6}]/items/x' &&
            getent ahosts stock orders convoy
        """
        wait_until(lambda: pod.inside(["sh", "-c", asking]).status == 0, WITHIN_S, "no service answers")
        yield pod
    finally:
        for thing in reversed(things):
            cluster.remove(thing["kind"], thing["metadata"]["name"])


def _object(kind: str, name: str, **content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}


def _pod(name: str, service: str, **spec: Any) -> dict[str, Any]:
    pod = _object("Pod", name, spec={"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, **spec})
    pod["metadata"]["labels"] = {"scene": service}
    return pod


def _service(name: str, **spec: Any) -> dict[str, Any]:
    return _object("Service", name, spec=spec)


def _many(name: str, addresses: Sequence[str]) -> list[dict[str, Any]]:
    """A name with addresses of nobody."""
    subset = {"addresses": [{"ip": address} for address in addresses], "ports": [{"port": 80}]}
    return [_service(name, clusterIP="None", ports=[{"port": 80}]), _object("Endpoints", name, subsets=[subset])]


def _ports() -> list[dict[str, Any]]:
    return [{"name": f"port-{port}", "port": port} for port in _PORTS]


def _variables() -> dict[str, str]:
    return {name: value for name, value in scene.ENVIRONMENT.items() if name not in _OF_THE_CLUSTER}


def _container(name: str, *command: str, **more: Any) -> dict[str, Any]:
    code = {"name": "scene", "mountPath": "/scene"}
    mounts = [code, *more.pop("volumeMounts", ())]
    return {"name": name, "image": WORKLOAD_IMAGE, "command": [*_PROGRAM, *command], "volumeMounts": mounts, **more}


def _services_pod() -> dict[str, Any]:
    # The last port that it opens; a busy machine does not make it unready.
    patience = {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 30}
    container = _container("services", "serve", "::", readinessProbe={"tcpSocket": {"port": 7006}, **patience})
    return _pod("services", "services", containers=[container], volumes=[_volume("scene")])


def _target_pod(folder: Path) -> dict[str, Any]:
    places = [{"name": "data", "mountPath": "/data"}, {"name": "programs", "mountPath": str(folder)}]
    preparing = _container(
        "prepare",
        *("prepare", "/scene/programs.tar.xz", str(folder)),
        volumeMounts=places,
        securityContext={"capabilities": {"add": ["NET_ADMIN"]}},
    )
    app = _container(
        "app",
        "be",
        volumeMounts=[*places, {"name": "shop", "mountPath": "/app/config"}],
        securityContext={"runAsUser": scene.UID, "runAsGroup": scene.GID},
        envFrom=[{"configMapRef": {"name": "shop-variables"}}],
    )
    aliases = [("audit", scene.INVENTORY_V6), *(("fleet", address) for address in _FLEET)]
    volumes = [_volume(name) for name in ("scene", "shop")]
    volumes += [{"name": name, "emptyDir": {"medium": "Memory"}} for name in ("data", "programs")]
    return _pod(
        scene.HOST_NAME,
        "orders",
        initContainers=[preparing],
        containers=[app, _container("services", "serve", scene.INVENTORY_V6)],
        hostAliases=[{"ip": address, "hostnames": [name]} for name, address in aliases],
        volumes=volumes,
    )


def _volume(config_map: str) -> dict[str, Any]:
    return {"name": config_map, "configMap": {"name": config_map}}


def _archive(folder: Path) -> str:
    """The programs, packed."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        archive.add(folder, ".")
    return base64.b64encode(content.getvalue()).decode()


def _code() -> str:
    """What runs in the pods besides the programs, as a program of one file."""
    demo = Path(scene.__file__).parent
    files = {f"mirror/cli/targets/demo/{path.name}": path for path in demo.glob("*.py")}
    files |= {f"tests/conformance/{name}": ROOT / "tests/conformance" / name for name in ("outcome.py", "services.py")}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        # Without their own entries, folders without __init__.py are no packages there.
        for folder in sorted({parent for name in files for parent in PurePath(name).parents} - {PurePath()}):
            archive.mkdir(str(folder))
        for name, path in files.items():
            archive.write(path, name)
        archive.write(Path(__file__).with_name("scene_program.py"), "__main__.py")
    return base64.b64encode(content.getvalue()).decode()
