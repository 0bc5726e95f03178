"""What the end-to-end tests do in a real cluster, besides running `mirror`: make things, look at them, remove them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import trio
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster import agents, podexec
from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, ApiError, Object, Unreachable, open_api
from mirror.cli.cluster.reference import KINDS
from tests.cluster.places import KUBECONFIG, WORKLOAD_IMAGE

MIRROR = (sys.executable, "-m", "mirror.cli")
WITHIN_S = 180.0
"""For whatever the cluster does; a busy machine is slow."""

_MARK = "MIRROR_TEST_MARK"
_FINDER = """
import ctypes, os, signal, socket, struct, sys, time

def found(wanted):
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            cgroups, name = open(f"/proc/{pid}/cgroup").read(), open(f"/proc/{pid}/comm").read().strip()
        except OSError:
            continue
        if name in wanted or any(container in cgroups for container in wanted):
            yield int(pid)
"""
_SIGNALLER = """
number, *wanted = sys.argv[1:]
pids = list(found(wanted))
began = time.time()
for pid in pids:
    try:
        os.kill(pid, int(number))
    except ProcessLookupError:
        pass  # it died of the death of another
print("sent", began) if pids else print("found nothing")
"""
_RULES = """
libc = ctypes.CDLL(None, use_errno=True)
for pid in found(sys.argv[1:]):
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(network, 0):
        raise OSError(ctypes.get_errno(), "setns")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
        netfilter.send(struct.pack("=IHHIII", 20, 10 << 8 | 1, 0x301, 0, 0, 0))  # NFT_MSG_GETTABLE of all
        if b"mirror" in netfilter.recv(1 << 20):
            print(pid)
    os.close(network)
"""
_PATHS = {
    "Namespace": "/api/v1/namespaces",
    "Node": "/api/v1/nodes",
    "CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "PriorityClass": "/apis/scheduling.k8s.io/v1/priorityclasses",
    "ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
}
_KINDS = {
    **{kind.name: (kind.paths, kind.plural) for kind in KINDS if kind.paths},
    **{
        plural.removesuffix("s"): (("/api/v1",), plural)
        for plural in ("configmaps", "secrets", "serviceaccounts", "resourcequotas", "limitranges")
    },
    "endpoints": (("/api/v1",), "endpoints"),
    **{
        plural.removesuffix("s"): (("/apis/rbac.authorization.k8s.io/v1",), plural)
        for plural in ("roles", "rolebindings")
    },
}
_T = TypeVar("_T")


class Cluster:
    """A cluster, and in it a namespace of our own.

    Attributes:
        kubeconfig: Its file.
        namespace: Ours.
        variables: The environment for `mirror`.
    """

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.namespace = f"mirror-e2e-{uuid.uuid4().hex[:8]}"
        self.variables = {**os.environ, "KUBECONFIG": str(kubeconfig), "MODE": "user", _MARK: self.namespace}

    # --- objects ------------------------------------------------------------------------------------------

    def ask(self, question: Callable[[Api], Awaitable[_T]], *, patience_s: float = WITHIN_S) -> _T:
        """What the API server answers; another test may just have restarted it."""

        async def main() -> _T:
            async with self.api() as api:
                return await question(api)

        give_up_at = time.monotonic() + patience_s
        while True:
            try:
                return trio.run(main)
            except (Unreachable, ApiError) as error:
                if (isinstance(error, ApiError) and error.status < 500) or time.monotonic() > give_up_at:
                    raise
                time.sleep(0.5)

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """The API server, as its administrator."""
        async with open_api(await find_access({"KUBECONFIG": str(self.kubeconfig)})) as api:
            yield api

    def apply(self, *things: dict[str, Any], namespace: str = "", patience_s: float = WITHIN_S) -> None:
        """Makes objects; those that there are already stay."""

        async def create(api: Api) -> None:
            for thing in things:
                for path in self._paths(thing["kind"], namespace):
                    try:
                        await api.create(path, thing)
                    except ApiError as error:
                        if error.status == 404 and path != self._paths(thing["kind"], namespace)[-1]:
                            continue
                        if error.reason != "AlreadyExists":
                            raise
                    break

        self.ask(create, patience_s=patience_s)

    def get(self, kind: str, name: str, *, namespace: str = "") -> Object | None:
        """One object; None if there is none."""

        async def look(api: Api) -> Object | None:
            for path in self._paths(kind, namespace):
                try:
                    return await api.get(f"{path}/{name}")
                except ApiError as error:
                    if error.status != 404:
                        raise
            return None

        return self.ask(look)

    def scale(self, name: str, replicas: int) -> None:
        """Has a Deployment keep so many pods."""
        path = f"{self._paths('deployment')[0]}/{name}"
        self.ask(lambda api: api.patch(path, {"spec": {"replicas": replicas}}))

    def remove(self, kind: str, name: str, *, namespace: str = "") -> None:
        """Removes one object, if it is there."""

        async def delete(api: Api) -> None:
            for path in self._paths(kind, namespace):
                try:
                    await api.delete(f"{path}/{name}")
                except ApiError as error:
                    if error.status != 404:
                        raise

        self.ask(delete)

    def objects(self, kind: str, selector: str = "", *, namespace: str = "") -> list[Object]:
        """Those of a namespace, ours if none is given, with some labels."""
        path = self._paths(kind, namespace)[0]
        return self.ask(lambda api: api.list(path, {"labelSelector": selector} if selector else None))

    def log(self, pod: str, container: str = "") -> str:
        """What a pod has written, or one of its containers."""
        which = {"container": container} if container else None
        return self.ask(lambda api: api.text(f"{self._paths('pod')[0]}/{pod}/log", which))

    def _paths(self, kind: str, namespace: str = "") -> Sequence[str]:
        if kind in _PATHS:
            return [_PATHS[kind]]
        paths, plural = _KINDS[kind.lower()]
        return [f"{path}/namespaces/{namespace or self.namespace}/{plural}" for path in paths]

    # --- pods ---------------------------------------------------------------------------------------------

    def wait_ready(self, *apps: str, count: int = 1) -> None:
        """Until some pods are ready for each label `app=NAME`."""

        def are_ready() -> bool:
            found = self.objects("pod", f"app in ({','.join(apps)})")
            ready = [pod["metadata"]["labels"]["app"] for pod in found if _is_ready(pod)]
            return all(ready.count(app) >= count for app in apps)

        wait_until(are_ready, WITHIN_S, f"the pods {', '.join(apps)} are not ready")

    def wait_pod_ready(self, name: str) -> None:
        """Until one pod is ready."""
        wait_until(lambda: _is_ready(self.get("pod", name) or {"status": {}}), WITHIN_S, f"pod {name} is not ready")

    def pod_of(self, app: str) -> Object:
        """The ready pod with a label."""
        return self.ready_pods(app)[0]

    def ready_pods(self, app: str) -> list[Object]:
        """All ready pods with a label."""
        return [pod for pod in self.objects("pod", f"app={app}") if _is_ready(pod)]

    def run_in_pod(self, *command: str, is_privileged: bool = False, **more: Any) -> str:
        """Runs a command in a pod made for it, and returns what it wrote; `more` is for its spec."""
        name = f"run-{uuid.uuid4().hex[:8]}"
        container = {
            "name": "run",
            "image": WORKLOAD_IMAGE,
            "command": list(command),
            "securityContext": {"privileged": is_privileged},
        }
        spec = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], **more}
        self.apply({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
        try:
            wait_until(lambda: self.phase(name) in ("Succeeded", "Failed"), WITHIN_S, f"{command} does not end")
            return self.log(name)
        finally:
            self.remove("pod", name)

    def phase(self, name: str) -> str:
        """Of a pod."""
        return str((self.get("pod", name) or {})["status"].get("phase"))

    def run_in_container(self, pod: str, *command: str, container: str = "app") -> str:
        """Runs a command in a container that runs, and returns what it wrote."""
        return self.ask(lambda api: podexec.run(api, self.namespace, pod, container, command)).decode()

    # --- agents -------------------------------------------------------------------------------------------

    agents = agents.SELECTOR

    def jobs(self) -> list[str]:
        """The agents' Jobs."""
        return sorted(job["metadata"]["name"] for job in self.objects("job", self.agents))

    def agent_pods(self) -> list[Object]:
        """The agents' pods.

        But for those that are being removed and never ran: an older kubelet, or nobody's, may take a minute to forget
        such.
        """
        return [
            pod
            for pod in self.objects("pod", self.agents)
            if pod["status"]["phase"] != "Pending" or not pod["metadata"].get("deletionTimestamp")
        ]

    def running_agent_pods(self) -> list[Object]:
        """The same, once the cluster says of each that it runs; a session may have used it for a second by then."""

        def are_running() -> bool:
            pods = self.agent_pods()
            return bool(pods) and all(pod["status"].get("phase") == "Running" for pod in pods)

        wait_until(are_running, WITHIN_S, "no agent runs")
        return self.agent_pods()

    def kill_agents(self) -> float:
        """Ends every process of every agent by SIGKILL; when that was, by `time.time`."""
        return self.signal_agents(signal.SIGKILL)

    def signal_agents(self, number: signal.Signals) -> float:
        """Sends a signal to every process of every agent; when that was, by `time.time`."""
        return self.signal(number, *_containers(self.running_agent_pods()))

    def kill(self, *names: str) -> float:
        """Ends processes by SIGKILL; see `signal`."""
        return self.signal(signal.SIGKILL, *names)

    def signal(self, number: signal.Signals, *names: str) -> float:
        """Sends a signal to processes; when that was. From a pod, since the node may be another machine.

        Args:
            number: Which signal.
            names: Of containers (their ids) or of programs of the node.
        """
        program = ("python3", "-c", _FINDER + _SIGNALLER)
        said = self.run_in_pod(*program, str(int(number)), *names, hostPID=True).split()
        assert said[0] == "sent", said
        return float(said[1])

    def kill_containers(self, app: str) -> float:
        """The same for the containers of the pod with a label."""
        return self.kill(*_containers([self.pod_of(app)]))

    def rules(self) -> list[str]:
        """The processes of our namespace's pods in whose networks there are rules of mirror's."""
        containers = _containers([pod for pod in self.objects("pod", "app") if _is_ready(pod)])
        return self.run_in_pod("python3", "-c", _FINDER + _RULES, *containers, is_privileged=True, hostPID=True).split()

    def wait_without_agents(self) -> None:
        """Until neither Job nor pod of an agent is left."""

        def are_gone() -> bool:
            return not self.agent_pods() and not self.jobs()

        wait_until(are_gone, WITHIN_S, "an agent is left")

    # --- mirror -------------------------------------------------------------------------------------------

    def command(self, target: str, *command: str, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs a program in a target of our namespace."""
        return [*MIRROR, "exec", "-t", target, "-n", self.namespace, *options, "--", *command]

    def run(
        self, target: str, *command: str, options: Sequence[str] = (), **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program in a target, to its end."""
        arguments = {"capture_output": True, "text": True, "env": self.variables, "timeout": 2 * WITHIN_S, **how}
        return subprocess.run(self.command(target, *command, options=options), check=False, **arguments)

    def start(self, target: str, *command: str, options: Sequence[str] = (), **how: Any) -> subprocess.Popen[str]:
        """Starts a program in a target; what it writes comes through one pipe."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        arguments: dict[str, Any] = {**pipes, "text": True, "env": self.variables, **how}
        return subprocess.Popen(self.command(target, *command, options=options), **arguments)

    @contextmanager
    def held(self, target: str, command: str = ":", *, options: Sequence[str] = ()) -> Iterator[str]:
        """A session that lasts as long as the block, and with it its agent; what a shell's command wrote in it."""
        with self.start(target, "sh", "-c", f"{command}; echo begun; exec sleep 1000", options=options) as program:
            try:
                assert program.stdout is not None
                yield "".join(iter(program.stdout.readline, "begun\n"))
            finally:
                program.kill()

    def proxies(self) -> list[int]:
        """The proxies of sessions that were started here."""
        mark = f"{_MARK}={self.namespace}".encode()
        found = []
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mirror.cli.proxy" in arguments and mark in variables:
                found.append(pid)
        return found

    def as_user(self, name: str, folder: Path, *groups: str) -> Path:
        """A kubeconfig for this cluster of a user without any right but their groups'."""
        content = yaml.safe_load(self.kubeconfig.read_text())
        current = next(each for each in content["contexts"] if each["name"] == content["current-context"])
        user = next(each for each in content["users"] if each["name"] == current["context"]["user"])
        user["user"]["as"] = name
        if groups:
            user["user"]["as-groups"] = ["system:authenticated", *groups]
        path = folder / f"kubeconfig-{name}"
        path.write_text(yaml.safe_dump(content))
        path.chmod(0o600)
        return path


def _containers(pods: Sequence[Object]) -> list[str]:
    statuses = [status for pod in pods for status in pod["status"]["containerStatuses"]]
    return [status["containerID"].rpartition("://")[2] for status in statuses]


def find() -> Path | None:
    """The kubeconfig of the cluster for tests, if there is one."""
    path = Path(os.environ.get("KUBECONFIG") or KUBECONFIG)
    return path if path.exists() else None


def _is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_ready and not pod["metadata"].get("deletionTimestamp")


def wait_until(condition: Callable[[], object], timeout_s: float, complaint: str) -> None:
    """Asks again and again, until it holds or the time is over."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, complaint
        time.sleep(0.05)
