"""What breaks comes back: connections, agents, pods. Only what was under way is lost, and nothing stays.

Connections break in a relay of the test's own between `mirror` and the API server; the server itself is killed once.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirror.cli.cluster.api import Api
from tests.e2e import workloads
from tests.e2e.calls import Calls, calling
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.relay import Relay, relay_to
from tests.e2e.test_replicas import answers
from tests.e2e.workloads import PORT

LOST_WITHIN_S = 1.0
"""By the promise: what begins later than so long after something was killed is not lost."""

PROGRAM = f"""
import http.server, socket, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"user\\n")
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100
    def handle_error(self, *_):
        pass
threading.Thread(target=Server(("", {PORT}), Handler).serve_forever, daemon=True).start()
def connect(host, port):
    global made
    made = socket.create_connection((host, port))
    return "connected"
def read(path):
    with open(path) as file:
        return file.read()
print("begun", flush=True)
for line in sys.stdin:
    try:
        print(eval(line), flush=True)
    except OSError as error:
        print(type(error).__name__, error.errno, flush=True)
"""
ORDERS = 'read("/app/config/orders.ini").split()[0]'
NAME = 'socket.gethostbyname("web") and "found"'
CONNECT = 'connect("web", 80)'
HOST_NAME = 'read("/etc/hostname").strip()'


class Program:
    """A program under `mirror exec` that does what it is asked.

    Attributes:
        told: What mirror has said since it began.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.told: list[str] = []
        self._said: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, expression: str) -> str:
        """What it says of a Python expression."""
        self.begin(expression)
        return self.hear()

    def begin(self, expression: str) -> None:
        """Asks, without waiting for what it says."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{expression}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        """What it says next."""
        return self._said.get(timeout=WITHIN_S)

    def wait_told(self, *beginnings: str) -> None:
        """Until mirror has said sentences with these beginnings, in this order, and nothing else."""

        def is_told() -> bool:
            return len(self.told) >= len(beginnings)

        wait_until(is_told, WITHIN_S, f"not told: {beginnings}")
        assert len(self.told) == len(beginnings), self.told
        for sentence, beginning in zip(self.told, beginnings, strict=True):
            assert sentence.startswith(beginning), self.told
        self.told.clear()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("mirror: "):
                self.told.append(line.removeprefix("mirror: ").strip())
            else:
                self._said.put(line.strip())
        self._said.put("it has ended")


Begin = Callable[..., Program]
LOST = "there is no connection to the agent of deployment/web ("
BACK = "there is a connection to the agent of deployment/web again"


@pytest.fixture
def relay(cluster: Cluster) -> Iterator[Relay]:
    made = relay_to(cluster.kubeconfig)
    yield made
    made.close()


@pytest.fixture
def begin(alone: Cluster, relay: Relay, tmp_path: Path) -> Iterator[Begin]:
    """Starts the program, by way of the relay, and waits until it listens. Afterwards no rule is left."""
    variables = {**alone.variables, "KUBECONFIG": str(relay.kubeconfig(alone.kubeconfig, tmp_path))}
    with contextlib.ExitStack() as stack:

        def start(*options: str, target: str = "deployment/web") -> Program:
            command = ("python3", "-u", "-c", PROGRAM)
            process = alone.start(target, *command, options=options, env=variables, stdin=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            program = Program(process)
            assert program.hear() == "begun", program.told
            return program

        yield start
    alone.wait_without_agents()
    assert alone.rules() == []


@pytest.fixture
def calls(begin: Begin, alone: Cluster) -> Iterator[Calls]:
    """Somebody calls the Service all the time."""
    with calling(alone) as made:
        yield made


def test_a_connection_that_is_cut(begin: Begin, alone: Cluster, relay: Relay) -> None:
    program = begin("--steal")
    assert alone.rules()
    for _ in range(2):
        assert program.ask(CONNECT) == "connected"
        relay.cut()
        assert program.ask("made.recv(1)") == "ConnectionResetError 104"
        program.wait_told(LOST, BACK)
        assert program.ask(ORDERS) == "[orders]"
        assert program.ask(NAME) == "found"
        assert program.ask(CONNECT) == "connected"
    assert len(alone.jobs()) == 1
    # The second one's port is its own, though the first connection may not be known to be dead.
    assert answers(alone, [alone.pod_of("web")["status"]["podIP"]]) == ["user"]


@pytest.mark.parametrize("question", [ORDERS, NAME, CONNECT])
def test_requests_wait_for_the_api_server(begin: Begin, relay: Relay, question: str) -> None:
    expected = {ORDERS: "[orders]", NAME: "found", CONNECT: "connected"}[question]
    program = begin("--no-incoming")
    with relay.refusing():
        program.wait_told(LOST)
        program.begin(question)
        program.wait_told("there is still no connection: the API server")
    assert program.hear() == expected


def test_requests_that_wait_too_long_fail(begin: Begin, relay: Relay) -> None:
    program = begin("--no-incoming", "--reconnect-timeout", "1")
    with relay.refusing():
        program.wait_told(LOST)
        assert program.ask(ORDERS) == "OSError 5"
        assert program.ask(CONNECT.replace("web", "10.96.0.1")) == "OSError 100"
        assert program.ask(NAME) == "OSError 5"
    wait_until(lambda: program.told and program.told[-1] == BACK, WITHIN_S, "the connection does not come back")
    assert [program.ask(question) for question in (ORDERS, NAME, CONNECT)] == ["[orders]", "found", "connected"]


def test_another_network(begin: Begin, alone: Cluster, relay: Relay) -> None:
    """Only silence shows it, to either side: the agent may believe in the former connection, which has the port."""
    program = begin("--steal", "--reconnect-timeout", "20")  # less than an answer of the API server may take
    relay.silence()
    program.begin(ORDERS)
    program.wait_told(LOST, BACK)
    assert program.hear() == "[orders]"
    assert answers(alone, [alone.pod_of("web")["status"]["podIP"]]) == ["user"]
    assert program.told == []


def test_the_pod_answers_while_there_is_no_connection(begin: Begin, calls: Calls, relay: Relay) -> None:
    program = begin("--steal")
    calls.wait_for("user")
    with relay.refusing():
        calls.wait_for("pod")
        lost = len(calls.lost())
    calls.wait_for("user")
    assert program.ask(ORDERS) == "[orders]"
    assert len(calls.lost()) == lost


def test_the_api_server_is_killed(begin: Begin, alone: Cluster, calls: Calls) -> None:
    program = begin("--steal")
    calls.wait_for("user")
    killed_at = alone.kill("kube-apiserver")
    wait_until(lambda: BACK in program.told, WITHIN_S, "the connection does not come back")
    calls.wait_for("user")
    assert program.ask(ORDERS) == "[orders]"
    assert [lost for lost in calls.lost() if lost.began_at > killed_at + LOST_WITHIN_S] == []


def test_an_agent_is_killed(begin: Begin, alone: Cluster, calls: Calls) -> None:
    program = begin("--steal")
    calls.wait_for("user")
    killed_at = alone.kill_agents()
    program.wait_told(LOST, BACK)
    calls.wait_for("user")
    assert program.ask(ORDERS) == "[orders]"
    assert [lost for lost in calls.lost() if lost.began_at > killed_at + LOST_WITHIN_S] == []


def test_an_agent_hangs(begin: Begin, alone: Cluster) -> None:
    """Its rules lose their effect; the session removes it and goes on with another."""
    program = begin("--steal", "--reconnect-timeout", str(WITHIN_S))
    web = [alone.pod_of("web")["status"]["podIP"]]
    assert answers(alone, web) == ["user"]
    (hung,) = alone.objects("job", alone.agents)
    (proxy,) = alone.proxies()
    os.kill(proxy, signal.SIGSTOP)  # so that there is not another one at once
    try:
        alone.signal_agents(signal.SIGSTOP)
        # What calls before the rules have expired waits for the agent.
        has_effect = "the rules of an agent that hangs have effect"
        wait_until(lambda: answers(alone, web, patience_s=5) == ["pod"], WITHIN_S, has_effect)
    finally:
        os.kill(proxy, signal.SIGCONT)
    assert program.ask(ORDERS) == "[orders]"
    wait_until(lambda: BACK in program.told, WITHIN_S, "the connection does not come back")
    # The port is stolen again a little after that.
    wait_until(lambda: answers(alone, web) == ["user"], WITHIN_S, "callers are answered by the pod")
    (job,) = alone.objects("job", alone.agents)
    assert job["metadata"]["uid"] != hung["metadata"]["uid"]


def test_a_client_falls_silent(begin: Begin, alone: Cluster, relay: Relay) -> None:
    """Nothing tells the agent but that it hears nothing: the pod has its port back, and the agent does not stay."""
    program = begin("--steal")
    web = [alone.pod_of("web")["status"]["podIP"]]
    assert answers(alone, web) == ["user"]
    relay.mute()
    wait_until(lambda: answers(alone, web) == ["pod"], WITHIN_S, "callers are not answered by the pod")
    alone.wait_without_agents()
    assert alone.rules() == []
    assert program.process.poll() is None


def test_a_proxy_is_killed(begin: Begin, alone: Cluster, calls: Calls) -> None:
    program = begin("--steal")
    calls.wait_for("user")
    (proxy,) = alone.proxies()
    os.kill(proxy, signal.SIGKILL)
    killed_at = time.time()
    calls.wait_for("pod")
    assert [lost for lost in calls.lost() if lost.began_at > killed_at + LOST_WITHIN_S] == []
    assert program.ask("1 + 1") == "2"


def delete(cluster: Cluster, pod: str) -> None:
    cluster.remove("pod", pod)


def evict(cluster: Cluster, pod: str) -> None:
    path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"

    async def ask(api: Api) -> None:
        version = int(re.sub(r"\D", "", (await api.get("/version"))["minor"]))
        kind = {"apiVersion": "policy/v1" if version >= 22 else "policy/v1beta1", "kind": "Eviction"}
        await api.create(path, {**kind, "metadata": {"name": pod}})

    cluster.ask(ask)


def roll_out(cluster: Cluster, _: str) -> None:
    path = f"/apis/apps/v1/namespaces/{cluster.namespace}/deployments/web"
    change = {"spec": {"template": {"metadata": {"annotations": {"mirror-e2e/release": "next"}}}}}
    cluster.ask(lambda api: api.patch(path, change))


@pytest.mark.parametrize("replace", [delete, evict, roll_out])
def test_a_pod_is_replaced(begin: Begin, alone: Cluster, calls: Calls, replace: Callable[[Cluster, str], None]) -> None:
    program = begin("--steal")
    calls.wait_for("user")
    old = alone.pod_of("web")["metadata"]["name"]
    replace(alone, old)
    program.wait_told(f"pod {old} is being removed: the session goes on in pod web-")
    new = program.ask(HOST_NAME)
    assert new != old
    assert (alone.get("pod", new) or {})["metadata"]["labels"]["app"] == "web"
    calls.wait_for("user")


def test_a_pod_is_replaced_that_has_the_agent_in_it(begin: Begin, alone: Cluster) -> None:
    program = begin("--ephemeral", "--no-incoming")
    old = alone.pod_of("web")["metadata"]["name"]
    alone.remove("pod", old)
    moved = f"pod {old} is being removed: the session goes on in pod web-"
    wait_until(lambda: any(told.startswith(moved) for told in program.told), WITHIN_S, "the session does not go on")
    new = alone.pod_of("web")["metadata"]["name"]
    assert program.ask(HOST_NAME) == new != old
    assert program.ask(NAME) == "found"


def test_a_container_is_replaced(begin: Begin, alone: Cluster, calls: Calls) -> None:
    """The next one has the same network, in which the old agent still is."""
    program = begin("--steal")
    calls.wait_for("user")
    assert program.ask(CONNECT) == "connected"
    pod = alone.pod_of("web")["metadata"]["name"]
    alone.kill_containers("web")
    assert program.ask("made.recv(1)") == "ConnectionResetError 104"
    wait_until(
        lambda: f"container app of pod {pod} has ended: the session goes on in pod {pod}" in program.told,
        WITHIN_S,
        "the session does not go on",
    )
    assert program.ask(ORDERS) == "[orders]"
    calls.wait_for("user")


@pytest.fixture
def many(begin: Begin, alone: Cluster) -> Iterator[None]:
    """The Deployment `many`, of two pods."""
    alone.apply(workloads.many(2))
    alone.wait_ready("many", count=2)
    yield
    alone.remove("deployment", "many")


def addresses(cluster: Cluster) -> list[str]:
    return [pod["status"]["podIP"] for pod in cluster.ready_pods("many")]


def test_replicas_come_and_go(begin: Begin, alone: Cluster, many: None) -> None:
    program = begin("--steal", target="deployment/many")
    assert len(alone.jobs()) == 2
    alone.scale("many", 3)
    wait_until(lambda: answers(alone, addresses(alone)) == ["user"] * 3, WITHIN_S, "the third does not join")
    alone.scale("many", 1)
    wait_until(lambda: len(alone.jobs()) == 1, WITHIN_S, "those that went have left agents")
    # Which pods go is the cluster's choice: the session may have had to move.
    wait_until(lambda: answers(alone, addresses(alone)) == ["user"], WITHIN_S, "the last one is not stolen")
    assert program.ask("1 + 1") == "2"


def test_an_agent_of_a_replica_is_killed(begin: Begin, alone: Cluster, many: None) -> None:
    program = begin("--steal", target="deployment/many")
    alone.kill_agents()
    wait_until(lambda: len([told for told in program.told if "again" in told]) == 2, WITHIN_S, "not all are back")
    wait_until(lambda: answers(alone, addresses(alone)) == ["user"] * 2, WITHIN_S, "not all are stolen")


def test_one_replica_is_followed_alone(begin: Begin, alone: Cluster, many: None) -> None:
    begin("--steal", "--replicas", "one", target="deployment/many")
    alone.scale("many", 3)
    alone.wait_ready("many", count=3)
    assert answers(alone, addresses(alone)) == ["pod", "pod", "user"]
    assert len(alone.jobs()) == 1
