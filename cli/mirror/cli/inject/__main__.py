"""The inside of Frida's process (`frida_process`): puts the hooks in, wherever it is asked to, until its starter ends.

Frida attaches with the help of nothing but memory and abstract sockets. But whenever it starts it also starts a daemon
that looks for phones, from a program of 10 MB that it writes into the folder for temporary files; and neither is
certain to be gone when Frida is. Where nothing can be written, Frida says so and does without.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any, NoReturn

import msgpack

from mirror.cli.inject.attachment import InjectFailed, inject
from mirror.cli.inject.frida_process import REQUEST
from mirror.layer import LayerMissing, library_path

NOWHERE = os.devnull
"""Below it there can be no file."""


def main() -> NoReturn:
    """Answers the requests that come by the socket which is the standard input."""
    os.environ.update(TMPDIR=NOWHERE, XDG_RUNTIME_DIR=NOWHERE)
    link = socket.socket(fileno=sys.stdin.fileno())
    while True:
        request, fds, _flags, _address = socket.recv_fds(link, REQUEST.size, 1, socket.MSG_CMSG_CLOEXEC)
        if not request:
            # Frida's threads must not hold the process. A throw-away one ends with its standard input.
            os._exit(0)
        arguments = (*REQUEST.unpack(request), socket.socket(fileno=fds[0]))
        threading.Thread(target=_answer, args=arguments, daemon=True).start()


def _answer(pid: int, asker: socket.socket) -> None:
    with asker:
        asker.sendall(msgpack.Packer().pack(_result(pid)))


def _result(pid: int) -> dict[str, Any]:
    try:
        report = inject(pid) if pid else _probe()
    except InjectFailed as error:
        return {"failed": str(error)}
    except (LayerMissing, OSError) as error:
        return {"failed": f"the layer cannot be tried out: {error}"}
    rows = report["recipe"] or []
    recipe = [(symbol, bytes(found), bytes(moved), distances) for symbol, found, moved, distances in rows]
    return {"libc": bytes(report["libc"]), "recipe": msgpack.Packer().pack(recipe) if recipe else b""}


def _probe() -> dict[str, Any]:
    environment = {"LD_PRELOAD": str(library_path()), "MIRROR_PROBE": "1"}
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", ""],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.read(1):
                raise InjectFailed("the layer cannot be loaded into a process of this machine")
            return inject(process.pid)
        finally:
            os.kill(process.pid, signal.SIGKILL)


main()
