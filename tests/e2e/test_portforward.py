"""The port-forward through a real API server and kubelet, in both framings."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mirror.cli.cluster import portforward
from mirror.cli.cluster.access import Access, find_access
from mirror.cli.cluster.api import Api, ApiError, open_api
from mirror.cli.cluster.channels import Channels
from mirror.cli.cluster.portforward import PortRefused, PortStream, open_port
from mirror.cli.cluster.spdy import Spdy
from tests.e2e import tunnel
from tests.e2e.cluster import find

BULK_BYTES = 1 << 30
BULK_S = 600.0
"""A busy machine with two cores does 20 MB/s."""


@dataclasses.dataclass
class Place:
    access: Access
    api: Api
    namespace: str

    @asynccontextmanager
    async def open(self, port: int = tunnel.PORT, pod: str = tunnel.POD) -> AsyncIterator[PortStream]:
        stream = await open_port(self.api, self.namespace, pod, port)
        try:
            yield stream
        finally:
            await stream.aclose()


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """Where the pod is."""
    kubeconfig = find()
    if kubeconfig is None:
        pytest.skip("there is no cluster to test with; `make cluster` brings one up")

    name = f"mirror-e2e-{uuid.uuid4().hex[:8]}"
    try:
        trio.run(tunnel.make, kubeconfig, name)
        yield name
    finally:
        trio.run(tunnel.remove, kubeconfig, name)


@pytest.fixture
async def place(namespace: str) -> AsyncIterator[Place]:
    kubeconfig = find()
    assert kubeconfig is not None
    access = await find_access(tunnel.kubeconfig_of(kubeconfig))
    async with open_api(access) as api:
        yield Place(access, api, namespace)


@pytest.fixture(params=[("POST", Spdy), ("GET", Channels)], ids=["spdy", "websocket"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(portforward, "WAYS", (request.param,))
    return request.param


@pytest.mark.slow
async def test_a_gigabyte_each_way_at_once(place: Place, way: Any) -> None:
    block = tunnel.blocks(1 << 20)
    sent, received, count = hashlib.blake2b(), hashlib.blake2b(), 0

    async def send() -> None:
        for number in range(BULK_BYTES // len(block)):
            data = number.to_bytes(8, "big") + block[8:]
            sent.update(data)
            await stream.send_all(data)

    with trio.fail_after(BULK_S):
        async with place.open() as stream:
            await tunnel.begin(stream, b"e")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                while count < BULK_BYTES:
                    data = await stream.receive_some()
                    assert data, "ended too early"
                    count += len(data)
                    received.update(data)
    assert count == BULK_BYTES
    assert received.digest() == sent.digest()


async def test_a_reader_that_pauses(place: Place, way: Any) -> None:
    """What it does not read waits on its way; nothing is lost, and nothing else stops."""
    count = 32 << 20
    async with place.open() as stream, place.open() as other:
        await tunnel.begin(stream, b"d", count)
        await tunnel.begin(other, b"e")
        for _ in range(100):
            await other.send_all(b"hello")
            assert await other.receive_some() == b"hello"
        received = 0
        while received < count:
            received += len(await stream.receive_some())
        assert received == count


async def test_the_end_of_the_pods_connection(place: Place, way: Any) -> None:
    async with place.open() as stream:
        await tunnel.begin(stream, b"u", 3)
        await stream.send_all(b"abc")
        assert await stream.receive_some() == b"!"
        await stream.send_all(b"x")
        assert await stream.receive_some() == b""
        assert stream.failure is None


async def test_nothing_listens(place: Place, way: Any) -> None:
    async with place.open(7001) as stream:
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert type(stream.failure) is PortRefused
        assert str(stream.failure) == f"nothing listens on port 7001 of the pod {place.namespace}/tunnel"


async def test_no_such_pod(place: Place, way: Any) -> None:
    with pytest.raises(ApiError) as caught:
        await open_port(place.api, place.namespace, "none", 80)
    assert (caught.value.status, caught.value.reason) == (404, "NotFound")


async def test_the_pod_is_removed_meanwhile(place: Place, way: Any) -> None:
    pod = f"short-lived-{uuid.uuid4().hex[:8]}"
    await tunnel.start(place.api, place.namespace, pod)
    async with place.open(pod=pod) as stream:
        await tunnel.begin(stream, b"e")
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        await place.api.delete(f"/api/v1/namespaces/{place.namespace}/pods/{pod}")
        with trio.fail_after(180):
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                assert stream.failure is not None


async def test_signs_of_life(place: Place, way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers answer the pings of both framings: else an idle port-forward would be given up."""
    monkeypatch.setattr(portforward, "SILENCE_S", 2.0)
    async with place.open() as stream:
        await tunnel.begin(stream, b"e")
        with trio.move_on_after(7) as scope:
            await stream.receive_some()
        assert scope.cancelled_caught
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


@pytest.mark.parametrize(("verbs", "can"), [(["create"], True), (["get"], True), (["list"], False)])
async def test_rights(place: Place, verbs: list[str], can: bool) -> None:
    user = f"somebody-{verbs[0]}"
    rules = [{"apiGroups": [""], "resources": ["pods/portforward"], "verbs": verbs}]
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    role = {"kind": "Role", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    folder = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place.namespace}"
    name = {"metadata": {"name": user}}
    await place.api.create(f"{folder}/roles", {**name, "rules": rules})
    await place.api.create(f"{folder}/rolebindings", {**name, "subjects": [subject], "roleRef": role})
    access = dataclasses.replace(place.access, headers=(("Impersonate-User", user),))
    async with open_api(access) as api:
        if can:
            await _wait_for_right(api, place.namespace, verbs[0])
            stream = await open_port(api, place.namespace, tunnel.POD, tunnel.PORT)
            await tunnel.begin(stream, b"e")
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            await stream.aclose()
        else:
            with pytest.raises(ApiError, match=r'cannot create resource "pods/portforward"'):
                await open_port(api, place.namespace, tunnel.POD, tunnel.PORT)


async def _wait_for_right(api: Api, namespace: str, verb: str) -> None:
    """The API server learns of a new role a moment after it has stored it."""
    attributes = {"namespace": namespace, "verb": verb, "resource": "pods", "subresource": "portforward"}
    review = {"spec": {"resourceAttributes": attributes}}
    with trio.fail_after(180):
        while True:
            answer = await api.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
            if answer["status"]["allowed"]:
                return
            await trio.sleep(0.05)
