"""What a killed command leaves to those that come after it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.commands import locked
from tests.cluster.places import ROOT

HOLDER = """
import sys
from pathlib import Path
from tests.cluster.commands import locked, run
with locked(Path(sys.argv[1])):
    run(["sh", "-c", "sleep 1000 & echo $!; wait"], log=Path(sys.argv[2]))
"""


def test_a_lock_is_free_only_when_the_last_program_has_ended(tmp_path: Path) -> None:
    lock, log = tmp_path / "lock", tmp_path / "log"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock), str(log)], cwd=ROOT) as holder:
        while not log.exists() or not log.read_text():
            assert holder.poll() is None, "it has ended already"
        holder.kill()
    program = int(log.read_text())
    try:
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.kill(program, signal.SIGKILL)
    with locked(lock):
        pass
