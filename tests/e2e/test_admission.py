"""What admission rules say against an agent's pod is one sentence, within seconds: by a real webhook of our own."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trustme

from mirror.cli.cluster import agents
from mirror.cli.cluster.api import Api, ApiError
from mirror.cli.cluster.targets import AGENT_LABELS
from mirror.cli.errors import EXIT_FAILED
from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_inventory import run
from tests.e2e.test_refusals import refusal

NAME = "refuser"
PORT = 8443
RULES = (
    'allowPrivilegeEscalation != false (container "agent" must set securityContext.allowPrivilegeEscalation=false), '
    'unrestricted capabilities (container "agent" must not include "SYS_ADMIN" in securityContext.capabilities.add)'
)
MESSAGES = {
    "kyverno": """

resource Pod/shop/mirror-agent was blocked due to the following policies

disallow-host-namespaces:
  host-namespaces: 'validation error: Sharing the host namespaces is disallowed.'
""",
    "gatekeeper": "[psp-host-namespace] Sharing the host namespace is not allowed: mirror-agent",
    "silent": "",
    "security": f'pods "mirror-agent-x" is forbidden: violates PodSecurity "restricted:latest": {RULES}',
}
"""As policy engines and PodSecurity admission word it, by the path at which our webhook says so."""
SERVER = f"""
import http.server, json, ssl
MESSAGES = {MESSAGES!r}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        engine = self.path.partition("?")[0][1:]
        status = {{"message": MESSAGES[engine]}}
        if engine != "kyverno":  # which names none, so that it is 400
            status["code"] = 403
        review["response"] = {{"uid": review["request"]["uid"], "allowed": False, "status": status}}
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/tls/chain.pem")
server = http.server.ThreadingHTTPServer(("", {PORT}), Handler)
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
"""Refuses everything."""


@pytest.fixture(scope="module")
def strict(cluster: Cluster) -> Iterator[str]:
    """A namespace of its own, in which agents' pods can be refused without anybody else noticing."""
    name = f"{cluster.namespace}-strict"
    metadata = {"name": name, "labels": {"mirror-e2e": name}}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    wait_until(
        lambda: cluster.get("serviceaccount", "default", namespace=name), WITHIN_S, "there is no service account"
    )
    yield name
    cluster.remove("Namespace", name)
    wait_until(lambda: cluster.get("Namespace", name) is None, 2 * WITHIN_S, f"namespace {name} is left")


@pytest.fixture(scope="module")
def authority(cluster: Cluster) -> Iterator[bytes]:
    """The webhook's server, in a pod behind a service; whom to trust that it is this one."""
    authority = trustme.CA()
    certificate = authority.issue_cert(f"{NAME}.{cluster.namespace}.svc")
    chain = certificate.private_key_and_cert_chain_pem.bytes().decode()
    mount = {"name": "tls", "mountPath": "/tls"}
    container = {
        "name": "app",
        "image": WORKLOAD_IMAGE,
        "command": ["python3", "-c", SERVER],
        "volumeMounts": [mount],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    volume = {"name": "tls", "secret": {"secretName": NAME}}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container], "volumes": [volume]}
    common = {"apiVersion": "v1", "metadata": {"name": NAME, "labels": {"app": NAME}}}
    ports = [{"port": 443, "targetPort": PORT}]
    cluster.apply(
        {**common, "kind": "Secret", "stringData": {"chain.pem": chain}},
        {**common, "kind": "Pod", "spec": spec},
        {**common, "kind": "Service", "spec": {"selector": {"app": NAME}, "ports": ports}},
    )
    cluster.wait_ready(NAME)
    yield authority.cert_pem.bytes()
    for kind in ("service", "pod", "secret"):
        cluster.remove(kind, NAME)


@contextmanager
def refusing(
    cluster: Cluster, namespace: str, authority: bytes, engine: str, *, refuses_jobs: bool = False
) -> Iterator[str]:
    """A webhook that refuses agents' pods in a namespace, or even their Jobs, with one of MESSAGES; its name."""
    name = f"{NAME}.{namespace}.example"
    service = {"namespace": cluster.namespace, "name": NAME, "path": f"/{engine}"}
    kinds = [("", "pods"), *([("batch", "jobs")] if refuses_jobs else [])]
    rules = [
        {"operations": ["CREATE"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}
        for group, resource in kinds
    ]
    webhook = {
        "name": name,
        "clientConfig": {"service": service, "caBundle": base64.b64encode(authority).decode()},
        "rules": rules,
        "namespaceSelector": {"matchLabels": {"mirror-e2e": namespace}},
        "objectSelector": {"matchLabels": AGENT_LABELS},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = "ValidatingWebhookConfiguration"
    configuration = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": namespace}}
    cluster.apply({**configuration, "webhooks": [webhook]})
    try:
        words = f'admission webhook "{name}" denied the request'
        wait_until(lambda: _refuses(cluster, namespace, words), WITHIN_S, "the webhook is not in force")
        yield name
    finally:
        cluster.remove(kind, namespace)


def _refuses(cluster: Cluster, namespace: str, words: str) -> bool:
    """Whether the API server already refuses a pod such as an agent's, in these words."""
    container = {"name": "agent", "image": WORKLOAD_IMAGE, "resources": {"limits": {"cpu": "1"}}}
    metadata = {"generateName": "trial-", "labels": AGENT_LABELS}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}

    async def attempt(api: Api) -> str:
        try:
            await api.create(f"/api/v1/namespaces/{namespace}/pods", pod, {"dryRun": "All"})
        except ApiError as error:
            return error.message
        return ""

    return words in cluster.ask(attempt)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("kyverno", "disallow-host-namespaces: host-namespaces: 'validation error: Sharing the host namespaces"),
        ("gatekeeper", "([psp-host-namespace] Sharing the host namespace is not allowed: mirror-agent)"),
        ("silent", "(it does not say why)"),
    ],
    ids=lambda value: value.split()[0],
)
def test_a_policy_engine(alone: Cluster, strict: str, authority: bytes, engine: str, said: str) -> None:
    with refusing(alone, strict, authority, engine) as webhook:
        sentence = refusal(alone, "deployment/web", "-a", strict)
    assert f"the cluster's rule {webhook} refuses the agent's pod" in sentence
    assert said in sentence
    assert "--ephemeral" in sentence
    assert "--agent-namespace" in sentence
    assert alone.objects("job", agents.SELECTOR, namespace=strict) == []


def test_a_policy_engine_that_looks_into_jobs(alone: Cluster, strict: str, authority: bytes) -> None:
    """As Kyverno does by rules that it makes of those for pods."""
    with refusing(alone, strict, authority, "kyverno", refuses_jobs=True) as webhook:
        sentence = refusal(alone, "deployment/web", "-a", strict)
    assert f"the cluster's rule {webhook} refuses the agent's pod (" in sentence
    assert "--agent-namespace" in sentence
    assert alone.objects("job", agents.SELECTOR, namespace=strict) == []


def test_pod_security(alone: Cluster, strict: str, authority: bytes) -> None:
    with refusing(alone, strict, authority, "security"):
        sentence = refusal(alone, "deployment/web", "-a", strict)
    assert f"PodSecurity restricted of namespace {strict} refuses the agent's pod ({RULES}); " in sentence
    assert "hostPID" in sentence
    assert "--agent-namespace" in sentence


def test_limits(alone: Cluster, strict: str) -> None:
    limit = {"type": "Container", "max": {"cpu": "100m", "memory": "64Mi"}}
    common = {"apiVersion": "v1", "metadata": {"name": "small"}}
    alone.apply({**common, "kind": "LimitRange", "spec": {"limits": [limit]}}, namespace=strict)
    words = "maximum cpu usage per Container is 100m, but limit is 1"
    try:
        wait_until(lambda: _refuses(alone, strict, words), WITHIN_S, "the limits are not in force")
        sentence = refusal(alone, "deployment/web", "-a", strict)
    finally:
        alone.remove("limitrange", "small", namespace=strict)
    assert f"a LimitRange of namespace {strict} refuses the agent's pod (" in sentence
    assert words in sentence
    assert "agent.resources" in sentence


def test_doctor_knows_before(cluster: Cluster, strict: str, authority: bytes) -> None:
    with refusing(cluster, strict, authority, "gatekeeper") as webhook:
        result = run(cluster, "doctor", "-n", strict)
    assert result.returncode == EXIT_FAILED
    assert f"no   the cluster's rule {webhook} refuses the agent's pod ([psp-host-namespace]" in result.stdout
