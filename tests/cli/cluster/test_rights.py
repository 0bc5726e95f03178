from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.rights import RIGHTS, role


def pairs(rules: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_what_is_checked_is_what_is_granted() -> None:
    granted = pairs(yaml.safe_load(role("user"))["rules"])
    assert {(right.group, right.resource, verb) for right in RIGHTS for verb in right.verbs} == granted


@pytest.mark.parametrize("who", ["user", "admin"])
def test_roles_are_printed_for_kubectl(who: str) -> None:
    command = [sys.executable, "-m", "mirror.cli", "rbac", who]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stderr == ""
    assert yaml.safe_load(printed.stdout)["metadata"]["name"] == f"mirror-{who}"
