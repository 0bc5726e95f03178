"""Who is answered by whom, and whose address is seen: pods that call a pod, directly and through its Service.

Connections that were there before a session are the pod's as long as they last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.cluster import WITHIN_S, Cluster, wait_until
from tests.e2e.standing import (
    Caller,
    address_of,
    answering,
    calling_pod,
    keeping,
    pod,
    server,
    service,
    standing,
)

FIRST, SECOND = 8080, 8081
NODE = 28749
"""A port that is free on the node."""


def on(port: int) -> dict[str, Any]:
    """A probe; a busy machine does not make a pod unready."""
    asked = {"httpGet": {"port": port, "path": "/ready"}}
    return {**asked, "periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 30}


@pytest.fixture(scope="module")
def caller(cluster: Cluster) -> Iterator[Caller]:
    """A pod that calls the pod `two`, which listens on two ports, and has a Service."""
    two = server("two", f":{FIRST}", f":{SECOND}", container={"readinessProbe": on(FIRST)})
    with standing(cluster, two, service("two", p80=FIRST, p81=SECOND)), calling_pod(cluster) as caller:
        # The node's rules for a service come a moment after its pod is ready.
        served = [f"pod {port} {caller.address}" for port in (FIRST, SECOND)]
        wait_until(
            lambda: caller.ask("http://two:80/", "http://two:81/") == served, WITHIN_S, "the service does not answer"
        )
        yield caller


@pytest.fixture
def urls(cluster: Cluster, caller: Caller) -> Iterator[list[str]]:
    """The first port by way of the Service and directly, then the second; afterwards the pod answers at all of them."""
    address = address_of(cluster, "two")
    urls = ["http://two:80/", f"http://{address}:{FIRST}/", "http://two:81/", f"http://{address}:{SECOND}/"]
    yield urls
    wait_until(lambda: caller.ask(*urls) == said("pod", "pod", caller), WITHIN_S, "the pod does not answer again")


def said(who_first: str, who_second: str, caller: Caller) -> list[str]:
    """What is answered at `urls`."""
    first, second = f"{who_first} {FIRST} {caller.address}", f"{who_second} {SECOND} {caller.address}"
    return [first, first, second, second]


def test_two_ports_are_mirrored(cluster: Cluster, caller: Caller, urls: list[str]) -> None:
    """Both see the callers' addresses: the pod and the user's program."""
    with answering(cluster, "pod/two", f":{FIRST}", f":{SECOND}", options=["--mirror"]) as program:
        assert caller.ask(*urls) == said("pod", "pod", caller)
        assert caller.ask(f"{urls[0]}copied", f"{urls[2]}copied") == said("pod", "pod", caller)[::2]
        program.wait_for(*(f"request {port} {caller.address} /copied" for port in (FIRST, SECOND)))


def test_two_ports_are_stolen(cluster: Cluster, caller: Caller, urls: list[str]) -> None:
    with answering(cluster, "pod/two", f":{FIRST}", f":{SECOND}", options=["--steal"]):
        assert caller.ask(*urls) == said("user", "user", caller)


def test_one_of_two_ports_is_stolen(cluster: Cluster, caller: Caller, urls: list[str]) -> None:
    with answering(cluster, "service/two", f":{SECOND}", options=["--steal"]):
        assert caller.ask(*urls) == said("pod", "user", caller)


def test_what_the_user_does_not_take_stays_with_the_pod(cluster: Cluster, caller: Caller, urls: list[str]) -> None:
    """Who says that it is a probe is led to the pod by the agent, and seen there as who it is."""
    with answering(cluster, "pod/two", f":{FIRST}", options=["--steal"]):
        assert caller.ask(*urls, options=["-A", "kube-probe/1.20"]) == said("pod", "pod", caller)
        assert caller.ask(*urls) == said("user", "pod", caller)


def test_connections_that_were_open_before_stay_with_the_pod(alone: Cluster, caller: Caller, urls: list[str]) -> None:
    """Through the beginning of a session, a port that is mirrored, one that is stolen, and the end of the agent."""
    places = ["two:80", f"{address_of(alone, 'two')}:{FIRST}"]
    with keeping(alone, *places) as kept:
        for how, who in ("--mirror", "pod"), ("--steal", "user"):
            with answering(alone, "pod/two", f":{FIRST}", options=[how]):
                # What is passed on has the kernel begin to track connections.
                assert caller.ask(*urls) == said(who, "pod", caller)
                kept.wait_for_answers()
        alone.wait_without_agents()
        kept.wait_for_answers()
        assert kept.answers() == {(place, f"pod {FIRST} {kept.address}") for place in places}


@pytest.fixture(scope="module")
def odd(cluster: Cluster, caller: Caller) -> Iterator[None]:
    """Pods that do not listen as most do: on loopback only, on IPv6 and through it on IPv4, not at all."""
    worker = pod("worker", "sleep", "infinity")
    things = server("inward", f"127.0.0.1:{FIRST}"), server("both", f":::{FIRST}"), worker, service("worker", p80=FIRST)
    with standing(cluster, *things):
        yield


INWARD, INSIDE = "127.0.0.1", f"127.0.0.1:{FIRST}"


@pytest.mark.parametrize(
    ("name", "place", "during", "after"),
    [
        ("inward", f":{FIRST}", ("user {}", f"user {INWARD}"), ("nobody", f"pod {INWARD}")),
        ("inward", INSIDE, ("nobody", f"user {INWARD}"), ("nobody", f"pod {INWARD}")),
        ("both", f":{FIRST}", ("user {}", f"user {INWARD}"), ("pod ::ffff:{}", f"pod ::ffff:{INWARD}")),
        ("both", INSIDE, ("pod ::ffff:{}", f"user {INWARD}"), ("pod ::ffff:{}", f"pod ::ffff:{INWARD}")),
        ("worker", f":{FIRST}", ("user {}", f"user {INWARD}"), ("nobody", "nobody")),
    ],
)
def test_the_user_listens_otherwise_than_the_pod(
    cluster: Cluster, caller: Caller, odd: None, name: str, place: str, during: tuple[str, str], after: tuple[str, str]
) -> None:
    """What the program binds is what it gets, as if it ran in the pod; the rest is as it is without it."""

    def answers() -> tuple[str, str]:
        """Who answers a caller from outside, and one inside the pod, and whom they see."""
        said = caller.ask(f"http://{address_of(cluster, name)}:{FIRST}/")
        said += Caller(cluster, name).ask(f"http://{INSIDE}/")
        outside, inside = (line.replace(f" {FIRST}", "").replace(caller.address, "{}") for line in said)
        return outside, inside

    with answering(cluster, f"pod/{name}", place, options=["--steal"]):
        assert answers() == during
    wait_until(lambda: answers() == after, WITHIN_S, "it is not as before")


def test_a_service_whose_pod_does_not_listen(cluster: Cluster, caller: Caller, odd: None) -> None:
    with answering(cluster, "service/worker", f":{FIRST}", options=["--steal"]):
        stolen = [f"user {FIRST} {caller.address}"]
        wait_until(lambda: caller.ask("http://worker/") == stolen, WITHIN_S, "the service does not answer")
    wait_until(lambda: caller.ask("http://worker/") == ["nobody"], WITHIN_S, "somebody answers")


def test_a_pod_in_the_network_of_its_node(cluster: Cluster, caller: Caller) -> None:
    """The rules are the node's then, and only about that port."""
    with standing(cluster, server("node", f":{NODE}", container={"readinessProbe": on(NODE)}, hostNetwork=True)):
        url = f"http://{address_of(cluster, 'node')}:{NODE}/"
        with answering(cluster, "pod/node", f":{NODE}", options=["--steal"]):
            assert caller.ask(url) == [f"user {NODE} {caller.address}"]
            assert cluster.ready_pods("node")
        wait_until(lambda: caller.ask(url) == [f"pod {NODE} {caller.address}"], WITHIN_S, "the pod does not answer")
        wait_until(lambda: not cluster.rules(), WITHIN_S, "rules are left")
