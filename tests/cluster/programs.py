"""What runs in the cluster's namespaces: each program's arguments and configuration, and what it waits for.

`write_programs` puts it all into the state folder; node.py, which knows nothing of Kubernetes, runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cluster import certificates
from tests.cluster.places import (
    API_PORT,
    BINARIES,
    DNS_ADDRESS,
    DOMAIN,
    KUBECONFIG,
    KUBERNETES_ADDRESS,
    NODE,
    NODE_ADDRESS,
    PAUSE_IMAGE,
    PODS,
    SERVICES,
    STATE,
)

KEYS = STATE / "keys"
CONTAINERD = "/run/containerd/containerd.sock"
HERE = f"https://127.0.0.1:{API_PORT}"
READY = {"url": f"{HERE}/readyz", "authority": str(KEYS / "ca.crt")}

USERS = {"admin-token": "system:masters", "developer": "developers", "colleague": "developers"}
"""Users with a token, and their groups. What `developer` and `colleague` may do is for tests to say: nothing yet."""

COMPONENTS = {
    "kubelet": f"/O=system:nodes/CN=system:node:{NODE}",
    "kube-controller-manager": "/CN=system:kube-controller-manager",
    "kube-scheduler": "/CN=system:kube-scheduler",
    "kube-proxy": "/CN=system:kube-proxy",
}


def write_programs() -> Path:
    """Writes keys, configurations and kubeconfig files; returns the list of programs for node.py."""
    KEYS.mkdir(mode=0o700)
    tokens = _keys()
    (STATE / "containerd.toml").write_text(_containerd())
    (STATE / "cni").mkdir()
    (STATE / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network()))
    (STATE / "kubelet.json").write_text(json.dumps(_kubelet()))
    (STATE / "resolv.conf").write_text("")
    for component in COMPONENTS:
        user = {component: certificates.by_certificate(KEYS, component)}
        (STATE / f"{component}.kubeconfig").write_text(certificates.kubeconfig(HERE, KEYS / "ca.crt", user))
    users = {"admin": certificates.by_certificate(KEYS, "admin"), **{user: {"token": tokens[user]} for user in tokens}}
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(certificates.kubeconfig(f"https://{NODE_ADDRESS}:{API_PORT}", KEYS / "ca.crt", users))
    listed = STATE / "programs.json"
    listed.write_text(json.dumps(_programs(), indent=1))
    return listed


def _keys() -> dict[str, str]:
    """Makes all keys; returns the users' tokens."""
    certificates.make_authority(KEYS)
    names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{DOMAIN}",
        "localhost",
    ]
    addresses = [NODE_ADDRESS, KUBERNETES_ADDRESS, "127.0.0.1"]
    alternatives = ",".join([*(f"DNS:{name}" for name in names), *(f"IP:{address}" for address in addresses)])
    certificates.make_certificate(KEYS, "kube-apiserver", "/CN=kube-apiserver", alternatives)
    certificates.make_certificate(KEYS, "kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client")
    certificates.make_certificate(KEYS, "admin", "/O=system:masters/CN=admin")
    for component, subject in COMPONENTS.items():
        certificates.make_certificate(KEYS, component, subject)
    certificates.make_signing_key(KEYS, "service-accounts")
    rows, tokens = certificates.make_tokens(USERS)
    (KEYS / "tokens.csv").write_text(rows)
    return tokens


def _programs() -> list[dict[str, Any]]:
    """Name, arguments, and what must answer before each is started."""
    etcd = "http://127.0.0.1:2379"
    return [
        {
            "name": "etcd",
            "arguments": [
                "etcd",
                "--data-dir=/var/lib/etcd",
                "--unsafe-no-fsync",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                "--listen-peer-urls=http://127.0.0.1:2380",
            ],
        },
        {"name": "containerd", "arguments": ["containerd", f"--config={STATE}/containerd.toml"]},
        {
            "name": "kube-apiserver",
            "after": {"port": 2379},
            "arguments": [
                f"{BINARIES}/kube-apiserver",
                "--bind-address=0.0.0.0",
                f"--secure-port={API_PORT}",
                f"--advertise-address={NODE_ADDRESS}",
                f"--etcd-servers={etcd}",
                f"--service-cluster-ip-range={SERVICES}",
                "--allow-privileged=true",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--feature-gates=EphemeralContainers=true,TTLAfterFinished=true",
                "--kubelet-preferred-address-types=InternalIP",
                f"--kubelet-client-certificate={KEYS}/kubelet-client.crt",
                f"--kubelet-client-key={KEYS}/kubelet-client.key",
                f"--client-ca-file={KEYS}/ca.crt",
                f"--tls-cert-file={KEYS}/kube-apiserver.crt",
                f"--tls-private-key-file={KEYS}/kube-apiserver.key",
                f"--token-auth-file={KEYS}/tokens.csv",
                f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
                f"--service-account-key-file={KEYS}/service-accounts.pub",
                f"--service-account-signing-key-file={KEYS}/service-accounts.key",
            ],
        },
        {
            "name": "kube-controller-manager",
            "after": READY,
            "arguments": [
                f"{BINARIES}/kube-controller-manager",
                f"--kubeconfig={STATE}/kube-controller-manager.kubeconfig",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--use-service-account-credentials=true",
                "--feature-gates=TTLAfterFinished=true",
                f"--root-ca-file={KEYS}/ca.crt",
                f"--service-account-private-key-file={KEYS}/service-accounts.key",
                f"--cluster-signing-cert-file={KEYS}/ca.crt",
                f"--cluster-signing-key-file={KEYS}/ca.key",
            ],
        },
        {
            "name": "kube-scheduler",
            "after": READY,
            "arguments": [
                f"{BINARIES}/kube-scheduler",
                f"--kubeconfig={STATE}/kube-scheduler.kubeconfig",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
            ],
        },
        {
            "name": "kubelet",
            "after": READY,
            "arguments": [
                f"{BINARIES}/kubelet",
                f"--kubeconfig={STATE}/kubelet.kubeconfig",
                f"--config={STATE}/kubelet.json",
                f"--hostname-override={NODE}",
                f"--node-ip={NODE_ADDRESS}",
                "--container-runtime=remote",
                f"--container-runtime-endpoint=unix://{CONTAINERD}",
            ],
        },
        {
            "name": "kube-proxy",
            "after": READY,
            "arguments": [
                f"{BINARIES}/kube-proxy",
                f"--kubeconfig={STATE}/kube-proxy.kubeconfig",
                f"--hostname-override={NODE}",
                f"--cluster-cidr={PODS}",
                "--proxy-mode=iptables",
                "--iptables-min-sync-period=100ms",
                # What these would set belongs to the whole machine.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
            ],
        },
    ]


def _containerd() -> str:
    """Loads no AppArmor profile and makes no /opt/containerd; lowers no oom_score_adj, which may be forbidden."""
    return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[grpc]
  address = "{CONTAINERD}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{STATE}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def _pod_network() -> dict[str, Any]:
    """A pair of interfaces for each pod, and routes between them.

    Not a bridge: replies between two of its ports pass by the rules of kube-proxy unless br_netfilter is there.
    """
    addresses = {"type": "host-local", "ranges": [[{"subnet": PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        ],
    }


def _kubelet() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(KEYS / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": DOMAIN,
        "resolvConf": str(STATE / "resolv.conf"),
        "featureGates": {"EphemeralContainers": True},
        "serializeImagePulls": False,
        # So often it looks whether the node has become ready; what has not changed is reported every five minutes.
        "nodeStatusUpdateFrequency": "1s",
        "nodeStatusReportFrequency": "5m",
        # Images come from no registry: one that is removed is gone. And a full disk is this machine's affair.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%", "imagefs.available": "0%"},
    }
