"""Shows mirror at work: `python -m mirror.cli.tour`.

Runs `app` twice under `mirror exec -t demo`, first with the pod's requests mirrored, then stolen. Each line that the
app prints begins with a word (`environment:`, `file:`, ...) that says which step it belongs to; the step's explanation
follows. Ends with status 0 when everything was seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

APP = Path(__file__).with_name("app.py")
PATIENCE_S = 20.0
"""For each of the two runs."""

INTRODUCTION = """\
mirror runs a program here as if it ran inside a pod. The pod of this demo is a sandbox of Linux namespaces on this
machine: no cluster, no root. The program is an ordinary web app that knows nothing of mirror:
{app}
"""


@dataclass(frozen=True)
class Run:
    """One run of the app.

    Attributes:
        title: What it shows.
        options: What `mirror exec` is told.
        explanations: For the first word of a line of the app, what to say about it.
    """

    title: str
    options: tuple[str, ...]
    explanations: dict[str, str]


RUNS = (
    Run(
        "1. The pod's environment, files, names and network; its requests are mirrored",
        ("--mirror",),
        {
            "environment": "That variable is set in the pod only. Yours: run any program under mirror exec.",
            "file": "That file is in the pod only. Yours: open any path of your pod.",
            "call": "That name resolves in the pod only, and the service saw the pod's address. Yours: connect as in "
            "the pod.",
            "serving": "From here on the app gets a copy of each request to the pod. Yours: listen on the pod's port.",
            "customer": "That is what the caller was answered: by the pod. The app's own answers were dropped.",
        },
    ),
    Run(
        "2. The same app answers the pod's requests: they are stolen",
        ("--steal",),
        {
            "serving": "From here on each request to the pod comes to the app instead. Yours: --steal.",
            "customer": "That is what the caller was answered: by the app. When it ends the pod answers again.",
        },
    ),
)


def main() -> int:
    """Runs the tour and gives the exit status."""
    print(INTRODUCTION.format(app=f"  {APP}"), flush=True)
    for run in RUNS:
        status = show(run)
        if status != 0:
            return status
    print(f"Now yours: {shown_command()} exec -t demo -- COMMAND", flush=True)
    return 0


def shown_command() -> str:
    """How a user calls mirror from where they are."""
    beside = Path(sys.executable).with_name("mirror")
    return os.path.relpath(beside) if beside.exists() else "mirror"


def show(run: Run) -> int:
    """Runs the app once, prints its lines and what they mean, and gives 0 or the exit status of what failed."""
    print(bold(run.title))
    print(f"   $ {shown_command()} exec -t demo {' '.join(run.options)} -- python3 app.py", flush=True)
    command = [sys.executable, "-m", "mirror.cli", "exec", "-t", "demo", *run.options, "--", sys.executable, str(APP)]
    app = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert app.stdout is not None
    late = threading.Timer(PATIENCE_S, app.kill)
    late.start()
    missing = dict(run.explanations)
    try:
        for line in app.stdout:
            word = line.partition(":")[0]
            print(f"   app | {line}", end="")
            if word in missing:
                print(f"       ^ {missing.pop(word)}", flush=True)
            if not missing:
                app.send_signal(signal.SIGINT)
                break
        app.stdout.read()
        status = app.wait()
    finally:
        late.cancel()
        app.kill()
        app.wait()
    print()
    if not missing:
        return 0
    print(f"The demo ended early: nothing was seen of {', '.join(missing)}.", file=sys.stderr)
    return status if status > 0 else 1


def bold(text: str) -> str:
    """The text, emphasised where a terminal shows it."""
    return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else text


if __name__ == "__main__":
    sys.exit(main())
