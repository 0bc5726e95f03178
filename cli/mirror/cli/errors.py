"""How mirror fails: one sentence for the user, with a remedy, and an exit status that scripts can tell apart.

The statuses are those of env(1), nohup(1) and timeout(1), so that they are not taken for the program's own.
"""

from __future__ import annotations

EXIT_USAGE = 2
"""The command line or the configuration file is wrong."""
EXIT_FAILED = 125
"""Mirror itself failed: no target, no agent, no hooks. The program was not started."""
EXIT_CANNOT_RUN = 126
"""The program exists, but cannot be run, or cannot be hooked. It was not started."""
EXIT_NOT_FOUND = 127
"""There is no such program."""


class MirrorError(Exception):
    """Something the user must know, said in one sentence with a remedy.

    Attributes:
        sentence: Without the leading `mirror: `; one line.
        exit_status: What the command ends with.
        is_passing: Whether the same may succeed a little later, with nothing done about it.
    """

    is_passing = False

    def __init__(self, sentence: str, exit_status: int = EXIT_FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_status = exit_status


class TargetError(MirrorError):
    """There is no such target, it may not be entered, or it could not be set up."""
