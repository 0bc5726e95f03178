"""Runs one sandbox: `python -m mirror.cli.targets.demo [DIRECTORY...]`.

Prints the pod's process id when all is up and runs until its standard input ends, or it is killed; then nothing is
left of the sandbox. The directories are seen inside at the same paths. Where no sandbox can be made it says why, in
one sentence, and ends with status 1.

Three processes: this one waits, a child of it is the cluster, and another is the pod's first. The kernel ends the
children when this one ends, however it does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from mirror.cli.targets.demo import command, namespaces, scene


def main(shared: list[str]) -> int:
    """Runs the sandbox and gives the exit status."""
    if dict(os.environ) != scene.ENVIRONMENT:
        # /proc/PID/environ shows the environment with which a program was started, and the pod is forked from here.
        arguments = command(shared)
        os.execve(arguments[0], arguments, scene.ENVIRONMENT)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    try:
        pod_pid, ready = _start(shared)
    except OSError as error:
        print(namespaces.explain(error), file=sys.stderr)
        return 1
    if os.read(ready, 1) != b"1":
        return 1  # a child has said why
    print(pod_pid, flush=True)
    nowhere = os.open("/dev/null", os.O_RDWR)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    while os.read(0, 4096):
        pass
    os.kill(pod_pid, signal.SIGKILL)
    os.waitpid(pod_pid, 0)  # the namespace's other processes are gone when its first one is
    return 0


def _start(shared: list[str]) -> tuple[int, int]:
    """Starts the cluster and the pod.

    Returns:
        The pod's process id, and a descriptor that gives one byte when all is up, or ends if it could not be.
    """
    pod_pid_read, pod_pid_write = os.pipe()
    pod_ready_read, pod_ready_write = os.pipe()
    ready_read, ready_write = os.pipe()

    # Here, so that it is done once for both.
    from mirror.cli.targets.demo import cluster, pod

    def run_cluster() -> None:
        for number in (pod_pid_write, pod_ready_write, ready_read):
            os.close(number)
        cluster.run(pod_pid_read, pod_ready_read, ready_write)

    def run_pod() -> None:
        for number in (pod_pid_read, pod_pid_write, pod_ready_read, ready_read, ready_write):
            os.close(number)
        pod.run(shared, pod_ready_write)

    namespaces.enter_user_namespace(namespaces.CLONE_NEWNET, scene.UID, scene.GID)
    _fork(run_cluster)
    # From here on this process can have no threads (clone(2), EINVAL), so the cluster is a process of its own.
    namespaces.unshare(namespaces.CLONE_NEWPID)
    pod_pid = _fork(run_pod)
    os.write(pod_pid_write, b"%d" % pod_pid)
    for number in (pod_pid_read, pod_pid_write, pod_ready_read, pod_ready_write, ready_write):
        os.close(number)
    return pod_pid, ready_read


def _fork(run: Callable[[], None]) -> int:
    """Runs a function that never returns in a child, and gives its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.die_with_parent()
            run()
        except OSError as error:
            print(namespaces.explain(error), file=sys.stderr, flush=True)
        except Exception as error:
            print(f"the demo pod could not be made: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    return pid


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
