"""The console script `mirror`: what must happen before the command line can be understood, and how it all ends.

Whatever fails is one sentence on standard error and an exit status of `errors`, never a traceback. The options are
in `commands.line`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import NoReturn

from mirror.cli import background
from mirror.cli.errors import MirrorError


def main() -> NoReturn:
    """Runs the command line of this process, and ends it unless it has become the user's program."""
    began_at = time.monotonic()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends this process as it ends `cat`; the proxy sees that, and ends too. The program gets the default.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        # Before click is imported, so that the proxy's own imports run meanwhile.
        proxy = _start_proxy() if _is_exec(sys.argv[1:]) else None
        from mirror.cli.commands import line

        status = line.run(sys.argv[1:], proxy, began_at)
    except MirrorError as error:
        status = error.exit_status
        _tell(f"mirror: {error.sentence}\n")
    sys.exit(status)


def _is_exec(arguments: list[str]) -> bool:
    """Whether a session will be asked for. A wrong guess costs a process that ends at once."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return arguments[:1] == ["exec"] and len(arguments) > 1 and "--help" not in options


def _start_proxy() -> background.Proxy:
    try:
        return background.start()
    except OSError as error:
        raise MirrorError(f"the session's proxy cannot be started: {error.strerror}; free some and try again") from None


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):  # standard error is closed: nobody reads it
        os.write(2, text.encode(errors="surrogateescape"))
