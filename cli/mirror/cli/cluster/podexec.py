"""What a command writes that runs in a container of a pod, through the API server: `kubectl exec` without a terminal.

In a WebSocket (the verb `get`, and from Kubernetes 1.35 on `create` too): what comes is a few kilobytes, so that the
framing may cost what it likes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from mirror.cli.cluster.api import Api, ApiError, Unreachable
from mirror.cli.cluster.channels import Channels
from mirror.cli.cluster.forwarding import Received
from mirror.cli.cluster.wire import READ_BYTES

WITHIN_S = 40.0
"""The whole of it, unless a caller has more patience."""

_OUTPUT, _COMPLAINTS, _OUTCOME = 1, 2, 3
"""The channels (kubernetes, pkg/kubelet/cri/streaming/remotecommand/websocket.go)."""


class CommandFailed(Exception):
    """The command could not be run, or failed: what it or the cluster says."""


class _Streams(Channels):
    """The client's end: messages have no port before them."""

    def __init__(self) -> None:
        super().__init__()
        self.complaints = b""

    def _take(self, content: memoryview, received: Received) -> None:
        if self._channel == _OUTPUT:
            received.data.append(content)
        elif self._channel == _COMPLAINTS:
            self.complaints += content
        elif self._channel == _OUTCOME:
            received.error += content


async def run(
    api: Api, namespace: str, pod: str, container: str, command: Sequence[str], *, within_s: float = WITHIN_S
) -> bytes:
    """What the command writes to its standard output.

    Raises:
        CommandFailed: It could not be run, or its exit status is not 0.
        ApiError: No such pod (404), no permission (403), ...
        Unreachable: The API server cannot be reached.
    """
    streams = _Streams()
    output = outcome = b""
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec"
    parameters = {"container": container, "command": tuple(command), "stdout": "true", "stderr": "true"}
    upgraded = await api.upgrade("GET", path, parameters, streams.headers())
    try:
        if not streams.accepts(upgraded.headers):
            raise ApiError(101, "", f"{api.access.server} runs no commands")
        buffer = memoryview(bytearray(READ_BYTES))
        with trio.fail_after(within_s):
            received = streams.receive(upgraded.leading)
            while True:
                output += b"".join(received.data)
                outcome += received.error
                if received.replies:
                    await upgraded.wire.send_all(received.replies)
                if received.ended or received.broken:
                    break
                count = await upgraded.wire.receive_into(buffer)
                if not count:
                    break
                received = streams.receive(buffer[:count])
    except trio.TooSlowError:
        raise CommandFailed(f"it did not end within {within_s:.0f} s") from None
    except trio.BrokenResourceError:
        outcome = b""  # it may be known nevertheless how it went
    finally:
        with trio.CancelScope(shield=True):
            await upgraded.aclose()
    return _judge(output, streams.complaints, outcome, api.access.server)


def _judge(output: bytes, complaints: bytes, outcome: bytes, server: str) -> bytes:
    """The output, if the outcome is a success."""
    if not outcome:
        raise Unreachable(f"the API server {server} has cut off a command in a pod: it is restarting; try again")
    try:
        status = msgspec.json.decode(outcome)
    except msgspec.DecodeError:
        status = {"message": outcome.decode(errors="replace")}
    if status.get("status") == "Success":
        return output
    said = complaints.decode(errors="replace") or str(status.get("message", ""))
    raise CommandFailed(" ".join(said.split()) or "it failed")
