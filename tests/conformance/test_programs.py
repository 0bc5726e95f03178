"""Every program does the same inside the target and under `mirror exec` outside of it, to the letter."""

from __future__ import annotations

import shutil

import pytest

from tests.conformance.catalogue import Program, names, program
from tests.conformance.sides import Sides, in_turn


@pytest.fixture(params=names())
def each(request: pytest.FixtureRequest, sides: Sides) -> Program:
    if request.param.endswith(".js") and not shutil.which("node"):
        pytest.skip("there is no node")
    return program(request.param, sides.folder, sides.python)


def test_as_the_first_process(each: Program, sides: Sides) -> None:
    expected = sides.inside(each.plain)
    got = sides.outside(each.plain, each.options)
    assert str(got) == str(expected)


def test_in_other_ways(each: Program, sides: Sides) -> None:
    command = in_turn(each.ways)
    expected = sides.inside(command)
    got = sides.outside(command, each.options)
    assert str(got) == str(expected)
