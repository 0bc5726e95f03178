"""An agent of another release says so: one that stands in for it, where the session looks for its agent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mirror.cli.cluster import agents, reference, targets
from mirror.cli.cluster.api import Api
from mirror.cli.settings import combine
from mirror.protocol import connection
from mirror.protocol.connection import Connection
from mirror.protocol.frame import RemoteProtocolError
from mirror.protocol.messages import PROTOCOL_VERSION
from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.test_refusals import refusal

TARGET = "deployment/web"


@pytest.fixture
def farewell(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What an agent that speaks versions 8 and 9 says to this release's greeting."""
    greeting = bytes(Connection(is_client=True).data_to_send())
    monkeypatch.setattr(connection, "OLDEST_VERSION", 8)
    monkeypatch.setattr("mirror.protocol.messages.PROTOCOL_VERSION", 9)
    agent = Connection(is_client=False)
    agent.receive_data(greeting)
    with pytest.raises(RemoteProtocolError):
        agent.next_event()
    said = bytes(agent.data_to_send())
    monkeypatch.undo()
    return said


@pytest.fixture
def other_agent(alone: Cluster, farewell: bytes) -> Iterator[str]:
    """Its image. Its Job has the name that a session with TARGET looks for."""
    settings = combine({}, {"target": TARGET, "agent": {"image": WORKLOAD_IMAGE}})
    server = f"""
import socketserver
class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(1 << 16)
        self.request.sendall({farewell!r})
socketserver.ThreadingTCPServer(("127.0.0.1", {agents.PORT}), Handler).serve_forever()
"""

    async def begin(api: Api) -> str:
        found = await targets.find(api, reference.parse(TARGET), alone.namespace)
        wish = agents.Wish(found.place, alone.namespace, settings.features, settings.agent, WORKLOAD_IMAGE)
        job = agents.manifest(wish)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        container.update(command=["python3", "-c", server], args=[])
        await api.create(f"/apis/batch/v1/namespaces/{alone.namespace}/jobs", job)
        return str(job["metadata"]["name"])

    def is_running() -> bool:
        return [pod["status"]["phase"] for pod in alone.agent_pods()] == ["Running"]

    name = alone.ask(begin)
    try:
        wait_until(is_running, WITHIN_S, "the agent of another release does not run")
        yield WORKLOAD_IMAGE
    finally:
        alone.remove("job", name)


def test_an_agent_of_another_release(alone: Cluster, other_agent: str) -> None:
    sentence = refusal(alone, TARGET, "-i", other_agent)
    ours = f"{connection.OLDEST_VERSION} to {PROTOCOL_VERSION}"
    assert f"the client speaks versions {ours} of mirror's protocol, this agent 8 to 9" in sentence
    assert sentence.endswith("; use the same release of both")
