"""Processes that have left their parents belong to the session as before."""

from __future__ import annotations

import os
import sys

import pytest

from tests.cli.conftest import Target

DAEMON = """
import os, select, sys

def fork_and_leave():
    parent = os.pidfd_open(os.getpid())
    if os.fork():
        os._exit(0)
    select.select([parent], [], [])

fork_and_leave()
os.setsid()
fork_and_leave()
if os.fork() == 0:
    user = int(sys.argv[1])
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    try:
        os.stat("/only/in/the/target")
    except OSError as error:
        print(error.strerror, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user: sudo make test")
def test_worker_of_a_daemon_that_has_dropped_its_user(target: Target) -> None:
    done = target.run(sys.executable, "-S", "-c", DAEMON, "65534")
    assert (done.stdout, done.stderr) == ("No such file or directory\n", "")
