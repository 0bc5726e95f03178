"""What is put into a new cluster: the name server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cluster import api
from tests.cluster.places import DNS_ADDRESS, DOMAIN, WORKLOAD_IMAGE

SYSTEM = "kube-system"
LABELS = {"k8s-app": "kube-dns"}


def install_name_server() -> None:
    """Creates what name_server.py needs: rights, its code, a deployment, the Service with the address that pods ask."""
    apps, core, rights = "/apis/apps/v1", "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
    code = (Path(__file__).parent / "name_server.py").read_text()
    rule = {"apiGroups": [""], "resources": ["services", "endpoints"], "verbs": ["list", "watch"]}
    subject = {"kind": "ServiceAccount", "name": "kube-dns", "namespace": SYSTEM}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "kube-dns"}
    api.create(f"{core}/namespaces/{SYSTEM}/serviceaccounts", _object("v1", "ServiceAccount"))
    api.create(f"{rights}/clusterroles", _object("rbac.authorization.k8s.io/v1", "ClusterRole", rules=[rule]))
    binding = _object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", subjects=[subject], roleRef=role)
    api.create(f"{rights}/clusterrolebindings", binding)
    api.create(f"{core}/namespaces/{SYSTEM}/configmaps", _object("v1", "ConfigMap", data={"name_server.py": code}))
    spec = {"selector": LABELS, "clusterIP": DNS_ADDRESS, "ports": [_port("dns", "UDP"), _port("dns-tcp", "TCP")]}
    api.create(f"{core}/namespaces/{SYSTEM}/services", _object("v1", "Service", spec=spec))
    api.create(f"{apps}/namespaces/{SYSTEM}/deployments", _object("apps/v1", "Deployment", spec=_deployment()))


def _deployment() -> dict[str, Any]:
    container = {
        "name": "name-server",
        "image": WORKLOAD_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/code/name_server.py"],
        "env": [{"name": "CLUSTER_DOMAIN", "value": DOMAIN}],
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
        "readinessProbe": {"tcpSocket": {"port": 53}, "periodSeconds": 1},
    }
    pod = {
        "serviceAccountName": "kube-dns",
        "containers": [container],
        "volumes": [{"name": "code", "configMap": {"name": "kube-dns"}}],
        # Itself it asks nobody.
        "dnsPolicy": "Default",
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 0,
    }
    return {"selector": {"matchLabels": LABELS}, "template": {"metadata": {"labels": LABELS}, "spec": pod}}


def _object(version: str, kind: str, **content: Any) -> dict[str, Any]:
    """Everything is called kube-dns, as in other clusters."""
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "kube-dns", "labels": LABELS}, **content}


def _port(name: str, protocol: str) -> dict[str, Any]:
    return {"name": name, "protocol": protocol, "port": 53, "targetPort": 53}
