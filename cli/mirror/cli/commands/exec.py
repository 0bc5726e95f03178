"""`mirror exec`: prepares a session, then becomes the user's program.

This process *is* the program's process: same pid, same parent, terminal, process group, descriptors, limits and
signal dispositions. It imports little, starts the proxy, waits for its word, and calls execve(2).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from typing import NoReturn

from mirror.cli import environment, handover, program
from mirror.cli.background import Proxy
from mirror.cli.errors import EXIT_CANNOT_RUN, EXIT_USAGE, MirrorError
from mirror.cli.handover import Order, Progress, Ready, Refusal
from mirror.cli.settings import Settings

_RESTORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""What Python ignores for itself (Py_InitializeFromConfig); every program expects the default."""
_ADDED = {"UV_USE_IO_URING": "0"}
"""Node's I/O library would else open files through io_uring, past every hook."""


def run(settings: Settings, command: tuple[str, ...], proxy: Proxy, report: Report) -> NoReturn:
    """Starts the session and becomes the program.

    Args:
        settings: What the session is to do.
        command: The program and its arguments.
        proxy: As started by `background.start`; it ends with this process.
        report: Where progress goes.

    Raises:
        MirrorError: The program was not started.
    """
    variables = _inherited_variables()
    _refuse_nesting(variables)
    found = program.find(command, dict(variables).get("PATH"))
    report.progress(f"program {found.path}")
    ready = _start_session(settings, found, variables, proxy, report)
    target = [pair for entry in ready.target if (pair := environment.parse_entry(os.fsencode(entry))) is not None]
    merged = environment.merge(variables, target, settings.environment_rules)
    report.done(f"{len(target)} variables in the target's environment; the program begins")
    _become(found, _with_layer(merged, ready))


def _inherited_variables() -> list[tuple[str, str]]:
    """The environment as it was given: Python may have added to `os.environ` (LC_CTYPE, by PEP 538)."""
    try:
        with open("/proc/self/environ", "rb") as file:
            return environment.parse_block(file.read())
    except OSError:  # no /proc
        return list(os.environ.items())


def _refuse_nesting(variables: environment.Variables) -> None:
    if any(name == "MIRROR_SOCKET" for name, _ in variables):
        raise MirrorError(
            "this already runs under `mirror exec`, and one program cannot seem to be in two places; run the command "
            "without mirror, or from another terminal",
            EXIT_USAGE,
        )


def _start_session(
    settings: Settings, found: program.Program, variables: environment.Variables, proxy: Proxy, report: Report
) -> Ready:
    order = Order(
        settings=settings,
        pid=os.getpid(),
        files=found.files,
        argv=found.argv,
        working_directory=_working_directory(),
        variables=dict(variables),
        console=_identify_console(),
    )
    try:
        proxy.link.sendall(handover.encode(order))
        with proxy.link.makefile("rb") as lines:
            for line in lines:
                match handover.decode(line):
                    case Progress(text, is_warning):
                        (report.warn if is_warning else report.progress)(text)
                    case Ready() as ready:
                        return ready
                    case Refusal(sentence, exit_status):
                        raise MirrorError(sentence, exit_status)
    except ConnectionError:
        pass
    raise MirrorError(
        f"the session's proxy ended while it was starting ({proxy.last_words() or 'without a word'}); try again, and "
        f"please report it if it stays so"
    )


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:  # it has been removed
        return "/"


def _identify_console() -> tuple[int, int, int] | None:
    try:
        state = os.fstat(2)
    except OSError:  # closed, as by `2>&-`
        return None
    return state.st_dev, state.st_ino, state.st_rdev


def _with_layer(variables: environment.Variables, ready: Ready) -> list[bytes]:
    """Adds what the layer needs; the user's own preloaded libraries stay, after it."""
    added = {**_ADDED, **ready.session}
    kept = [(name, value) for name, value in variables if name not in added and name != "LD_PRELOAD"]
    preloaded = [ready.library, *(value for name, value in variables if name == "LD_PRELOAD" and value)]
    return environment.format_block([*kept, *added.items(), ("LD_PRELOAD", ":".join(preloaded))])


def _become(found: program.Program, variables: list[bytes]) -> NoReturn:
    for number in _RESTORED:
        signal.signal(number, signal.SIG_DFL)
    block = dict(entry.split(b"=", 1) for entry in variables)
    try:
        os.execve(found.path, found.argv, block)
    except OSError as error:
        sentence = f"{found.argv[0]}: {error.strerror}"
        if error.errno == errno.E2BIG:  # execve(2): a quarter of the stack's limit
            sentence += ", with your variables and the target's; leave some out with --env-exclude"
        raise MirrorError(sentence, EXIT_CANNOT_RUN) from None


class Report:
    """What the user sees while the session starts, on standard error, and never anything on standard output.

    On a terminal one line that is overwritten and in the end removed; with `-v` a line for each step; elsewhere
    only warnings.

    Args:
        verbose: As for `-v`.
        began_at: When this process began, by `time.monotonic`.
    """

    def __init__(self, *, verbose: bool, began_at: float) -> None:
        self._verbose = verbose
        self._began_at = began_at
        self._is_terminal = not verbose and _is_terminal(2) and os.environ.get("TERM", "dumb") != "dumb"

    def progress(self, text: str) -> None:
        """One step."""
        if self._verbose:
            self._write(f"mirror: {time.monotonic() - self._began_at:6.3f} s  {text}\n")
        elif self._is_terminal:
            self._write(f"\r\x1b[Kmirror: {text} ...")

    def done(self, text: str) -> None:
        """The last step."""
        if self._verbose:
            self.progress(text)
        self.clear()

    def warn(self, sentence: str) -> None:
        """Something that the user must read."""
        self.clear()
        self._write(f"mirror: {sentence}\n")

    def clear(self) -> None:
        """Removes the line that is being overwritten."""
        if self._is_terminal:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError):  # standard error is closed or full: nobody reads it
            os.write(2, text.encode(errors="surrogateescape"))


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False
