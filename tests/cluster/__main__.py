"""`python -m tests.cluster up`, `down`, `restart COMPONENT`."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.cluster.commands import locked
from tests.cluster.down import down
from tests.cluster.node_process import running_node
from tests.cluster.places import LOCK, ClusterError
from tests.cluster.up import instructions, up


def main() -> int:
    """0, or 1 after a sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A Kubernetes cluster for tests.")
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("up", help="bring it up, or bring its images up to date")
    actions.add_parser("down", help="remove it")
    actions.add_parser("restart", help="kill a component, which is then started again").add_argument("component")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with locked(LOCK):
            act(arguments)
    except ClusterError as error:
        print(f"make cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("make cluster: interrupted; make cluster-down removes what is there", file=sys.stderr)
        return 130
    return 0


def act(arguments: argparse.Namespace) -> None:
    if arguments.action == "up":
        up()
        print(instructions())
    elif arguments.action == "down":
        print("the cluster is gone" if down() else "there is no cluster")
    elif node := running_node():
        node.restart(arguments.component)
    else:
        raise ClusterError("there is no cluster: run make cluster")


if __name__ == "__main__":
    raise SystemExit(main())
