"""The demo target: a pod-like sandbox that needs neither a cluster nor root.

A sandbox is two network namespaces inside one user namespace, joined by a cable (a veth pair):

    the pod                                      the rest of the cluster
    pid 1: an HTTP service on 8080        <───   a caller, asking all the time
    own root, host name, environment      ───>   DNS, services with names of their own

The pod is process 1 of its own pid namespace and shares nothing with the user's machine but the directories with
programs and libraries. Everything runs in one process outside the pod (`__main__`) and one inside it (`pod`),
which both end when the pipe to their starter closes, however the starter ended.

    sandbox      runs one: begin here
    scene        the names, addresses and files that exist in the sandbox, as tables
    namespaces   the system calls
    root         the pod's root file system
    network      interfaces, addresses and routes
    cluster      what surrounds the pod: DNS, services, the caller
    pod          the pod's own process

Not here: anything about hooks, agents or the proxy. They treat the pod as they would any other process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def command(shared: Sequence[str] = ()) -> list[str]:
    """The command line that runs a sandbox, in the environment `scene.ENVIRONMENT`.

    It prints the pod's process id when all is up, and ends when its standard input ends. If the sandbox cannot be
    made it prints one sentence on its standard error and exits with status 1.

    Args:
        shared: Absolute paths of directories that the pod is to see as they are on this machine.
    """
    return [sys.executable, "-E", "-P", "-m", __name__, *shared]
