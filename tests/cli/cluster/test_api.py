"""Requests through a server of ours, which says what an API server would; tests/e2e has the real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from mirror.cli.cluster import api as api_module
from mirror.cli.cluster.api import Api, ApiError, Unreachable, open_api
from mirror.cli.cluster.credentials import Fixed
from tests.cli.cluster.servers import (
    Answer,
    Asked,
    Handler,
    HttpServer,
    access_to,
    failure,
    http_server,
    mutual_tls,
    tcp_server,
)

PODS = "/api/v1/namespaces/shop/pods"


@asynccontextmanager
async def asking(handler: Handler, **access: Any) -> AsyncIterator[tuple[Api, HttpServer]]:
    async with http_server(handler) as server, open_api(access_to(server.url, **access)) as api:
        yield api, server


async def answer_all(asked: Asked) -> Answer:
    return Answer(content={"kind": "Pod", "path": asked.path})


# --- single requests --------------------------------------------------------------------------------------


async def test_each_verb() -> None:
    async with asking(answer_all, credentials=Fixed("Bearer abc"), headers=(("Impersonate-User", "me"),)) as (
        api,
        server,
    ):
        assert await api.get(f"{PODS}/web", {"a": "b c", "d": "e"}) == {"kind": "Pod", "path": f"{PODS}/web"}
        await api.create(PODS, {"metadata": {"name": "ä"}})
        await api.patch(f"{PODS}/web", {"a": None})
        await api.patch(f"{PODS}/web", [{"op": "remove"}], kind="json")
        await api.delete(f"{PODS}/web", uid="123")
        assert await api.text(f"{PODS}/web/log") == '{"kind": "Pod", "path": "/api/v1/namespaces/shop/pods/web/log"}'
    get, create, merge, patch, delete, log = server.asked
    assert get.target == f"{PODS}/web?a=b+c&d=e"
    assert [asked.method for asked in server.asked] == ["GET", "POST", "PATCH", "PATCH", "DELETE", "GET"]
    assert create.json() == {"metadata": {"name": "ä"}}
    assert create.headers["content-type"] == "application/json"
    assert (merge.headers["content-type"], merge.json()) == ("application/merge-patch+json", {"a": None})
    assert (patch.headers["content-type"], patch.json()) == ("application/json-patch+json", [{"op": "remove"}])
    assert delete.json()["propagationPolicy"] == "Background"
    assert delete.json()["preconditions"] == {"uid": "123"}
    assert log.headers["accept"] == "*/*"
    for asked in server.asked:
        assert asked.connection == 1, "the connection is kept"
        assert asked.headers["authorization"] == "Bearer abc"
        assert asked.headers["impersonate-user"] == "me"
        assert asked.headers["host"] == f"127.0.0.1:{server.port}"


async def test_what_is_kept_can_be_dropped() -> None:
    """What is in use stays."""
    may_answer = trio.Event()

    async def handler(asked: Asked) -> Answer:
        if asked.path == f"{PODS}/slow":
            await may_answer.wait()
        return Answer(content={"path": asked.path})

    async with asking(handler) as (api, server), trio.open_nursery() as nursery:
        await api.get(PODS)
        nursery.start_soon(api.get, f"{PODS}/slow")
        while len(server.asked) < 2:
            await trio.sleep(0.01)
        await api.get(PODS)
        await api.drop_idle()
        await api.get(PODS)
        may_answer.set()
    assert [asked.connection for asked in server.asked] == [1, 1, 2, 3]


async def test_a_server_with_a_path() -> None:
    async with http_server(answer_all) as server, open_api(access_to(f"{server.url}/k8s/c-1")) as api:
        assert (await api.get("/version"))["path"] == "/k8s/c-1/version"


async def test_many_at_once() -> None:
    both = trio.Event()
    waiting = 0

    async def handler(asked: Asked) -> Answer:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            both.set()
        await both.wait()
        return Answer(content={"path": asked.path})

    async with asking(handler) as (api, _), trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            assert await api.get(f"/{number}") == {"path": f"/{number}"}

        for number in range(20):
            nursery.start_soon(ask, number)


async def test_all_pages_of_a_list() -> None:
    async def handler(asked: Asked) -> Answer:
        assert "limit=500" in asked.target
        if "continue=next" in asked.target:
            return Answer(content={"metadata": {}, "items": [{"a": 3}]})
        return Answer(content={"metadata": {"continue": "next"}, "items": [{"a": 1}, {"a": 2}]})

    async with asking(handler) as (api, server):
        assert await api.list(PODS, {"labelSelector": "a=b"}) == [{"a": 1}, {"a": 2}, {"a": 3}]
        assert all("labelSelector=a%3Db" in asked.target for asked in server.asked)


async def test_pages_that_are_too_old() -> None:
    async def handler(asked: Asked) -> Answer:
        if "continue=next" in asked.target:
            return failure(410, "Expired", "too old")
        if "limit" in asked.target:
            return Answer(content={"metadata": {"continue": "next"}, "items": [{"a": 1}]})
        return Answer(content={"metadata": {}, "items": [{"a": 1}, {"a": 2}]})

    async with asking(handler) as (api, _):
        assert await api.list(PODS) == [{"a": 1}, {"a": 2}]


async def test_an_empty_list() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(content={"metadata": {}, "items": None})

    async with asking(handler) as (api, _):
        assert await api.list(PODS) == []


# --- refusals ---------------------------------------------------------------------------------------------


async def test_a_refusal() -> None:
    async def handler(asked: Asked) -> Answer:
        return failure(404, "NotFound", 'pods "web" not found', name="web", kind="pods")

    async with asking(handler) as (api, server):
        with pytest.raises(ApiError) as caught:
            await api.get(f"{PODS}/web")
        error = caught.value
        assert (error.status, error.reason, error.message) == (404, "NotFound", 'pods "web" not found')
        assert error.details == {"name": "web", "kind": "pods"}
        with pytest.raises(ApiError):
            await api.delete(f"{PODS}/web")
        assert server.connections == 1


@pytest.mark.parametrize(("content", "message"), [(b"<h1>Bad\n Gateway</h1>", "<h1>Bad Gateway</h1>"), (b"", "502")])
async def test_a_page_of_a_proxy(content: bytes, message: str) -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(502, content)

    async with asking(handler) as (api, _):
        with pytest.raises(ApiError) as caught:
            await api.get("/version")
        assert (caught.value.status, caught.value.reason) == (502, "")
        assert message in caught.value.message


@pytest.mark.parametrize(
    "answer", [Answer(200, b"<html>please log in</html>"), Answer(404, b"\n<!DOCTYPE html><p>File not found</p>")]
)
async def test_something_else_than_an_api_server(answer: Answer) -> None:
    async def handler(asked: Asked) -> Answer:
        return answer

    async with asking(handler) as (api, _):
        with pytest.raises(Unreachable, match=r"answers, but not as an API server does"):
            await api.get("/version")


# --- credentials ------------------------------------------------------------------------------------------


class Renewing:
    """Credentials of which each is the next number."""

    certificate = b""

    def __init__(self) -> None:
        self.number = 1

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        if rejected == f"Bearer {self.number}":
            self.number += 1
        return f"Bearer {self.number}"


async def test_rejected_credentials_are_renewed_once() -> None:
    async def handler(asked: Asked) -> Answer:
        if asked.headers["authorization"] == accepted:
            return Answer(content={"body": asked.body.decode()})
        return failure(401, "Unauthorized", "Unauthorized")

    accepted = "Bearer 2"
    credentials = Renewing()
    async with asking(handler, credentials=credentials) as (api, server):
        assert await api.create(PODS, {"a": 1}) == {"body": '{"a":1}'}
        assert await api.get(PODS) == {"body": ""}
        assert len(server.asked) == 3
        accepted = "Bearer 9"
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await api.get(PODS)
        assert len(server.asked) == 5


async def test_credentials_that_cannot_be_renewed() -> None:
    async def handler(asked: Asked) -> Answer:
        return failure(401, "Unauthorized", "Unauthorized")

    async with asking(handler, credentials=Fixed("Bearer x")) as (api, server):
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await api.get(PODS)
        assert len(server.asked) == 1


async def test_credentials_that_cannot_be_sent() -> None:
    async with asking(answer_all, credentials=Fixed("Bearer a\nb")) as (api, server):
        with pytest.raises(Unreachable, match=r"credentials of the context 'test' cannot be sent"):
            await api.get(PODS)
        assert not server.asked


# --- being put off ----------------------------------------------------------------------------------------


async def test_being_put_off() -> None:
    async def handler(asked: Asked) -> Answer:
        if len(server.asked) < 3:
            return Answer(429, b"later", {"Retry-After": "0"})
        return Answer(content={"a": 1})

    async with asking(handler) as (api, server):
        assert await api.create(PODS, {}) == {"a": 1}
        assert len(server.asked) == 3


async def test_being_put_off_for_ever() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(503, b"later", {"Retry-After": "0"})

    async with asking(handler) as (api, server):
        with pytest.raises(ApiError, match="503"):
            await api.get(PODS)
        assert len(server.asked) == api_module.ATTEMPTS


async def test_too_much_without_a_word_when() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(429, b"too much")

    async with asking(handler) as (api, server):
        with pytest.raises(ApiError, match="429"):
            await api.get(PODS)
        assert len(server.asked) == 1


# --- connections that break -------------------------------------------------------------------------------


async def test_a_kept_connection_that_the_server_has_closed() -> None:
    async def handler(asked: Asked) -> Answer | None:
        return None if asked.path == "/second" and asked.connection == 1 else Answer(content={"path": asked.path})

    async with asking(handler) as (api, server):
        await api.get("/first")
        assert await api.get("/second") == {"path": "/second"}
        assert [asked.path for asked in server.asked] == ["/first", "/second", "/second"]


async def test_what_changes_something_is_not_asked_twice() -> None:
    async def handler(asked: Asked) -> None:
        return None

    async with asking(handler) as (api, server):
        with pytest.raises(Unreachable, match=r"has closed the connection in the middle of a request"):
            await api.create(PODS, {})
        assert len(server.asked) == 1
        with pytest.raises(Unreachable, match=r"has closed the connection in the middle of a request"):
            await api.get(PODS)
        assert len(server.asked) == 3


async def test_an_answer_cut_off() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(parts=[b'{"a":'], end="cut")

    async with asking(handler) as (api, _):
        with pytest.raises(Unreachable):
            await api.get(PODS)


async def test_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "ANSWER_S", 0.05)

    async def handler(asked: Asked) -> Answer:
        await trio.sleep_forever()
        raise AssertionError

    async with asking(handler) as (api, _):
        with pytest.raises(Unreachable, match=r"has accepted a request and does not answer"):
            await api.get(PODS)


async def test_something_else_than_http() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH\r\n\r\n")
        await stream.receive_some()

    async with tcp_server(handler) as port, open_api(access_to(f"http://127.0.0.1:{port}")) as api:
        with pytest.raises(Unreachable, match=r"does not speak HTTP as an API server does"):
            await api.get("/version")


async def test_a_cancelled_request_harms_no_other() -> None:
    async def handler(asked: Asked) -> Answer:
        if asked.path == "/slow":
            began.set()
            await trio.sleep_forever()
        return Answer(content={})

    began = trio.Event()
    async with asking(handler) as (api, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.get, "/slow")
            await began.wait()
            nursery.cancel_scope.cancel()
        assert await api.get("/fast") == {}


# --- TLS --------------------------------------------------------------------------------------------------


async def test_tls_with_a_client_certificate() -> None:
    authority = trustme.CA()
    theirs, ours = mutual_tls(authority, "api.example")
    authority.issue_cert("me@example", common_name="me").configure_cert(ours)
    async with http_server(answer_all, tls=theirs) as server:
        async with open_api(access_to(server.url, tls=ours, server_name="api.example")) as api:
            assert (await api.get("/a"))["path"] == "/a"
            assert (await api.get("/b"))["path"] == "/b"
        assert [(asked.certificate, asked.connection) for asked in server.asked] == [("me", 1), ("me", 1)]


async def test_a_rejected_client_certificate_is_renewed_once() -> None:
    """By another connection: they keep what they were made with."""
    authority = trustme.CA()
    theirs, ours = mutual_tls(authority, "api.example")

    class Certificates:
        certificate = b"none"

        async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
            if certificate == self.certificate or self.certificate == b"none":
                self.certificate = b"second" if certificate else b"first"
                authority.issue_cert("me@example", common_name=self.certificate.decode()).configure_cert(ours)
            return None

    async def handler(asked: Asked) -> Answer:
        return Answer(content={}) if asked.certificate == accepted else failure(401, "Unauthorized", "Unauthorized")

    accepted = "first"
    async with (
        http_server(handler, tls=theirs) as server,
        open_api(access_to(server.url, tls=ours, server_name="api.example", credentials=Certificates())) as api,
    ):
        await api.get("/a")
        accepted = "second"
        await api.get("/b")
        accepted = "third"
        with pytest.raises(ApiError, match="401 Unauthorized"):
            await api.get("/c")
    told = [(asked.path, asked.certificate, asked.connection) for asked in server.asked]
    assert told == [("/a", "first", 1), ("/b", "first", 1), ("/b", "second", 2), ("/c", "second", 2)]


# --- watching ---------------------------------------------------------------------------------------------


def line(kind: str, version: int, **more: Any) -> bytes:
    return (
        json.dumps({"type": kind, "object": {"metadata": {"resourceVersion": str(version)}, **more}}).encode() + b"\n"
    )


async def test_a_watch() -> None:
    whole = line("ADDED", 1, name="a") + line("BOOKMARK", 2) + line("MODIFIED", 3, name="a")
    parts = [whole[:10], whole[10:-1], b"\n" + line("DELETED", 4, name="a")]

    async def handler(asked: Asked) -> Answer:
        return Answer(parts=parts, end="stay")

    async with asking(handler) as (api, server):
        found = []
        async with api.watch(PODS, {"labelSelector": "a"}, version="0") as events:
            async for kind, thing in events:
                found.append((kind, thing["name"]))
                if kind == "DELETED":
                    break
        assert found == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]
        target = server.asked[0].target
        assert target == f"{PODS}?labelSelector=a&watch=true&allowWatchBookmarks=true&resourceVersion=0"


async def test_a_watch_goes_on_where_it_was() -> None:
    async def handler(asked: Asked) -> Answer:
        version = 10 * len(server.asked)
        return Answer(parts=[line("ADDED", version) + line("BOOKMARK", version + 1)])

    async with asking(handler) as (api, server):
        async with api.watch(PODS) as events:
            for expected in ("10", "20", "30"):
                kind, thing = await anext(events)
                assert (kind, thing["metadata"]["resourceVersion"]) == ("ADDED", expected)
        versions = [asked.target.partition("resourceVersion=")[2] for asked in server.asked]
        assert versions[:3] == ["", "11", "21"]


@pytest.mark.parametrize("as_event", [True, False])
async def test_a_watch_that_is_too_old_begins_anew(as_event: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "WATCH_PAUSE_S", 0)

    async def handler(asked: Asked) -> Answer:
        if "resourceVersion" not in asked.target:
            return Answer(parts=[line("ADDED", 100)], end="stay")
        if as_event:
            return Answer(parts=[line("ERROR", 0, code=410, reason="Expired")], end="stay")
        return failure(410, "Expired", "too old")

    async with asking(handler) as (api, _), api.watch(PODS, version="7") as events:
        assert (await anext(events))[0] == "ADDED"


async def test_a_watch_survives_a_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(parts=[line("ADDED", len(server.asked)) + b'{"type": "MODI'], end="cut")

    async with asking(handler) as (api, server), api.watch(PODS) as events:
        assert [(await anext(events))[1]["metadata"]["resourceVersion"] for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "answer",
    [
        failure(403, "Forbidden", "no"),
        Answer(parts=[line("ERROR", 0, code=403, reason="Forbidden", message="no")], end="stay"),
    ],
)
async def test_a_refused_watch(answer: Answer) -> None:
    async def handler(asked: Asked) -> Answer:
        return answer

    async with asking(handler) as (api, _), api.watch(PODS) as events:
        with pytest.raises(ApiError, match="403 Forbidden: no"):
            await anext(events)


async def test_a_watch_of_something_else() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(parts=[b"<html>\n"], end="stay")

    async with asking(handler) as (api, _), api.watch(PODS) as events:
        with pytest.raises(ApiError, match="something else than events"):
            await anext(events)


async def test_what_fails_in_a_watch_comes_out_as_it_is() -> None:
    async def handler(asked: Asked) -> Answer:
        return Answer(parts=[line("ADDED", 1)], end="stay")

    async def divide(api: Api) -> None:
        async with api.watch(PODS) as events:
            async for _ in events:
                raise ZeroDivisionError

    async with asking(handler) as (api, _):
        with pytest.raises(ZeroDivisionError):
            await divide(api)
        with trio.move_on_after(0.05) as scope:
            async with api.watch(PODS) as events:
                await anext(events)
                await anext(events)
        assert scope.cancelled_caught


async def test_a_watch_that_fails_while_it_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def watch_once(*_: Any) -> tuple[bool, str | None]:
        try:
            await trio.sleep_forever()
        finally:
            raise Unreachable("the API server is gone")

    monkeypatch.setattr(Api, "_watch_once", watch_once)

    async def divide(api: Api) -> None:
        async with api.watch(PODS):
            await trio.testing.wait_all_tasks_blocked()
            raise ZeroDivisionError

    async with open_api(access_to("http://127.0.0.1:1")) as api:
        with pytest.raises(ZeroDivisionError):
            await divide(api)
