"""What a start takes, to the end of `true`: on this machine, and in a cluster without an agent (cold), with one (warm).

Each line that `-v` writes ends a phase. The README says what is left to be gained in them.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, find, wait_until

STARTS = 5
MIRROR = (sys.executable, "-m", "mirror.cli", "exec")
APP = "start"

_LINE = re.compile(r"mirror: +([\d.]+) s  (.*)")
_PHASES = (
    ("mirror is there, has read its command line", r"target pod/"),
    ("imports of the session's proxy, kubeconfig", r"looking for "),
    ("connection to the API server, the target found", r"target is "),
    ("an agent looked for, and joined", r"joining "),
    ("an agent looked for, and its Job made", r"agent \S+ is asked for"),
    ("its pod made, and scheduled", r"waiting for node "),
    ("its container started", r"the agent's container runs"),
    ("its imports, port-forward, introduction", r"agent is there"),
    ("the target's environment", r"\d+ variables "),
)
"""What went before a line of `-v`. After the last one the program is hooked, runs and ends."""
_LAST = "the program hooked, run and ended"
_JOINED = "port-forward, introduction"
"""What is left of that phase where the agent is there already."""


def show() -> None:
    """Prints all of it, in ms."""
    show_demo()
    kubeconfig = find()
    if kubeconfig is None:
        print("start in a cluster: needs a cluster (`make cluster`)")
        return
    with _target(Cluster(kubeconfig)) as cluster:
        show_cluster(cluster)


def show_demo() -> None:
    """The best of several starts on this machine, and its phases."""
    print(f"start of `true`, ms, the best of {STARTS}")
    plain = min(_run(["/bin/true"]) for _ in range(STARTS))
    print(f"  {'without mirror':<48} {plain[0]:>6.0f}")
    total, said = min(_run([*MIRROR, "-v", "-t", "demo", "--", "/bin/true"]) for _ in range(STARTS))
    print(f"  {'mirror exec -t demo':<48} {total:>6.0f}")
    for line in said.splitlines():
        print(f"    {line}")


def show_cluster(cluster: Cluster) -> None:
    """The medians of several starts in a cluster, cold and warm, and of each of their phases."""
    cold, warm = [], []
    for _ in range(STARTS):
        cluster.wait_without_agents()
        cold.append(_phases(cluster))
        cluster.running_agent_pods()
        warm.append(_phases(cluster))
        for job in cluster.jobs():
            cluster.remove("job", job)
    print(f"start of `true` in a pod of a cluster, ms, the median of {STARTS} starts")
    _print("mirror exec -t pod/..., cold", cold)
    _print("mirror exec -t pod/..., warm", warm)


def _phases(cluster: Cluster) -> dict[str, float]:
    target = f"pod/{cluster.pod_of(APP)['metadata']['name']}"
    total, said = _run(cluster.command(target, "/bin/true", options=["-v"]), cluster.variables)
    found: dict[str, float] = {}
    before = 0.0
    for seconds, text in _LINE.findall(said):
        title = next((title for title, pattern in _PHASES if re.match(pattern, text)), None)
        if title is not None:
            at = float(seconds) * 1000
            is_warm = _PHASES[3][0] in found
            found[_JOINED if is_warm and title == _PHASES[7][0] else title] = at - before
            before = at
    return {**found, _LAST: total - before, "": total}


def _print(title: str, runs: Sequence[Mapping[str, float]]) -> None:
    print(f"  {title:<48} {statistics.median(run[''] for run in runs):>6.0f}")
    for phase in runs[0]:
        if phase:
            print(f"    {phase:<46} {statistics.median(run[phase] for run in runs if phase in run):>6.0f}")


def _run(command: Sequence[str], variables: Mapping[str, str] = os.environ) -> tuple[float, str]:
    """How long a command takes, in ms, and what it writes to its standard error."""
    begin = time.perf_counter()
    # Not at a terminal, in a folder of no meaning: as a script would start it.
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True, cwd="/", env=dict(variables))
    return (time.perf_counter() - begin) * 1000, run.stderr


@contextmanager
def _target(cluster: Cluster) -> Iterator[Cluster]:
    """A namespace with a pod in it that does nothing."""
    name, labels = cluster.namespace, {"app": APP}
    container = {"name": "app", "image": WORKLOAD_IMAGE, "command": ["sleep", "infinity"]}
    pod = {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}}
    # By a Deployment, which tries again: pods are refused until the namespace has its service account.
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    try:
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": APP}, "spec": spec})
        cluster.wait_ready(APP)
        yield cluster
    finally:
        cluster.remove("Namespace", name)
        wait_until(lambda: cluster.get("Namespace", name) is None, 2 * WITHIN_S, f"namespace {name} is left")
