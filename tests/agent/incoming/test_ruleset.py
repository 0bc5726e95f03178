"""The rules as `nft` reads them back from the kernel."""

from __future__ import annotations

import re
import socket

import pytest

from mirror.agent.incoming.ruleset import AGENTS_MAX, CALLERS_MAX, Mark

from .stage import AgentProcess, Client, Pod, read_line, run_agent, serving, until


def chain(pod: Pod, name: str) -> list[str]:
    rules = pod.run("target", "nft", "list", "ruleset")
    found = re.search(rf"chain {name} {{\n(.*?)\n\t}}", rules, re.DOTALL)
    assert found is not None, rules
    return [re.sub(r"(:)\d{4,5}\b(?!-)", r"\1PORT", line.strip()) for line in found[1].splitlines()]


async def test_what_is_in_the_kernel(pod: Pod, client: Client, port: int, support: dict[str, bool]) -> None:
    await client.subscribe(port, steal=True, address=bytes([10, 99, 0, 1]), keep_from=[bytes([10, 99, 0, 9])])
    rules = pod.run("target", "nft", "list", "ruleset")
    assert "flags owner" in rules
    assert re.search(r"set alive {\s+type inet_proto\s+timeout 1s500ms\s+elements = { tcp expires \w+ }\s+}", rules)
    head = (
        f"tcp dport {port} ip daddr 10.99.0.1 ip saddr != 10.99.0.9 ip saddr != 10.99.0.77"
        " meta mark & 0xff010000 != 0x6d010000 fib daddr type local"
        " meta l4proto @alive"
    )
    if support:
        rule = f"{head} tcp flags syn / fin,syn,rst,ack ct mark set 0x6d010000 dnat ip to :PORT"
        assert chain(pod, "intercept-redirect") == [
            "type nat hook prerouting priority dstnat - 8; policy accept;",
            rule,
        ]
        assert chain(pod, "intercept-own") == ["type nat hook output priority -108; policy accept;", rule]
    else:
        for name, priority in ("intercept", "mangle"), ("intercept-translated", "dstnat + 1"):
            assert chain(pod, name) == [
                f"type filter hook prerouting priority {priority}; policy accept;",
                f"{head} tproxy ip to 127.0.0.1:PORT meta mark set 0x6dff0000 accept",
            ]


@pytest.mark.parametrize("why", [{"expiry": False}, {"is_the_nodes": True}])
async def test_rules_that_do_not_expire(pod: Pod, port: int, support: dict[str, bool], why: dict[str, bool]) -> None:
    """Where the kernel cannot do it, and in the network of the pod's machine."""
    async with run_agent(pod, **why, **support) as agent:
        await agent.client.subscribe(port, steal=True)
        assert "alive" not in pod.run("target", "nft", "list", "ruleset")
        caller = await pod.connect(port)
        _, channel = await agent.client.accept()
        await channel.send(b"taken\n")
        assert await read_line(caller) == b"taken\n"


async def test_conntrack_is_not_switched_on_before_it_is_needed(pod: Pod, agent: AgentProcess, port: int) -> None:
    async with agent.client() as client, serving(pod.listen(port)):
        await client.subscribe(port, steal=False)
        inside = await pod.connect(port, where="target", address="127.0.0.1")
        assert await read_line(inside) == b"target sees 127.0.0.1\n"
        assert "callers" not in pod.run("target", "nft", "list", "ruleset")
        outside = await pod.connect(port)
        assert await read_line(outside) == b"target sees 10.99.0.2\n"
        assert [line for line in chain(pod, "callers") if "ipv4" in line] == [
            "meta nfproto ipv4 ct mark set meta mark snat ip to meta mark map @callers4:61000-65535"
        ]
        pod.close_connections()
    await until(lambda: pod.run("target", "nft", "list", "ruleset") == "")


@pytest.mark.parametrize("stage", range(AGENTS_MAX))
def test_marks_let_later_agents_see_what_earlier_ones_pass_on_and_never_the_other_way_round(stage: int) -> None:
    mine = Mark(stage)
    for other in range(AGENTS_MAX):
        for caller in 0, 1, CALLERS_MAX - 1:
            passed_on = Mark(other).passed_on(caller)
            assert (passed_on & mine.own_mask == mine.own_value) == (other >= stage)
        assert Mark(other).claimed & mine.own_mask == mine.own_value
    assert mine.passed_on(5) & mine.passed_on_mask == mine.passed_on()
    assert socket.htonl(0) & mine.own_mask != mine.own_value, "ordinary traffic has no mark"


def test_numbers_of_callers_leave_the_bits_of_the_agents_alone() -> None:
    assert Mark(0).passed_on(CALLERS_MAX - 1) & ~0x1FFF == Mark(0).passed_on()
