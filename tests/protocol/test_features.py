"""Which Linux capabilities an agent asks for. That they are enough, and none too many, is shown in tests/agent."""

from __future__ import annotations

import pytest

from mirror.protocol.features import FEATURES, linux_capabilities


def test_environment_and_files_need_nothing_of_the_network() -> None:
    assert linux_capabilities(["environment", "files"]) == (
        "DAC_OVERRIDE",
        "SETGID",
        "SETUID",
        "SYS_CHROOT",
        "SYS_PTRACE",
    )


def test_only_incoming_traffic_needs_net_admin() -> None:
    without = linux_capabilities(feature for feature in FEATURES if feature != "incoming")
    assert set(linux_capabilities(FEATURES)) - set(without) == {"NET_ADMIN"}


def test_who_stands_in_for_itself_enters_nothing() -> None:
    assert linux_capabilities(["environment", "files", "names", "outgoing"], targetless=True) == ()
    assert linux_capabilities(FEATURES, targetless=True) == ("NET_ADMIN",)


def test_in_the_targets_pod_no_namespace_is_entered() -> None:
    assert {*linux_capabilities(FEATURES)} - {*linux_capabilities(FEATURES, in_the_pod=True)} == {"SYS_ADMIN"}


def test_nothing_needs_nothing() -> None:
    assert linux_capabilities([]) == ()


@pytest.mark.parametrize("targetless", [False, True])
def test_a_feature_that_does_not_exist(targetless: bool) -> None:
    with pytest.raises(KeyError, match="dns"):
        linux_capabilities(["dns"], targetless=targetless)
