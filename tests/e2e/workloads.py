"""What runs in the tests' namespace: one object of each kind that can be a target, and what they are configured by."""

from __future__ import annotations

from typing import Any

from mirror.cli.cluster.targets import DEFAULT_CONTAINER
from tests.cluster.places import WORKLOAD_IMAGE

PORT = 8080
SERVER = f"""
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"pod, to {{self.client_address[0]}}\\n".encode())
    def log_message(self, *_):
        sys.stdout.write(f"request {{self.path}}\\n")  # at once: others do so meanwhile
        sys.stdout.flush()
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
Server(("", {PORT}), Handler).serve_forever()
"""

ORDERS = "[orders]\nlimit = 7\n"
PASSWORD = "correct horse"
MORE_CONTAINERS = ({"name": "istio-proxy", "image": WORKLOAD_IMAGE, "command": ["sleep", "infinity"]},)


def pod_template(app: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container `app` that the ConfigMap and the Secret configure."""
    container = {
        "name": "app",
        "image": WORKLOAD_IMAGE,
        "command": list(command) or ["sleep", "infinity"],
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "login"}}],
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [
            {"name": "files", "mountPath": "/app/config"},
            {"name": "login", "mountPath": "/app/login"},
        ],
    }
    volumes = [
        {"name": "files", "configMap": {"name": "files"}},
        {"name": "login", "secret": {"secretName": "login"}},
    ]
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes, **spec},
    }


def _object(kind: str, name: str, api: str = "v1", **content: Any) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, **content}


def _workload(kind: str, name: str, *command: str, **spec: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"app": name}}
    return _object(kind, name, "apps/v1", spec={"selector": selector, "template": pod_template(name, *command), **spec})


def _service(name: str) -> dict[str, Any]:
    return _object("Service", name, spec={"selector": {"app": name}, "ports": [{"port": 80, "targetPort": PORT}]})


def web() -> dict[str, Any]:
    """The Deployment that answers requests, and is ready only when it does."""
    deployment = _workload("Deployment", "web", "python3", "-c", SERVER)
    containers = deployment["spec"]["template"]["spec"]["containers"]
    # As kubelets ask: the traffic tests show whether such probes disturb. A busy machine does not make it unready.
    patience = {"timeoutSeconds": 30, "failureThreshold": 30}
    containers[0]["readinessProbe"] = {"httpGet": {"port": PORT, "path": "/ready"}, "periodSeconds": 1, **patience}
    return deployment


def many(replicas: int) -> dict[str, Any]:
    """Several pods that answer requests, and are not probed."""
    return _workload("Deployment", "many", "python3", "-c", SERVER, replicas=replicas)


def mesh() -> dict[str, Any]:
    """A Deployment in whose pods a sidecar comes first."""
    deployment = _workload("Deployment", "mesh")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    containers[:0] = MORE_CONTAINERS
    return deployment


def cronjob() -> dict[str, Any]:
    """One that never begins by itself (`kubectl create job --from` begins it)."""
    template = pod_template("nightly", restartPolicy="Never")
    job = {"spec": {"template": template}}
    return _object("CronJob", "nightly", "batch/v1beta1", spec={"schedule": "0 0 29 2 *", "jobTemplate": job})


def job_of(owner: dict[str, Any], name: str = "nightly-1", app: str = "nightly") -> dict[str, Any]:
    """What the CronJob's controller would make; its pod's label `app` may be another than that of the first."""
    job = _object("Job", name, "batch/v1", spec={"template": pod_template(app, restartPolicy="Never")})
    reference = {"apiVersion": owner["apiVersion"], "kind": "CronJob", "name": "nightly", "controller": True}
    job["metadata"]["ownerReferences"] = [{**reference, "uid": owner["metadata"]["uid"]}]
    return job


CONFIGURATION = (
    _object("ConfigMap", "settings", data={"COLOUR": "blue", "MODE": "pod"}),
    _object("ConfigMap", "files", data={"orders.ini": ORDERS}),
    _object("Secret", "login", stringData={"PASSWORD": PASSWORD}),
)
WORKLOADS = (
    web(),
    _service("web"),
    mesh(),
    _workload("StatefulSet", "db", serviceName="db"),
    _workload("DaemonSet", "logs"),
    _workload("ReplicaSet", "rs"),
    _object("Job", "load", "batch/v1", spec={"template": pod_template("load", restartPolicy="Never")}),
    cronjob(),
)
APPS = ("web", "mesh", "db", "logs", "rs", "load", "nightly")

PAIR = _workload("Deployment", "pair", "sh", "-c", "touch /tmp/ready; exec sleep infinity", replicas=2)
# A busy machine does not make it unready.
PAIR["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {
    "exec": {"command": ["test", "-e", "/tmp/ready"]},
    "periodSeconds": 1,
    "timeoutSeconds": 60,
    "failureThreshold": 1,
}
SEVERAL = _object(
    "Pod",
    "several",
    spec={
        "terminationGracePeriodSeconds": 0,
        "initContainers": [{"name": "prepare", "image": WORKLOAD_IMAGE, "command": ["true"]}],
        "containers": [
            {
                "name": name,
                "image": WORKLOAD_IMAGE,
                "command": ["sleep", "infinity"],
                "env": [{"name": "WHO", "value": name}],
            }
            for name in ("first", "second", "istio-proxy")
        ],
    },
)
SEVERAL["metadata"] |= {"labels": {"app": "several"}, "annotations": {DEFAULT_CONTAINER: "second"}}
BARE_SERVICE = _object("Service", "bare", spec={"ports": [{"port": 80}]})

SICK = _workload("Deployment", "sick", "sh", "-c", "exit 3")
# Else it is ready for a moment each time.
SICK["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = {"exec": {"command": ["false"]}}
IDLE = _workload("Deployment", "idle", replicas=0)

ROLLOUT_KIND = _object(
    "CustomResourceDefinition",
    "rollouts.argoproj.io",
    "apiextensions.k8s.io/v1",
    spec={
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"kind": "Rollout", "listKind": "RolloutList", "plural": "rollouts", "singular": "rollout"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
)
OWN_ROLLOUT = _object(
    "Rollout",
    "own",
    "argoproj.io/v1alpha1",
    spec={"selector": {"matchLabels": {"app": "db"}}, "template": pod_template("db")},
)
ROLLOUT = _object("Rollout", "web", "argoproj.io/v1alpha1", spec={"workloadRef": {"kind": "Deployment", "name": "web"}})
