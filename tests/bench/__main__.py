"""Prints what things cost: `make bench`. Nothing here fails for being slow; the counts are asserted by tests.

Times are of this machine and this moment: compare those that stand side by side.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.bench import roundtrips, start, tunnel
from tests.conformance.sandbox import sandbox
from tests.conformance.sides import Sides

CHILDREN = 20
ROUNDS = 5


def main() -> None:
    """Runs every benchmark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with sandbox(folder) as sides:
            show_round_trips(sides)
            show_local_calls(sides)
            show_children(sides)
    start.show()
    tunnel.show()


def show_round_trips(sides: Sides) -> None:
    """The counts that the network's delay multiplies."""
    print("round trips to the agent: the first time, a second time within the lease")
    program = str(roundtrips.operations(sides.folder))
    for title, (operation, once, twice) in roundtrips.OPERATIONS.items():
        first = roundtrips.count(sides, [program, operation, str(once)]).total()
        both = roundtrips.count(sides, [program, operation, str(twice)]).total()
        print(f"  {title:<48} {first:>3} {both - first if twice > once else '':>3}")


def show_local_calls(sides: Sides) -> None:
    """What a hook costs a call that has nothing to do with the target."""
    print("a call on a local file, ns: without mirror, with, the difference")
    program = str(roundtrips.operations(sides.folder))
    command = [program, "local", "/usr/bin/env"]
    plain = subprocess.run(command, capture_output=True, check=True).stdout.split()
    hooked = sides.outside(command, ["--no-incoming"]).output.split()
    for call, before, after in zip(("open", "close", "stat"), plain, hooked, strict=True):
        print(f"  {call:<48} {int(before):>6} {int(after):>6} {int(after) - int(before):>6}")


def show_children(sides: Sides) -> None:
    """What each program costs that a hooked program starts."""
    print(f"a child that does nothing (/bin/true), ms, the best of {ROUNDS} times {CHILDREN}: without mirror, with")
    command = [str(roundtrips.operations(sides.folder)), "children", str(CHILDREN)]
    plain = min(float(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(ROUNDS))
    hooked = min(float(sides.outside(command, ["--no-incoming"]).output) for _ in range(ROUNDS))
    print(f"  {'fork, exec, wait':<48} {plain:>6} {hooked:>6}")


if __name__ == "__main__":
    main()
