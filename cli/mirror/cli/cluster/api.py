"""Requests to the API server: JSON objects by their path.

HTTP is httpcore's: connections that stay open, proxies of all kinds, and the connection itself after an upgrade. Its
import and the first request take 60 ms (httpx: 20 ms more, for what is not needed here), where the official client's
take 1.5 s and more.

What the server refuses is an ApiError with the server's words (`failures` makes sentences of them); that it cannot be
asked is Unreachable, with a sentence.
"""

from __future__ import annotations

import dataclasses
import math
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, TypeAlias
from urllib.parse import quote, unquote, urlencode, urlsplit

import httpcore
import msgspec
import trio

from mirror.cli.cluster.access import Access
from mirror.cli.cluster.network import CONNECT_S, Network, Unreachable, shown
from mirror.cli.cluster.wire import TlsWire, Wire

__all__ = ["Api", "ApiError", "Event", "Object", "Unreachable", "Upgraded", "open_api"]

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON has it."""

Event: TypeAlias = tuple[str, Object]
"""`ADDED`, `MODIFIED` or `DELETED`, and the object."""

ANSWER_S = 30.0
"""How long the server may be silent before an answer. Admission webhooks may take 30 s, by default they take 10."""

IDLE_S = 90.0
"""How long an unused connection is kept; load balancers drop them without a word after some minutes."""

PAGE = 500
"""How many items of a list are asked for at once, as kubectl does."""

ATTEMPTS: Final = 4
"""How often a request is made that the server puts off (429, 503 with Retry-After)."""

LONGEST_PAUSE_S = 5.0
"""How long we let ourselves be put off at most, each time."""

WATCH_PAUSE_S = 1.0
"""How long to wait before a watch that ended without a word is begun again."""

_PATCHES = {
    "merge": "application/merge-patch+json",
    "strategic-merge": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
    "apply": "application/apply-patch+yaml",
}


class ApiError(Exception):
    """The API server has refused a request.

    Attributes:
        status: The HTTP status: 403, 404, 409, ...
        reason: The machine's word for it: `Forbidden`, `NotFound`, `AlreadyExists`, `Conflict`, `Invalid`, `Expired`,
            ...; empty where the answer is not the API server's (a proxy's page).
        message: The server's own sentence.
        details: What it is about (`name`, `kind`, `causes`, ...); empty where nothing was said.
    """

    def __init__(self, status: int, reason: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}


@dataclasses.dataclass
class Upgraded:
    """A connection that speaks another protocol from here on.

    Attributes:
        wire: The connection.
        leading: What has come already, to be taken before anything from `wire`.
        headers: Of the answer, their names in small letters.
    """

    wire: Wire | TlsWire
    leading: bytes
    headers: Mapping[str, str]
    _response: httpcore.Response

    async def aclose(self) -> None:
        """Closes it without a farewell."""
        await self._response.aclose()


class Api:
    """An API server, made by `open_api`. Any number of tasks may use it at the same time.

    Paths are those of the API, as `/api/v1/namespaces/default/pods/web`; parameters are those of the query, as
    `{"labelSelector": "app=web"}`. Every call raises ApiError, Unreachable, and AccessError where credentials cannot be
    had.
    """

    def __init__(self, access: Access, pool: httpcore.AsyncConnectionPool) -> None:
        self.access = access
        self._pool = pool
        self._certificate = access.credentials.certificate

    async def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Object:
        """One object."""
        return await self._object("GET", path, parameters)

    async def text(self, path: str, parameters: Mapping[str, str] | None = None) -> str:
        """What is no object: a pod's log."""
        content = await self._content("GET", path, parameters, accept="*/*")
        return content.decode(errors="replace")

    async def list(self, path: str, parameters: Mapping[str, str] | None = None) -> list[Object]:
        """The items of a collection, all pages of them; the server leaves out their `kind` and `apiVersion`."""
        items: list[Object] = []
        page = {**(parameters or {}), "limit": str(PAGE)}
        while True:
            try:
                answer = await self.get(path, page)
            except ApiError as error:
                if error.status != 410 or "continue" not in page:
                    raise
                items, page = [], dict(parameters or {})  # the pages were made too long ago: all at once then
                continue
            items += answer.get("items") or []
            more = (answer.get("metadata") or {}).get("continue")
            if not more:
                return items
            page["continue"] = more

    async def create(self, path: str, body: Object, parameters: Mapping[str, str] | None = None) -> Object:
        """POST to a collection or a subresource: the object as the server made it."""
        return await self._object("POST", path, parameters, body)

    async def patch(
        self,
        path: str,
        body: Object | Sequence[Object],
        *,
        kind: str = "merge",
        parameters: Mapping[str, str] | None = None,
    ) -> Object:
        """The patched object. `kind` is `merge`, `strategic-merge`, `json` or `apply`."""
        return await self._object("PATCH", path, parameters, body, content_type=_PATCHES[kind])

    async def delete(self, path: str, *, propagation: str = "Background", uid: str | None = None) -> Object:
        """Removes an object, and what belongs to it; with `uid`, only if it is that very one (else ApiError 409).

        That it is gone already is an ApiError 404, as for any path.
        """
        body: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if uid:
            body["preconditions"] = {"uid": uid}
        return await self._object("DELETE", path, None, body)

    @asynccontextmanager
    async def watch(
        self, path: str, parameters: Mapping[str, str] | None = None, *, version: str | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """What happens to the objects of a collection.

            async with api.watch("/api/v1/namespaces/default/pods", {"labelSelector": "app=web"}) as events:
                async for kind, pod in events: ...

        First comes an ADDED for each object that is there, then what happens. The events end only by leaving the block,
        or by an exception. When the server ends the watch, it is begun again where it was; if it cannot be, every
        object comes once more as ADDED, and what was deleted meanwhile is not told.

        Args:
            path: Of the collection. For one object: `fieldSelector=metadata.name=NAME`.
            parameters: `labelSelector`, `fieldSelector`.
            version: A list's resourceVersion: only what came after it.
        """
        sender, receiver = trio.open_memory_channel[Event | Exception](math.inf)
        failure: BaseException | None = None
        # The reading is a task's, so that leaving the block cancels it where it waits, not in the middle of httpcore's
        # generators; what fails in the block comes out of it as it is, not in a group.
        async with trio.open_nursery() as nursery, receiver:
            nursery.start_soon(self._watch, path, dict(parameters or {}), version, sender)
            try:
                yield _Events(receiver)
            except BaseException as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def upgrade(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | Sequence[str]] | None,
        headers: Sequence[tuple[str, str]],
    ) -> Upgraded:
        """A connection to a subresource for another protocol. It lives no longer than the Api.

        Args:
            method: `GET` or `POST`, as that protocol has it.
            path: The subresource.
            parameters: As ever; what has several values is said several times.
            headers: `Upgrade` and whatever else that protocol wants.
        """
        response = await self._send_again(method, path, parameters, [("Connection", "Upgrade"), *headers])
        if response.status != 101:
            raise _refusal(self.access, response, await self._read(response))
        try:
            http_stream = response.extensions["network_stream"]
            wire = http_stream.get_extra_info("wire")
            # What came behind the head of the answer; the look at the buffer is httpcore's private affair.
            leading = await http_stream.read(1 << 20) if getattr(http_stream, "_leading_data", b"") else b""
        except BaseException:
            await response.aclose()
            raise
        return Upgraded(wire, leading, _headers(response), response)

    async def drop_idle(self) -> None:
        """Closes what is kept for later requests: when the network has changed, that is dead, and says nothing."""
        for connection in self._pool.connections:
            if isinstance(connection, httpcore.AsyncConnectionInterface) and connection.is_idle():
                await connection.aclose()

    # --- inside -------------------------------------------------------------------------------------------

    async def _object(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        content = await self._content(method, path, parameters, body, content_type)
        try:
            found = msgspec.json.decode(content)
        except msgspec.DecodeError:
            found = None
        if not isinstance(found, dict):
            raise _no_api_server(self.access)
        return found

    async def _content(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        headers = [("Accept", accept)]
        data = b""
        if body is not None:
            data = msgspec.json.encode(body)
            headers += [("Content-Type", content_type)]
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._send(method, path, parameters, headers, data)
                content = await self._read(response)
            except _Lost:
                # A kept connection may be closed by the server just when it is used: asking again harms nobody.
                if method == "GET" and attempt == 1:
                    continue
                raise self._cut_off() from None
            pause_s = _pause(response) if attempt < ATTEMPTS else None
            if pause_s is not None:
                await trio.sleep(pause_s)
            elif 200 <= response.status < 300:
                return content
            else:
                raise _refusal(self.access, response, content)

    async def _send_again(self, *args: Any, **options: Any) -> httpcore.Response:
        """As `_send`, a second time where the connection broke: it was kept, and closed by the server just then."""
        try:
            return await self._send(*args, **options)
        except _Lost:
            pass
        try:
            return await self._send(*args, **options)
        except _Lost:
            raise self._cut_off() from None

    async def _send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | Sequence[str]] | None,
        headers: Sequence[tuple[str, str]],
        data: bytes = b"",
        endless: bool = False,
    ) -> httpcore.Response:
        """The answer's head; credentials that the server does not accept are renewed once.

        With `endless` it may take as long as it likes to go on.
        """
        credentials = self.access.credentials
        authorization = await credentials.header()
        certificate = credentials.certificate
        response = await self._send_as(authorization, method, path, parameters, headers, data, endless)
        if response.status == 401:
            renewed = await credentials.header(rejected=authorization, certificate=certificate)
            if (renewed, credentials.certificate) != (authorization, certificate):
                await self._read(response)
                return await self._send_as(renewed, method, path, parameters, headers, data, endless)
        return response

    async def _send_as(
        self,
        authorization: str | None,
        method: str,
        path: str,
        parameters: Mapping[str, str | Sequence[str]] | None,
        headers: Sequence[tuple[str, str]],
        data: bytes,
        endless: bool,
    ) -> httpcore.Response:
        if self.access.credentials.certificate != self._certificate:
            await self.drop_idle()  # they go by the one that they were made with
            self._certificate = self.access.credentials.certificate
        server = urlsplit(self.access.server)
        target = quote(server.path.rstrip("/") + path, safe="/:~%")
        if parameters:
            target += f"?{urlencode(parameters, doseq=True)}"
        all_headers = [("Host", server.netloc.rpartition("@")[2]), ("User-Agent", "mirror"), *headers]
        all_headers += self.access.headers
        if authorization:
            all_headers.append(("Authorization", authorization))
        if data:
            all_headers.append(("Content-Length", str(len(data))))
        request = httpcore.Request(
            method,
            httpcore.URL(
                scheme=server.scheme.encode(),
                host=(server.hostname or "").encode("idna"),
                port=server.port or (443 if server.scheme == "https" else 80),
                target=target.encode(),
            ),
            headers=[(name.encode(), value.encode()) for name, value in all_headers],
            content=data,
            extensions={"timeout": {"connect": CONNECT_S, "read": None if endless else ANSWER_S, "write": ANSWER_S}},
        )
        try:
            return await self._pool.handle_async_request(request)
        except _HTTP_ERRORS as error:
            raise self._explained(error) from None

    async def _read(self, response: httpcore.Response) -> bytes:
        try:
            return await response.aread()
        except _HTTP_ERRORS as error:
            raise self._explained(error) from None
        finally:
            await response.aclose()

    def _explained(self, error: Exception) -> Exception:
        """What one of httpcore's exceptions means: _Lost where the connection broke, else Unreachable."""
        match error:
            case httpcore.ProxyError():
                proxy = shown(self.access.proxy or "")
                return Unreachable(
                    f"the proxy {proxy} does not lead to the API server {self.access.server}: {error}; "
                    "correct HTTPS_PROXY or proxy-url in kubeconfig, or except the server by NO_PROXY"
                )
            case httpcore.TimeoutException():
                return Unreachable(
                    f"the API server {self.access.server} has accepted a request and does not answer: "
                    "see to your network, or try again"
                )
            case httpcore.LocalProtocolError():
                return Unreachable(
                    f"the credentials of the context {self.access.context!r} cannot be sent, they have characters that "
                    "do not belong there: log in again, or get the kubeconfig anew"
                )
            case httpcore.RemoteProtocolError() if "without sending" not in str(error):
                return Unreachable(
                    f"{self.access.server} does not speak HTTP as an API server does ({error}): correct the server in "
                    "kubeconfig"
                )
        return _Lost(str(error))

    def _cut_off(self) -> Unreachable:
        return Unreachable(
            f"the API server {self.access.server} has closed the connection in the middle of a request: "
            "it is restarting, or a proxy or VPN on the way has cut it; try again"
        )

    async def _watch(
        self,
        path: str,
        parameters: dict[str, str],
        version: str | None,
        sender: trio.MemorySendChannel[Event | Exception],
    ) -> None:
        """Reads a watch, and begins it again, for ever; whatever ends it is sent as the last thing."""
        parameters |= {"watch": "true", "allowWatchBookmarks": "true"}
        try:
            while True:
                told, version = await self._watch_once(path, parameters, version, sender)
                if not told:
                    await trio.sleep(WATCH_PAUSE_S)
        except Exception as error:
            with suppress(trio.BrokenResourceError):  # the block has been left just then
                sender.send_nowait(error)
        finally:
            sender.close()

    async def _watch_once(
        self,
        path: str,
        parameters: Mapping[str, str],
        version: str | None,
        sender: trio.MemorySendChannel[Event | Exception],
    ) -> tuple[bool, str | None]:
        """Whether anything came, and where to go on; None: from the beginning."""
        where = {"resourceVersion": version} if version else {}
        response = await self._send_again(
            "GET", path, {**parameters, **where}, [("Accept", "application/json")], endless=True
        )
        if response.status != 200:
            content = await self._read(response)
            if response.status == 410:
                return False, None
            raise _refusal(self.access, response, content)
        told, rest = False, b""
        failure: Object | None = None
        try:
            # Left by cancelling, so that no generator of httpcore's stays behind in the middle.
            with trio.CancelScope() as scope:
                async for chunk in response.aiter_stream():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for kind, thing in map(_event, filter(None, lines)):
                        if kind == "ERROR":
                            failure = thing
                            scope.cancel()
                            break
                        version = thing["metadata"].get("resourceVersion")
                        if kind != "BOOKMARK":
                            told = True
                            sender.send_nowait((kind, thing))
        except _HTTP_ERRORS:
            pass  # cut off: whether the server is still there, the next round finds out
        finally:
            await response.aclose()
        if failure is not None and failure.get("code") != 410:
            raise _error_of(failure)
        return told, None if failure else version


@asynccontextmanager
async def open_api(access: Access) -> AsyncIterator[Api]:
    """The API server of an access; its connections are closed at the end of the block. Connects only when asked."""
    network = Network(access)
    try:
        async with _pool_for(access, network) as pool:
            yield Api(access, pool)
    finally:
        network.close()


_HTTP_ERRORS = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
)


class _Lost(Exception):
    """The connection broke before the answer was there."""


class _Events:
    """What a watch gives: events, and in the end why it is over."""

    def __init__(self, receiver: trio.MemoryReceiveChannel[Event | Exception]) -> None:
        self._receiver = receiver

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> Event:
        event = await self._receiver.receive()
        if isinstance(event, Exception):
            raise event
        return event


def _pool_for(access: Access, network: Network) -> httpcore.AsyncConnectionPool:
    limits: dict[str, Any] = {"max_connections": None, "max_keepalive_connections": None, "keepalive_expiry": IDLE_S}
    shared: dict[str, Any] = {"ssl_context": access.tls, "network_backend": network, **limits}
    if access.proxy is None:
        return httpcore.AsyncConnectionPool(**shared)
    proxy = urlsplit(access.proxy)
    user = (unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None
    scheme = "socks5" if proxy.scheme.startswith("socks") else proxy.scheme
    host = f"[{proxy.hostname}]" if ":" in (proxy.hostname or "") else proxy.hostname
    url = f"{scheme}://{host}" + (f":{proxy.port}" if proxy.port else "")
    if scheme == "socks5":
        return httpcore.AsyncSOCKSProxy(url, proxy_auth=user, **shared)
    if scheme == "https":
        shared["proxy_ssl_context"] = ssl.create_default_context()
    return httpcore.AsyncHTTPProxy(url, proxy_auth=user, **shared)


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _pause(response: httpcore.Response) -> float | None:
    """How long the server asks us to wait before we try again; None: it does not."""
    if response.status not in (429, 503):
        return None
    try:
        return min(float(_headers(response)["retry-after"]), LONGEST_PAUSE_S)
    except (KeyError, ValueError):
        return None


def _no_api_server(access: Access) -> Unreachable:
    return Unreachable(
        f"{access.server} answers, but not as an API server does: correct the server in kubeconfig, "
        "or log in where a portal asks for it"
    )


def _refusal(access: Access, response: httpcore.Response, content: bytes) -> ApiError | Unreachable:
    """What an answer other than a success means."""
    try:
        status = msgspec.json.decode(content)
    except msgspec.DecodeError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return _error_of(status, response.status)
    if response.status == 404 and content.lstrip().startswith(b"<"):  # an API server has no such pages
        return _no_api_server(access)
    text = " ".join(content.decode(errors="replace").split())[:200]
    return ApiError(response.status, "", text or f"{access.server} says no more than {response.status}")


def _error_of(status: Object, code: int = 0) -> ApiError:
    return ApiError(
        status.get("code") or code, status.get("reason") or "", status.get("message") or "", status.get("details")
    )


def _event(line: bytes) -> Event:
    """An event of a watch. `BOOKMARK` and `ERROR` (with a Status) come too."""
    try:
        event = msgspec.json.decode(line)
        return event["type"], event["object"]
    except (msgspec.DecodeError, KeyError, TypeError):
        return "ERROR", {"message": "the server's watch gives something else than events"}
