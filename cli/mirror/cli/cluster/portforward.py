"""A byte stream to a port in a pod, through the API server: `kubectl port-forward` without the listener.

The API server hands the connection on to the kubelet, which has the port connected inside the pod's network namespace,
on its loopback. There are two ways to frame the bytes, and each server and user can do at least one:

- `spdy`, asked for by POST (the verb `create`, which is what kubectl's users have). The cheaper one: taking 100 MB in
  costs the node 0.25 s, as against 1.0 s, most of which goes into unmasking a WebSocket byte by byte (measured with
  containerd 1.6). Its price is one more round trip at the beginning.
- `channels`, in a WebSocket, asked for by GET (the verb `get`, and from Kubernetes 1.35 on `create` too), for where a
  proxy on the way, or the rights, do not let the first through.

Either has TCP's flow control for both directions together. So the reader never waits to send: the far side may be
waiting for it to read. What it has to say is posted.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

import trio

from mirror.cli.cluster.api import Api, ApiError, Unreachable, Upgraded
from mirror.cli.cluster.forwarding import WRITE_BYTES, Forwarding
from mirror.cli.cluster.spdy import Spdy
from mirror.cli.cluster.wire import READ_BYTES

__all__ = ["PodGone", "PortForwardFailed", "PortRefused", "PortStream", "open_port"]

SILENCE_S = 10.0
"""After how much silence the other side is asked for a sign of life. Also what keeps load balancers from taking the
connection for idle: the shortest of their limits is about a minute."""

SIGN_S = 10.0
"""How long the other side has for a sign of life."""


def _channels() -> Forwarding:
    from mirror.cli.cluster.channels import Channels  # 40 ms, and seldom needed

    return Channels()


WAYS: tuple[tuple[str, Callable[[], Forwarding]], ...] = (("POST", Spdy), ("GET", _channels))
"""In the order in which they are tried."""

_REFUSED = re.compile("refused", re.IGNORECASE)
_GONE = re.compile(r"not found|not running|no such|is closed|does not exist", re.IGNORECASE)


class PortForwardFailed(Exception):
    """The cluster cannot forward the port: one sentence."""


class PortRefused(PortForwardFailed):
    """The pod is there, but nothing listens on the port. Worth another try while it starts."""


class PodGone(PortForwardFailed):
    """The pod, or its network, is not there any more, or not yet."""


class PortStream(trio.abc.Stream):
    """A stream to a port in a pod. One task may receive at a time. It has no half-close.

    Attributes:
        failure: Why it is broken: PortRefused, PodGone, PortForwardFailed or Unreachable; None while it works, after an
            ordinary end, and after it was closed here.
    """

    def __init__(self, upgraded: Upgraded, forwarding: Forwarding, place: str, port: int, server: str) -> None:
        self.failure: PortForwardFailed | Unreachable | None = None
        self._upgraded = upgraded
        self._wire = upgraded.wire
        self._forwarding = forwarding
        self._place = place
        self._port = port
        self._server = server
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._received: deque[memoryview] = deque()
        """Views of the buffer, so nothing more is read before they are taken."""
        self._ended = False
        """Whether the other side has said that it will send no more."""
        self._closed = False

    async def begin(self) -> None:
        """To be called before anything else; afterwards there may be a `failure`."""
        if self._upgraded.leading:
            self._take(self._upgraded.leading)
        try:
            await self._wire.send_all(self._forwarding.begin(self._port))
        except trio.BrokenResourceError:
            self._fail_for_loss()
        while not (self._forwarding.is_ready or self._ended or self.failure):
            self._received = deque(memoryview(bytes(part)) for part in self._received)
            await self._read()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What has come, at once if there is something; empty at the end.

        Raises:
            trio.BrokenResourceError: With the sentence of `failure`, which is its cause.
        """
        if self._closed or self._received or self._ended or self.failure:
            await trio.lowlevel.checkpoint()
        while self._closed or not self._received:
            self._raise_if_broken()
            if self._ended:
                return b""
            await self._read()
        return self._next(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See trio.abc.SendStream. Raises trio.BrokenResourceError, as receiving does."""
        self._raise_if_broken()
        if self._ended:
            raise trio.BrokenResourceError(f"{self._place} has ended the connection")
        with memoryview(data) as view:
            for start in range(0, len(view), WRITE_BYTES):
                try:
                    await self._wire.send_all(self._forwarding.frames(view[start : start + WRITE_BYTES]))
                except trio.BrokenResourceError:
                    self._fail_for_loss()
                    self._raise_if_broken()
        if not data:
            await trio.lowlevel.checkpoint()

    def write_now(self, data: bytes | bytearray | memoryview) -> int:
        """Sends as much of `data` as needs no waiting, and tells how much that is."""
        if self.failure or self._ended or self._closed or not self._wire.has_room:
            return 0
        with memoryview(data) as view:
            part = view[:WRITE_BYTES]
            self._wire.post(self._forwarding.frames(part))
            return len(part)

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        self._raise_if_broken()
        await self._wire.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Ends both directions."""
        if not self._closed:
            self._closed = True
            self._wire.post(self._forwarding.close())
            await self._upgraded.aclose()

    # --- inside -------------------------------------------------------------------------------------------

    def _next(self, max_bytes: int | None) -> bytes:
        taken, room = [], READ_BYTES if max_bytes is None else max_bytes
        while room and self._received:
            part = self._received.popleft()
            taken.append(part[:room])
            if len(part) > room:
                self._received.appendleft(part[room:])
            room -= len(taken[-1])
        return b"".join(taken)

    async def _read(self) -> None:
        """Waits until something has come, whatever it is."""
        try:
            with trio.move_on_after(SILENCE_S):
                self._take(self._buffer[: await self._wire.receive_into(self._buffer)])
                return
            self._wire.post(self._forwarding.ping())
            with trio.move_on_after(SIGN_S):
                self._take(self._buffer[: await self._wire.receive_into(self._buffer)])
                return
            self.failure = Unreachable(
                f"the API server {self._server} is silent since {SILENCE_S + SIGN_S:.0f} s: see to your network or VPN"
            )
        except trio.BrokenResourceError:
            self._fail_for_loss()

    def _take(self, data: bytes | memoryview) -> None:
        """Understands what has come; nothing: the connection has ended."""
        if not data:
            self._fail_for_loss()
            return
        received = self._forwarding.receive(data)
        self._received += received.data
        self._ended = self._ended or received.ended
        if received.replies:
            self._wire.post(received.replies)
        if self.failure is None and received.error:
            self.failure = self._meaning(received.error.decode(errors="replace"))
        elif self.failure is None and received.broken:
            self.failure = Unreachable(
                f"what comes from {self._server} is no port-forward ({received.broken}): is there a proxy on the way "
                "that changes it?"
            )

    def _meaning(self, text: str) -> PortForwardFailed:
        if _REFUSED.search(text):
            return PortRefused(f"nothing listens on port {self._port} of {self._place}")
        if _GONE.search(text):
            return PodGone(f"{self._place} is gone, or does not run")
        return PortForwardFailed(f"port {self._port} of {self._place} cannot be reached: {' '.join(text.split())}")

    def _fail_for_loss(self) -> None:
        if self.failure is None:
            self.failure = Unreachable(
                f"the connection to {self._place} through the API server {self._server} is lost: "
                "the server is restarting, or the network has changed"
            )

    def _raise_if_broken(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this port-forward was already closed")
        if self.failure is not None:
            raise trio.BrokenResourceError(str(self.failure)) from self.failure


async def open_port(api: Api, namespace: str, pod: str, port: int) -> PortStream:
    """A stream to a port of the pod's own loopback; to be closed before the Api.

    That nothing listens there is known only once something is received: then the stream is broken, and its `failure`
    says why.

    Raises:
        ApiError: No such pod (404), no permission (403), it does not run yet (400), ...
        Unreachable: The API server cannot be reached.
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward"
    place = f"the pod {namespace}/{pod}"
    refusal: Exception | None = None
    for method, way in WAYS:
        forwarding = way()
        try:
            upgraded = await api.upgrade(method, path, {"ports": str(port)}, forwarding.headers())
        except ApiError as error:
            if error.reason in ("NotFound", "Unauthorized"):  # the API server's own words
                raise
            refusal = _graver(refusal, error)
            continue
        stream = PortStream(upgraded, forwarding, place, port, api.access.server)
        try:
            if forwarding.accepts(upgraded.headers):
                await stream.begin()
                if not isinstance(stream.failure, Unreachable):
                    return stream
            refusal = _graver(refusal, stream.failure or ApiError(101, "", f"{api.access.server} forwards no ports"))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        await trio.aclose_forcefully(stream)
    assert refusal is not None
    raise refusal


def _graver(first: Exception | None, second: Exception) -> Exception:
    """The one that says more: the API server's own reason, before a proxy that lets only one way through."""
    return first if isinstance(first, ApiError) and first.reason else second
