"""Services beside the demo's own, around the target, for programs that test connections.

Run as a program in the sandbox's cluster network, with the address from which connections are to come; prints one line
when all of them listen and ends when its standard input does. The C programs' header names the ports.
"""

from __future__ import annotations

import hashlib
import os
import socket
import socketserver
import struct
import sys
import threading


def numeric(address: tuple[object, ...]) -> str:
    """`address port N` of a peer, IPv4 even where the socket is of both kinds."""
    return f"{str(address[0]).removeprefix('::ffff:')} port {address[1]}"


class Dialer(socketserver.StreamRequestHandler):
    """Asked for `ADDRESS PORT SOURCE_PORT`, connects there from the caller's address, and reports the answer."""

    caller_address = ""

    def handle(self) -> None:
        address, port, source_port = self.rfile.readline().decode().split()
        try:
            self.wfile.write(self.call(address, int(port), int(source_port)))
        except OSError as error:
            self.wfile.write(f"{type(error).__name__}\n".encode())

    def call(self, address: str, port: int, source_port: int) -> bytes:
        with socket.socket() as caller:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            caller.bind((self.caller_address, source_port))
            caller.settimeout(60)
            caller.connect((address, port))
            caller.sendall(f"question from {source_port}\n".encode())
            # The program closes first, so that this source port is free again at once.
            with caller.makefile("rb") as answer:
                return answer.read()


class Who(socketserver.BaseRequestHandler):
    """Says who has connected, as this side sees it."""

    def handle(self) -> None:
        self.request.sendall(f"{numeric(self.client_address)}\n".encode())


class Reset(socketserver.BaseRequestHandler):
    """Reads one byte, then resets."""

    def handle(self) -> None:
        self.request.recv(1)
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()


class Digest(socketserver.BaseRequestHandler):
    """Reads until the caller has said all, then tells how much it was and what."""

    def handle(self) -> None:
        digest, size = hashlib.sha256(), 0
        while data := self.request.recv(65536):
            digest.update(data)
            size += len(data)
        self.request.sendall(f"{size} bytes {digest.hexdigest()}\n".encode())


class Flood(socketserver.BaseRequestHandler):
    """Sends three million bytes."""

    def handle(self) -> None:
        block = bytes(number * 17 % 253 for number in range(30_000))
        for _ in range(100):
            self.request.sendall(block)


class Silent(socketserver.BaseRequestHandler):
    """Says nothing, until the caller is gone."""

    def handle(self) -> None:
        while self.request.recv(65536):
            pass


class Server(socketserver.ThreadingTCPServer):
    """Listens for IPv4 and IPv6."""

    address_family = socket.AF_INET6
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers that go away early are a part of the tests."""


def start(host: str = "::") -> None:
    """Listens at an address, for all of them, and serves in threads."""
    handlers = (Dialer, Who, Reset, Digest, Flood, Silent)
    for port, handler in enumerate(handlers, start=7001):
        threading.Thread(target=Server((host, port), handler).serve_forever, daemon=True).start()


def main() -> None:
    Dialer.caller_address = sys.argv[1]
    start()
    print("ready", flush=True)
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    main()
