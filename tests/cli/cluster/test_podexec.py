"""Commands in pods, against a server that answers as kubelets do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from mirror.cli.cluster import podexec
from mirror.cli.cluster.api import ApiError, Unreachable, open_api
from mirror.cli.cluster.podexec import CommandFailed
from tests.cli.cluster.servers import Answer, Asked, access_to, failure, http_server

SUCCESS = b'{"metadata":{},"status":"Success"}'
FAILURE = json.dumps(
    {
        "status": "Failure",
        "message": "command terminated with non-zero exit code: exit status 1",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": "1"}]},
    }
).encode()


async def run(messages: Sequence[tuple[int, bytes]], *, closes: bool = True) -> tuple[bytes, Asked]:
    """What comes of a command for which the kubelet sends these messages."""

    async def kubelet(stream: trio.abc.Stream, asked: Asked) -> Answer | None:
        head = (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(asked.headers['sec-websocket-key'])}\r\n"
            "Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        ).encode()
        frames = [Frame(Opcode.BINARY, bytes([channel]) + data).serialize(mask=False) for channel, data in messages]
        if closes:
            frames.append(Frame(Opcode.CLOSE, (1000).to_bytes(2, "big")).serialize(mask=False))
        await stream.send_all(head + b"".join(frames))
        await stream.aclose()
        return None

    async def nothing(_: Asked) -> Answer:
        return failure(404, "NotFound", "nothing")

    output = b""
    failed: Exception | None = None
    async with http_server(nothing, upgrade=kubelet) as server, open_api(access_to(server.url)) as api:
        try:
            output = await podexec.run(api, "shop", "web-1", "agent", ["print", "a b", "--now"])
        except (CommandFailed, Unreachable) as error:
            failed = error
    if failed is not None:
        raise failed
    return output, server.asked[0]


async def test_its_output_is_all_that_is_wanted() -> None:
    messages = [(1, b""), (1, b"one\n"), (2, b"a warning\n"), (1, b"two\n"), (3, SUCCESS)]
    output, asked = await run(messages)
    assert output == b"one\ntwo\n"
    assert asked.method == "GET"
    assert asked.path == "/api/v1/namespaces/shop/pods/web-1/exec"
    assert parse_qs(urlsplit(asked.target).query) == {
        "command": ["print", "a b", "--now"],
        "container": ["agent"],
        "stdout": ["true"],
        "stderr": ["true"],
    }


async def test_much_of_it() -> None:
    part = bytes(range(256)) * 100
    output, _ = await run([*[(1, part)] * 40, (3, SUCCESS)])
    assert output == part * 40


async def test_what_went_wrong_is_said() -> None:
    with pytest.raises(CommandFailed, match=r"^no such file$"):
        await run([(1, b"half"), (2, b"no such\nfile\n"), (3, FAILURE)])
    with pytest.raises(CommandFailed, match="non-zero exit code"):
        await run([(3, FAILURE)])
    with pytest.raises(CommandFailed, match="container not running"):
        await run([(3, b"container not running (0123)")])


@pytest.mark.parametrize("closes", [True, False])
async def test_half_of_it_is_nothing(closes: bool) -> None:
    with pytest.raises(Unreachable, match="has cut off a command"):
        await run([(1, b"half")], closes=closes)


async def test_no_right() -> None:
    async def refuse(_stream: trio.abc.Stream, _asked: Asked) -> Answer:
        return failure(403, "Forbidden", 'User "dev" cannot get resource "pods/exec"')

    async def nothing(_: Asked) -> Answer:
        return failure(404, "NotFound", "nothing")

    async with http_server(nothing, upgrade=refuse) as server, open_api(access_to(server.url)) as api:
        with pytest.raises(ApiError) as caught:
            await podexec.run(api, "shop", "web-1", "agent", ["true"])
    assert caught.value.status == 403
