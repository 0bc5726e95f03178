"""Runs a demo sandbox for as long as it is needed: a process that ends when the pipe to it closes.

What that process does is told in the package's description. Importing this module imports nothing of it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from mirror.cli.errors import TargetError
from mirror.cli.targets.demo import command, scene

_END_WITHIN_S = 0.5


class Sandbox:
    """A running sandbox.

    Attributes:
        pid: Of the pod's first process, as seen from here.
    """

    def __init__(self, shared: Sequence[str] = ()) -> None:
        """Starts one, and waits until all is up.

        Args:
            shared: Absolute paths of directories that the pod is to see as they are on this machine.

        Raises:
            TargetError: This machine does not let its users make such sandboxes; the sentence says how to allow it.
        """
        self._process = subprocess.Popen(
            command(shared),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=scene.ENVIRONMENT,
            cwd="/",
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        with self._process.stdout as output, self._process.stderr as errors:
            pid = output.readline()
            if not pid:
                sentence = errors.read().strip()
                self.close()
                raise TargetError(sentence or "the demo pod ended at its start")
        self.pid = int(pid)

    def close(self) -> None:
        """Ends it and waits until nothing is left; it would end by itself with this process, however that ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # and the kernel with it the rest
            self._process.wait()
