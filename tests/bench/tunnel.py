"""The port-forward beside `kubectl port-forward`: the same program in the same pod, asked by the same code here.

kubectl is used as its users use it, over a TCP connection to the port that it opens here; mirror as its proxy does,
in this process. kubectl has made its connection to the API server before, and keeps it; mirror makes one for each
stream. They take turns, and the median of each one's turns is shown, because a busy machine is not equally busy all the
time. It is not equally good to both either: kubectl and its client have more threads, and so get more of it. What
holds on a busy machine too is the processor time: of this process, and of kubectl where that is used.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from mirror.cli.cluster import portforward
from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import Api, open_api
from mirror.cli.cluster.channels import Channels
from mirror.cli.cluster.spdy import Spdy
from tests.e2e import tunnel
from tests.e2e.cluster import find

ROUNDS = 3
ROUND_TRIPS = 1000
BULK_BYTES = 256 << 20
"""On their way buffers hold up to 30 MB, which is soon sent and received late."""
WRITE_BYTES = 128 << 10

Open = Callable[[], Awaitable[trio.abc.Stream]]


def show() -> None:
    """Prints what both cost, and their ratio: above 1, mirror's is better."""
    kubeconfig = find()
    kubectl = shutil.which("kubectl")
    if kubeconfig is None or kubectl is None:
        print("port-forward: needs a cluster (`make cluster`) and kubectl")
        return
    namespace = f"mirror-bench-{uuid.uuid4().hex[:8]}"
    try:
        trio.run(tunnel.make, kubeconfig, namespace)
        trio.run(_show, kubeconfig, namespace, kubectl)
    finally:
        trio.run(tunnel.remove, kubeconfig, namespace)


async def _show(kubeconfig: Path, namespace: str, kubectl: str) -> None:
    access = await find_access(tunnel.kubeconfig_of(kubeconfig))
    with _kubectl(kubectl, kubeconfig, namespace) as (port, pid):
        async with open_api(access) as api:
            ways: dict[str, Open] = {
                "kubectl": lambda: trio.open_tcp_stream("127.0.0.1", port),
                "mirror": lambda: _open(api, namespace, ("POST", Spdy)),
                "WebSocket": lambda: _open(api, namespace, ("GET", Channels)),
            }
            found: dict[str, list[list[float]]] = {name: [] for name in ways}
            spent: dict[str, list[list[float]]] = {name: [] for name in ways}
            for _ in range(ROUNDS):
                for name, open_stream in ways.items():
                    figures, costs = [], []
                    for measure in _MEASURES.values():
                        before = _processor_ms(pid)
                        figures.append(await measure(open_stream))
                        costs.append((_processor_ms(pid) - before) / (BULK_BYTES / 1e8))
                    found[name].append(figures)
                    spent[name].append(costs)
    print(
        "port-forward: kubectl, mirror, their ratio (above 1: mirror is better), mirror where only a WebSocket passes"
    )
    for index, title in enumerate(_MEASURES):
        _print(title, *(statistics.median(run[index] for run in found[name]) for name in ways))
        if "MB/s" in title:
            medians = (statistics.median(run[index] for run in spent[name]) for name in ways)
            _print("  processor time on this side, ms for 100 MB", *medians)


def _print(title: str, theirs: float, ours: float, other: float) -> None:
    ratio = ours / theirs if "MB/s" in title else theirs / ours
    print(f"  {title:<48} {theirs:>6.0f} {ours:>6.0f} {ratio:>6.2f} {other:>6.0f}")


def _processor_ms(pid: int) -> float:
    """What this process and another one have used (proc_pid_stat(5), utime and stime)."""
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (time.process_time() + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")) * 1000


@contextmanager
def _kubectl(kubectl: str, kubeconfig: Path, namespace: str) -> Iterator[tuple[int, int]]:
    """`kubectl port-forward`: the port here, and its pid."""
    command = [kubectl, "--kubeconfig", str(kubeconfig), "port-forward", "-n", namespace, f"pod/{tunnel.POD}"]
    with subprocess.Popen([*command, f":{tunnel.PORT}"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r":(\d+) ->", process.stdout.readline())
            assert found, "kubectl does not forward"
            yield int(found[1]), process.pid
        finally:
            process.terminate()


async def _open(api: Api, namespace: str, way: Any) -> trio.abc.Stream:
    portforward.WAYS = (way,)
    return await portforward.open_port(api, namespace, tunnel.POD, tunnel.PORT)


@asynccontextmanager
async def _begun(open_stream: Open, kind: bytes) -> AsyncIterator[trio.abc.Stream]:
    async with await open_stream() as stream:
        yield await tunnel.begin(stream, kind, BULK_BYTES)


async def _open_and_ask(open_stream: Open) -> float:
    begin = time.perf_counter()
    async with _begun(open_stream, b"e") as stream:
        await stream.send_all(b"x")
        await stream.receive_some()
        return (time.perf_counter() - begin) * 1e6


async def _round_trip(open_stream: Open) -> float:
    async with _begun(open_stream, b"e") as stream:
        times = []
        for _ in range(ROUND_TRIPS):
            begin = time.perf_counter()
            await stream.send_all(b"x" * 100)
            assert len(await stream.receive_some()) == 100
            times.append(time.perf_counter() - begin)
        return statistics.median(times) * 1e6


async def _download(open_stream: Open) -> float:
    async with _begun(open_stream, b"d") as stream:
        begin = time.perf_counter()
        await _receive(stream)
        return _rate(begin)


async def _upload(open_stream: Open) -> float:
    async with _begun(open_stream, b"u") as stream:
        begin = time.perf_counter()
        await _send(stream)
        assert await stream.receive_some() == b"!"
        return _rate(begin)


async def _both(open_stream: Open) -> float:
    async with _begun(open_stream, b"e") as stream, trio.open_nursery() as nursery:
        begin = time.perf_counter()
        nursery.start_soon(_send, stream)
        await _receive(stream)
        return _rate(begin)


async def _send(stream: trio.abc.Stream) -> None:
    data = tunnel.blocks(WRITE_BYTES)
    for _ in range(BULK_BYTES // len(data)):
        await stream.send_all(data)


async def _receive(stream: trio.abc.Stream) -> None:
    count = 0
    while count < BULK_BYTES:
        data = await stream.receive_some(256 << 10)
        assert data, "ended too early"
        count += len(data)


def _rate(begin: float) -> float:
    return BULK_BYTES / 1e6 / (time.perf_counter() - begin)


_MEASURES = {
    "a new stream, and a first round trip, µs": _open_and_ask,
    "a round trip of 100 bytes, µs": _round_trip,
    "to the user, MB/s": _download,
    "to the pod, MB/s": _upload,
    "both ways at once, each, MB/s": _both,
}
