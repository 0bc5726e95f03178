"""Pods that stay for several tests: those that answer on some ports, one that calls, one that keeps its connections.

The user's program is the same as that of the pods that answer: each says who it is, on which port it was called, and
from which address as it sees it.
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tests.cluster.places import WORKLOAD_IMAGE
from tests.e2e.cluster import WITHIN_S, Cluster, wait_until

SERVER = """
import http.server, socket, sys, threading
def say(line):
    sys.stdout.write(line + "\\n")  # at once: others do so meanwhile
    sys.stdout.flush()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay
    def handle(self):
        say(f"connection {self.server.server_port} {self.client_address[0]}")
        super().handle()
    def do_GET(self):
        who = f"{sys.argv[1]} {self.server.server_port} {self.client_address[0]}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(who)))
        self.end_headers()
        self.wfile.write(who)
    def log_message(self, *_):
        say(f"request {self.server.server_port} {self.client_address[0]} {self.path}")
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, *_):
        pass
for place in sys.argv[2:]:
    host, _, port = place.rpartition(":")
    Server.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    threading.Thread(target=Server((host, int(port)), Handler).serve_forever).start()
say("listening")
"""
_KEEPER = """
import http.client, sys, threading, time
def say(line):
    sys.stdout.write(line + "\\n")
    sys.stdout.flush()
def keep(place):
    try:
        connection = http.client.HTTPConnection(place, timeout=120)
        connection.connect()
        connection.auto_open = False
        while True:
            connection.request("GET", "/kept")
            say(f"{place} {connection.getresponse().read().decode().strip()}")
            time.sleep(0.1)
    except (OSError, http.client.HTTPException) as error:
        say(f"{place} lost: {error!r}")
for place in sys.argv[1:]:
    threading.Thread(target=keep, args=(place,)).start()
"""


def pod(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A pod of one container, with a label for a Service."""
    container = {"name": "app", "image": WORKLOAD_IMAGE, "command": [*command], **spec.pop("container", {})}
    metadata = {"name": name, "labels": {"app": name}}
    content = {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": content}


def server(name: str, *places: str, **spec: Any) -> dict[str, Any]:
    """A pod that answers at some addresses, `HOST:PORT`."""
    return pod(name, "python3", "-c", SERVER, "pod", *places, **spec)


def service(name: str, **ports: int) -> dict[str, Any]:
    """A Service of a pod's; `p80=8080` leads its port 80 to 8080."""
    rows = [{"name": number, "port": int(number[1:]), "targetPort": target} for number, target in ports.items()]
    spec = {"selector": {"app": name}, "ports": rows}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


@contextlib.contextmanager
def standing(cluster: Cluster, *things: dict[str, Any]) -> Iterator[None]:
    """Pods, ready, and what belongs to them, for the length of the block."""
    cluster.apply(*things)
    try:
        cluster.wait_ready(*(thing["metadata"]["name"] for thing in things if thing["kind"] == "Pod"))
        yield
    finally:
        names = [(thing["kind"].lower(), thing["metadata"]["name"]) for thing in things]
        for kind, name in names:
            cluster.remove(kind, name)
        # Others of these names may follow.
        wait_until(lambda: not any(cluster.get(*name) for name in names), WITHIN_S, f"of {names} something is left")


def address_of(cluster: Cluster, name: str) -> str:
    """A pod's."""
    return str((cluster.get("pod", name) or {})["status"]["podIP"])


class Caller:
    """A pod that calls.

    Attributes:
        address: Its own.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self.address = address_of(cluster, name)

    def ask(self, *urls: str, options: Sequence[str] = ()) -> list[str]:
        """What each URL answers; `nobody` where nobody listens."""
        script = 'for url; do curl -s -m 60 $OPTIONS "$url" || echo nobody; done'
        command = ("env", f"OPTIONS={' '.join(options)}", "sh", "-c", script, "sh", *urls)
        return self._cluster.run_in_container(self._name, *command).splitlines()


@contextlib.contextmanager
def calling_pod(cluster: Cluster) -> Iterator[Caller]:
    """A pod that calls others when it is asked to."""
    with standing(cluster, pod("caller", "sleep", "infinity")):
        yield Caller(cluster, "caller")


class Kept:
    """Connections that are kept open and used all the time.

    Attributes:
        address: Of the pod that has them.
    """

    def __init__(self, cluster: Cluster, name: str, places: Sequence[str]) -> None:
        self._cluster = cluster
        self._name = name
        self._places = {*places}
        self.address = address_of(cluster, name)

    def wait_for_answers(self) -> None:
        """Until each has been answered once more, by a request that was made meanwhile."""
        before = self._counted()

        def are_more() -> bool:
            now = self._counted()
            return all(now[place] >= before[place] + 2 for place in self._places)

        wait_until(lambda: are_more() or self._lost(), WITHIN_S, "connections that were open are not answered")
        assert not self._lost()

    def answers(self) -> set[tuple[str, str]]:
        """All that each place has answered until here."""
        return {(place, said) for place, said in self._lines()}

    def _counted(self) -> Counter[str]:
        return Counter(place for place, _ in self._lines())

    def _lost(self) -> list[str]:
        return [said for _, said in self._lines() if said.startswith("lost")]

    def _lines(self) -> Iterator[tuple[str, str]]:
        for line in self._cluster.log(self._name).splitlines():
            place, _, said = line.partition(" ")
            yield place, said


@contextlib.contextmanager
def keeping(cluster: Cluster, *places: str) -> Iterator[Kept]:
    """Connections to some `HOST:PORT`, from when each has been answered until the end of the block."""
    with standing(cluster, pod("keeper", "python3", "-c", _KEEPER, *places)):
        kept = Kept(cluster, "keeper", places)
        kept.wait_for_answers()
        yield kept


class Program:
    """The user's program.

    Attributes:
        pid: Its number.
        lines: What it and mirror have written until here.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self.lines: list[str] = []
        self._output = process.stdout
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, *wanted: str) -> None:
        """Until it has written these lines, in any order."""
        wait_until(lambda: {*wanted} <= {*self.lines}, WITHIN_S, f"{wanted} has not been written")

    def _read(self) -> None:
        assert self._output is not None
        for line in self._output:
            self.lines.append(line.strip())


@contextlib.contextmanager
def answering(cluster: Cluster, target: str, *places: str, options: Sequence[str] = ()) -> Iterator[Program]:
    """The user's program, once it listens at some `HOST:PORT`."""
    with cluster.start(target, "python3", "-c", SERVER, "user", *places, options=options) as process:
        try:
            program = Program(process)
            program.wait_for("listening")
            yield program
        finally:
            process.kill()
            wait_until(lambda: not cluster.proxies(), WITHIN_S, "the session does not end")
