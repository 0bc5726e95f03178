"""The two sides of a conformance test: a program inside the target, and under `mirror exec` outside of it.

Both run in the same folder, which is there on both sides, with the same environment as far as that is the user's own.
What a target is, and what inside means, is said elsewhere: `sandbox` for the demo's, `tests/e2e/scene` for pods.
"""

from __future__ import annotations

import os
import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.conformance.outcome import Outcome, run

_MIRROR = (sys.executable, "-c", "import sys; from mirror.cli.main import main; sys.exit(main())")


class Sides(ABC):
    """A target with the programs in it.

    Attributes:
        target: The options of `mirror exec` that name it.
        folder: Where the programs are, on both sides.
        python: The interpreter of those in Python, on both sides.
        user_environment: The variables that a user has, on both sides. `SCENE_...` tell the programs what is not
            called the same in all targets: the addresses of the pod and of two services, and the pod's namespace.
    """

    def __init__(self, target: Sequence[str], folder: Path, python: str, scene: Mapping[str, str]) -> None:
        self.target = target
        self.folder = folder
        self.python = python
        self.user_environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PWD": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "UV_USE_IO_URING": "0",
            **{f"SCENE_{name}": value for name, value in scene.items()},
        }

    @abstractmethod
    def inside(self, command: Sequence[str]) -> Outcome:
        """Runs a command in the target."""

    def outside(self, command: Sequence[str], options: Sequence[str] = (), **extra: str) -> Outcome:
        """Runs a command under `mirror exec`, until nothing is left of that what runs next could notice.

        Args:
            command: The program and its arguments.
            options: Further options of `mirror exec`.
            extra: Further environment variables.
        """
        mirror = (*_MIRROR, "exec", *self.target, *options, "--")
        return run([*mirror, *command], {**self.user_environment, **extra}, str(self.folder))


def in_turn(commands: Mapping[str, Sequence[str]]) -> list[str]:
    """One command that runs several, each after a line with its name, and shows how each ended."""
    script = "".join(
        f"echo '== {name}'\n{shlex.join(command)}\necho \"== ended with $?\"\n" for name, command in commands.items()
    )
    return ["/bin/sh", "-c", script]
