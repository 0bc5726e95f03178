"""The environment of a process, also where the process has written over it."""

from __future__ import annotations

import pytest

from mirror.agent import environment
from mirror.agent.environment import Environment, parse
from mirror.protocol import messages as m
from tests.agent.actors import WRITE_TITLE, open_agent, open_target


@pytest.mark.parametrize(
    ("block", "variables", "is_whole"),
    [
        pytest.param(b"", (), True, id="none"),
        pytest.param(b"A=1\0EMPTY=\0=x\0C=a=b\nc\0", (b"A=1", b"EMPTY=", b"=x", b"C=a=b\nc"), True, id="whole"),
        pytest.param(b"A=1\0nothing\0C=3\0", (b"A=1", b"C=3"), True, id="what is no variable"),
        pytest.param(bytes(20), (), False, id="filled up to the end"),
        pytest.param(bytes(3) + b"B=2\0C=3\0", (b"C=3",), False, id="filled up"),
        pytest.param(b"rker: idle\0B=2\0C=3\0", (b"C=3",), False, id="a title"),
        pytest.param(b"rker: idle" + bytes(5) + b"ATH=/\0C=3\0", (b"C=3",), False, id="a title, filled up"),
        pytest.param(b"rker: a=b" + bytes(12), (), False, id="a title like a variable"),
        pytest.param(b"A=1\0B=2", (b"A=1",), False, id="without an end"),
    ],
)
def test_what_is_left(block: bytes, variables: tuple[bytes, ...], is_whole: bool) -> None:
    assert parse(block) == Environment(variables, is_whole)


async def test_that_a_process_has_written_over_it_is_told() -> None:
    """The tests' own process is no container's."""
    with open_target(environment={"PATH": "/bin", "FIRST": "1", "SECOND": "2", "THIRD": "3"}) as target:
        assert target.ask(WRITE_TITLE.format(reach=len("PATH=/bin") + 4))
        async with open_agent(target.pid) as agent:
            await agent.noticed.wait()
            answer = await agent.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
            assert agent.notices == [environment.OVERWRITTEN]
    assert b"THIRD=3" in answer.variables
    assert not [variable for variable in answer.variables if variable.startswith((b"PATH", b"FIRST", b"RST"))]
