"""The pod's own process: process 1 in its namespaces, an ordinary HTTP service that answers for orders."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from mirror.cli.targets.demo import root, scene
from mirror.cli.targets.demo.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWUTS,
    drop_capabilities,
    set_host_name,
    unshare,
)


class _Orders(BaseHTTPRequestHandler):
    """Answers every path with the name of the server, the path and the caller's address, as this process sees it."""

    protocol_version = "HTTP/1.1"
    server_version = "orders"
    sys_version = ""

    def do_GET(self) -> None:
        """One line of text."""
        body = f"{scene.HOST_NAME} answers {self.path} for {self.client_address[0]}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads the sandbox's log."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 512

    def server_bind(self) -> None:
        """Binds without HTTPServer's look-up of this machine's name, which would be a question to a name server."""
        TCPServer.server_bind(self)


def run(shared: Sequence[str], ready: int) -> None:
    """Becomes the pod. Never returns.

    Args:
        shared: Directories of this machine that the pod sees.
        ready: A descriptor to write one byte to when the service listens.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # process 1 inherits orphans: the kernel forgets them at once
    unshare(CLONE_NEWUTS | CLONE_NEWIPC)
    set_host_name(scene.HOST_NAME)
    root.enter(shared)
    drop_capabilities()
    server = _Server(("", scene.POD_PORT), _Orders)  # before anybody calls
    os.write(ready, b"1")
    nowhere = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    for number in (nowhere, ready):
        os.close(number)
    server.serve_forever()
