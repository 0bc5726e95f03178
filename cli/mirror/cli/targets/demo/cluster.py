"""What surrounds the pod: a name server, services with names of their own, and a caller that never stops asking.

All of it are threads of one process outside the pod, in the network namespace at the other end of the cable.
"""

from __future__ import annotations

import collections
import http.client
import json
import os
import select
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from mirror.cli.targets.demo import network, scene

CALL_INTERVAL_S = 0.2
CALL_TIMEOUT_S = 5.0
UNASKED_S = 1.0
"""How long the name server leaves the processor to others at its start, unless it is asked."""


class _Services(BaseHTTPRequestHandler):
    """The inventory (`/items/NAME`) and the storefront (`/seen`: what the caller was answered lately)."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[collections.deque[dict[str, object]]] = collections.deque(maxlen=20)

    def do_GET(self) -> None:
        """Answers with JSON that tells who asked, as the cluster sees it."""
        caller = str(self.client_address[0]).removeprefix("::ffff:")
        if self.path == "/seen":
            self._answer(200, list(self.seen))
        elif self.path.startswith("/items/"):
            self._answer(200, {"item": self.path.removeprefix("/items/"), "in_stock": 418, "asked_by": caller})
        else:
            self._answer(404, {"error": "there are /items/NAME and /seen"})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads the sandbox's log."""


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what it gets, until the caller has said all."""

    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


class _DualStack(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4: IPV6_V6ONLY is off unless an administrator set it otherwise
    request_queue_size = 512

    def server_bind(self) -> None:
        """Binds without HTTPServer's look-up of this machine's name, which would be a question to a name server."""
        socketserver.TCPServer.server_bind(self)


class _DualStackEcho(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


def run(pod_pid: int, pod_ready: int, ready: int) -> None:
    """Connects the networks and serves. Never returns.

    Args:
        pod_pid: A descriptor from which the number of a process in the pod's network can be read.
        pod_ready: A descriptor with one byte to read once the pod listens; it ends if the pod could not.
        ready: A descriptor to write one byte to when all is up; it is closed then.
    """
    number = os.read(pod_pid, 16)
    if not number:
        return  # the process that would have started the pod has died
    network.join(int(number))
    _start_services()
    if os.read(pod_ready, 1) != b"1":
        return
    os.write(ready, b"1")
    nowhere = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for descriptor in (nowhere, pod_pid, pod_ready, ready):
        os.close(descriptor)
    _call_pod()


def _start_services() -> None:
    """Opens every listening socket, then serves from threads."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((scene.DNS, 53))
    streams = socket.create_server((scene.DNS, 53))
    serve("::")
    threading.Thread(target=_serve_names, args=(datagrams, streams), daemon=True).start()


def serve(host: str) -> None:
    """Opens the sockets of all services but names at an address, then serves from threads."""
    http_server = _DualStack((host, 80), _Services)
    echo_server = _DualStackEcho((host, scene.ECHO_PORT), _Echo)
    for server in (http_server, echo_server):
        threading.Thread(target=server.serve_forever, daemon=True).start()


def _serve_names(datagrams: socket.socket, streams: socket.socket) -> None:
    # Importing this takes as long as making the sandbox, and questions can wait in the sockets.
    select.select([datagrams, streams], [], [], UNASKED_S)
    from mirror.cli.targets.demo import names

    threading.Thread(target=names.serve_streams, args=(streams,), daemon=True).start()
    names.serve_datagrams(datagrams)


def _call_pod() -> None:
    """Asks the pod for one order after the other, from another pod's address, each over a connection of its own."""
    number = 0
    pause = threading.Event()
    while True:
        number += 1
        path = f"/orders/{number}"
        connection = http.client.HTTPConnection(
            scene.POD_ADDRESS, scene.POD_PORT, timeout=CALL_TIMEOUT_S, source_address=(scene.CALLER, 0)
        )
        try:
            connection.request("GET", path, headers={"User-Agent": "storefront"})
            response = connection.getresponse()
            outcome: dict[str, object] = {"status": response.status, "answer": response.read().decode(errors="replace")}
        except (OSError, http.client.HTTPException) as error:
            outcome = {"error": str(error) or type(error).__name__}
        finally:
            connection.close()
        _Services.seen.append({"path": path, **outcome})
        pause.wait(CALL_INTERVAL_S)
