"""The agent as a process: from its command line (`options`) to its exit status.

    python -m mirror.agent --pid N --fd FD

stands in for process N and serves one client over an inherited, connected stream socket. Where N is `-`, the number
comes on its standard input: a client that has yet to find the target starts the agent first, since importing takes ten
times as long as all the rest. The agent ends when its client does.

    python -m mirror.agent --listen PORT (--container ID | --pid N | --targetless)

serves all who connect to that port of its own loopback, and ends some time after the last of them has gone. With
`--identity FILE` it serves only who has the secret that it puts there; `__main__` hides it before it imports this.

Either ends by SIGTERM (but see `service`), or when its worker is lost. Where it cannot serve, the last line on stderr
and the `Goodbye` on each connection are one sentence, and the exit status is 1 (2 for a wrong command line).

The order matters. Everything is imported first: in the target's user namespace root is no longer the one that may
read every file, such as our own modules in somebody's home. Then, while the process still has one thread, it takes
hold of the target, forks the worker and enters the target's user namespace.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mirror.agent import container, service, worker_process
from mirror.agent.container import ContainerNotFound
from mirror.agent.gate import Gate, IdentityError
from mirror.agent.options import FROM_INPUT, USAGE, Options, parse
from mirror.agent.target import Target, TargetError

if TYPE_CHECKING:
    import ssl

_REAPS_WITHIN_S = 1.0


def main(arguments: Sequence[str]) -> int:
    """Runs the agent; its exit status."""
    try:
        options = parse(arguments)
        gate = Gate.inherited(options.fd) if options.fd is not None else None
        pid = sys.stdin.readline() if options.pid == FROM_INPUT else options.pid
        if options.pid and not pid:
            return 0  # the client is gone without having found a target
        number = int(pid or 0)
    except (ValueError, OSError) as error:
        print(f"{USAGE}\nmirror agent: {error}", file=sys.stderr)
        return 2
    _end_quietly()
    if gate is None:
        assert options.port is not None
        try:
            gate = Gate.listening(options.port, is_direct=options.is_direct)
        except OSError as error:
            print(f"mirror's agent cannot listen on port {options.port}: {error.strerror}", file=sys.stderr)
            return 1
    # Each connection of the user's program is a socket here. The worker inherits the limit.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        target = _open_target(number, options)
        worker_pid, link = worker_process.start(target, options.features)
    except (TargetError, ContainerNotFound) as error:
        return _refuse(gate, str(error))
    try:
        if options.identity:
            gate.guard = _make_identity(options.identity, gate.port)  # the worker does not know it
        target.enter_user_namespace()
    except (TargetError, IdentityError) as error:
        link.close()
        _reap_children()
        return _refuse(gate, str(error))
    failure = service.run(target, worker_pid, link, gate, options)
    _reap_children()
    if failure is not None:
        return _refuse(gate, failure)
    return 0


def _make_identity(path: str, port: int) -> ssl.SSLContext:
    """See `identity.make`."""
    from mirror.agent import identity

    return identity.make(path, port)


def _open_target(pid: int, options: Options) -> Target:
    """Takes hold of what the agent is to stand in for.

    Raises:
        TargetError, ContainerNotFound: It cannot be had: a sentence with a remedy.
    """
    if options.is_targetless:
        return Target.open(os.getpid(), options.features)
    ends_with_target = options.fd is None
    if not options.container:
        return Target.open(pid, options.features, holds_mounts=ends_with_target)
    while True:
        pid = container.find(options.container)
        try:
            target = Target.open(pid, options.features, holds_mounts=ends_with_target)
        except TargetError:
            if container.holds(options.container, pid):
                raise
            continue  # it ended in between; there may be another by now
        if container.holds(options.container, pid):
            return target


def _end_quietly() -> None:
    """Lets SIGINT and SIGTERM end the process without a traceback until `service` takes care of them.

    By a handler, since signals without one do not reach the first process of a container (pid_namespaces(7)).
    """
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, lambda *_: os._exit(0))


def _reap_children() -> None:
    """Waits until the worker, which ends with its link, is gone. Not for long: it may hang in a dead file system.

    Among a target's processes it would else be left to the target's first one, which may never ask after it.
    """
    give_up_at = time.monotonic() + _REAPS_WITHIN_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < give_up_at:
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.002)


def _refuse(gate: Gate, sentence: str) -> int:
    """Tells why there is no service, wherever somebody may look; the exit status."""
    print(sentence, file=sys.stderr)
    gate.turn_away(sentence)
    return 1
