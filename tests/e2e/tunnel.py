"""A pod that does with bytes what it is told, for the tests and the benchmark of the port-forward."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, ApiError, open_api
from tests.cluster.places import WORKLOAD_IMAGE

PORT = 7000
POD = "tunnel"
READY = "ready"
WITHIN_S = 180.0
"""For whatever the cluster does; a busy machine is slow."""

# On the loopback alone. A connection begins with what to do and, but for `e`, a count of bytes: `e` echoes, `d` sends
# so many, `u` takes so many and then says `!`.
_PROGRAM = f"""
import os, socket, threading
block = os.urandom(1 << 16)
def serve(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    kind = connection.recv(1)
    if kind == b"e":
        while data := connection.recv(1 << 16):
            connection.sendall(data)
        return
    left = int.from_bytes(connection.recv(8), "big")
    if kind == b"d":
        while left > 0:
            connection.sendall(block[:left])
            left -= len(block)
    else:
        buffer = bytearray(1 << 18)
        while left > 0 and (count := connection.recv_into(buffer)):
            left -= count
        connection.sendall(b"!")
    connection.recv(1)
def run(connection):
    with connection:
        try:
            serve(connection)
        except OSError:
            pass
server = socket.create_server(("127.0.0.1", {PORT}))
print("{READY}", flush=True)
while True:
    threading.Thread(target=run, args=(server.accept()[0],), daemon=True).start()
"""


async def make(kubeconfig: Path, namespace: str) -> None:
    """A namespace with the pod in it, which is ready."""
    async with open_api(await find_access(kubeconfig_of(kubeconfig))) as api:
        await api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        await start(api, namespace, POD)


async def start(api: Api, namespace: str, name: str) -> None:
    """Starts the program in a pod, and waits until it listens."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    container = {"name": "app", "image": WORKLOAD_IMAGE, "command": ["python3", "-c", _PROGRAM]}
    spec = {"terminationGracePeriodSeconds": 0, "containers": [container]}
    with trio.fail_after(WITHIN_S):
        while True:
            try:
                await api.create(pods, {"metadata": {"name": name}, "spec": spec})
                break
            except ApiError as error:
                if "service account" not in error.message:  # which every namespace has a moment later
                    raise
                await trio.sleep(0.05)
        async with api.watch(pods, {"fieldSelector": f"metadata.name={name}"}) as events:
            async for _, thing in events:
                if thing["status"].get("phase") == "Running":
                    break
        while READY not in await api.text(f"{pods}/{name}/log"):
            await trio.sleep(0.05)


async def remove(kubeconfig: Path, namespace: str) -> None:
    """Removes the namespace with all that is in it, and waits until it is gone."""
    async with open_api(await find_access(kubeconfig_of(kubeconfig))) as api:
        with trio.fail_after(WITHIN_S):
            async with api.watch("/api/v1/namespaces", {"fieldSelector": f"metadata.name={namespace}"}) as events:
                try:
                    await api.delete(f"/api/v1/namespaces/{namespace}")
                except ApiError as error:
                    if error.status == 404:
                        return
                    raise
                async for kind, _ in events:
                    if kind == "DELETED":
                        break


async def begin(stream: trio.abc.Stream, kind: bytes, count: int = 0) -> trio.abc.Stream:
    """Tells the pod what to do."""
    await stream.send_all(kind + (count.to_bytes(8, "big") if kind != b"e" else b""))
    return stream


def blocks(size: int) -> bytes:
    """Bytes that no compression and no repetition makes fewer."""
    return os.urandom(size)


def kubeconfig_of(path: Path) -> dict[str, str]:
    """The environment that leads to a cluster."""
    return {"KUBECONFIG": str(path), "HOME": os.environ.get("HOME", "/")}
