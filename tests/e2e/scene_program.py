"""What runs in the pods of the conformance tests: `python3 scene.zip prepare|be|serve|run ARGUMENTS`.

It is the demo's own code that makes files and services there, so that the programs find the same as in a sandbox.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

from mirror.cli.targets.demo import cluster, root, scene
from tests.conformance import outcome, services


def prepare(archive: str, folder: str) -> None:
    """Makes, as root, the pod's part of the network, the folder with the programs, and what is below /data."""
    # The cluster may have no IPv6. The pod then has at least an address of its own.
    subprocess.run(["ip", "address", "add", f"{scene.INVENTORY_V6}/128", "dev", "lo", "nodad"], check=True)
    subprocess.run(["ip", "route", "add", "unreachable", scene.UNREACHABLE], check=True)
    with tarfile.open(archive) as programs:
        programs.extractall(folder)
    data = Path("/data")
    data.chmod(0o755)
    os.chown(data, scene.UID, scene.GID)
    # As the target's user, whose files they are, and one that forbidden directories do not keep out.
    user = ("setpriv", f"--reuid={scene.UID}", f"--regid={scene.GID}", "--clear-groups")
    rights = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
    subprocess.run([*user, *rights, sys.executable, sys.argv[0], "fill"], check=True)


def fill() -> None:
    """Makes what is below /data."""
    root.fill_data(Path("/data"))


def be() -> None:
    """Is the target's first process: it inherits orphans, which the kernel forgets at once."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    threading.Event().wait()


def serve(host: str) -> None:
    """Is all services at an address; they call from the pod's own address."""
    cluster.serve(host)
    services.start(host)
    threading.Event().wait()


def run(folder: str, variables: str, *command: str) -> None:
    """Runs a command as a user of the pod would; prints its output, and its status in a last line."""
    done = outcome.run(command, {**os.environ, **json.loads(variables)}, folder)
    sys.stdout.buffer.write(done.output + b"\n%d" % done.status)


if __name__ == "__main__":
    what: dict[str, Callable[..., None]] = {each.__name__: each for each in (prepare, fill, be, serve, run)}
    what[sys.argv[1]](*sys.argv[2:])
