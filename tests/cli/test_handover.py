from __future__ import annotations

import pytest

from mirror.cli import handover
from mirror.cli.handover import Order, Progress, Ready, Refusal, Said
from mirror.cli.settings import AgentSettings, Settings

ORDER = Order(
    settings=Settings("demo", override={"A": "b"}, include=("X*",), agent=AgentSettings(image_pull_secrets=("a",))),
    pid=17,
    files=("/bin/sh",),
    argv=("sh", "-c", "x\ny", "\udcff"),
    working_directory="/",
    variables={"NAME": "\udcfe\n"},
    console=(1, 2, 3),
)


@pytest.mark.parametrize(
    "said",
    [
        ORDER,
        Progress("target"),
        Progress("beware", is_warning=True),
        Progress("chosen", stays=True),
        Ready(("A=b", "C=\udcff"), {"MIRROR_SOCKET": "x"}, "/lib.so"),
        Refusal("no", 125),
    ],
)
def test_every_kind_comes_back_as_it_was_said(said: Said) -> None:
    line = handover.encode(said)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert handover.decode(line) == said
