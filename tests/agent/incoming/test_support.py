from __future__ import annotations

import os
import subprocess
import sys

from mirror.agent.incoming.ruleset import Support

from .stage import Pod

PROBE = "from mirror.agent.incoming.support import probe; print(probe())"
WITHOUT_CAPABILITY = "from mirror.agent.incoming import unavailable; print(unavailable(None))"


def in_target(pod: Pod, *command: str) -> str:
    namespaces = ["--user", "--net", "--preserve-credentials", "--target", str(pod.process.pid)]
    return subprocess.run(["nsenter", *namespaces, *command], capture_output=True, text=True, check=True).stdout


def test_everything_is_found_and_nothing_left(pod: Pod) -> None:
    assert in_target(pod, sys.executable, "-c", PROBE).strip() == str(Support())
    assert pod.run("target", "nft", "list", "ruleset") == ""


def test_available_is_none(pod: Pod) -> None:
    assert in_target(pod, sys.executable, "-c", WITHOUT_CAPABILITY).strip() == "None"


def test_a_missing_capability_is_named(pod: Pod) -> None:
    without = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
    said = in_target(pod, *without, sys.executable, "-c", WITHOUT_CAPABILITY)
    assert "CAP_NET_ADMIN" in said


def test_a_namespace_that_may_not_be_entered_is_named(pod: Pod) -> None:
    """From the sibling user namespace of another pod one has no capability there."""
    program = (
        "import os; from mirror.agent.incoming import unavailable;"
        f" print(unavailable(os.open('/proc/{pod.process.pid}/ns/net', os.O_RDONLY)))"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    # Whether even looking is refused depends on who runs this.
    assert "CAP_NET_ADMIN" in done.stdout or "PermissionError" in done.stderr
