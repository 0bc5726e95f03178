"""A pod that calls a Service without a pause, and what became of each call."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterator

from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until

THREADS = 4
_CALLER = """
import http.client, sys, threading, time, urllib.request
def call(number):
    last = ""
    while True:
        began = time.time()
        try:
            with urllib.request.urlopen(sys.argv[1], timeout=20) as answer:
                said = answer.read().decode().split(",")[0].strip()
        except (OSError, http.client.HTTPException) as error:
            said = f"lost: {error!r}"
        if said != last or said.startswith("lost"):
            sys.stdout.write(f"{number} {began:.3f} {said}\\n")
            sys.stdout.flush()
        last = said
        time.sleep(0.005)
for number in range(int(sys.argv[2])):
    threading.Thread(target=call, args=(number,)).start()
"""


@dataclasses.dataclass(frozen=True)
class Lost:
    """A call that was not answered."""

    began_at: float
    """By `time.time`."""
    why: str


class Calls:
    """Calls that are being made."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def wait_for(self, answer: str) -> None:
        """Until all threads get an answer."""

        def last() -> set[str]:
            return set({number: said for number, _, said in self._lines()}.values())

        wait_until(lambda: last() == {answer}, WITHIN_S, f"callers are not answered by {answer!r}")

    def lost(self) -> list[Lost]:
        """Those that were not answered."""
        return [Lost(began_at, said) for _, began_at, said in self._lines() if said.startswith("lost")]

    def _lines(self) -> Iterator[tuple[int, float, str]]:
        for line in self._cluster.log(self._name).splitlines():
            number, began_at, said = line.split(" ", 2)
            yield int(number), float(began_at), said


@contextlib.contextmanager
def calling(cluster: Cluster, url: str = "http://web/") -> Iterator[Calls]:
    """Calls, from when they are answered by the pod until the end of the block."""
    name = f"caller-{uuid.uuid4().hex[:8]}"
    command = ["python3", "-c", _CALLER, url, str(THREADS)]
    spec = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "call", "image": WORKLOAD_IMAGE}]}
    spec["containers"][0]["command"] = command  # type: ignore[index]
    cluster.apply({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec})
    try:
        wait_until(lambda: cluster.phase(name) == "Running", WITHIN_S, "the caller does not run")
        calls = Calls(cluster, name)
        calls.wait_for("pod")
        yield calls
    finally:
        cluster.remove("pod", name)
