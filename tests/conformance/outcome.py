"""What becomes of one program: it is run with a given environment and folder, on this machine or in a pod.

Nothing of mirror's and only the standard library: the tests in a cluster take this file into a pod.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIMEOUT_S = 300.0
"""For one session with all ways of one program, on a busy machine."""


@dataclass(frozen=True)
class Outcome:
    """What a program printed (standard output and error together), and its exit status or minus its signal."""

    output: bytes
    status: int

    def __str__(self) -> str:
        return f"{self.output.decode(errors='backslashreplace')}(status {self.status})\n"


def run(command: Sequence[str], environment: Mapping[str, str], folder: str) -> Outcome:
    """Runs a program to its end, in a session of its own, without a terminal and with nothing to read."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Outcome(output + b"\n(killed: it took too long)\n", process.returncode)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Outcome(output, process.returncode)
