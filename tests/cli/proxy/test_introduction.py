"""As whom a session introduces itself to an agent."""

from __future__ import annotations

import os
import re
import socket

import pytest

from mirror.cli.proxy.introduction import who

HOST = re.escape(socket.gethostname())


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({"USER": "anna", "LOGNAME": "otto"}, "anna"),
        ({"LOGNAME": "otto"}, "otto"),
        # One word of printable ASCII, since agents put `?` for everything else.
        ({}, f"uid-{os.getuid()}"),
    ],
)
def test_who(variables: dict[str, str], name: str) -> None:
    assert re.fullmatch(f"{name}@{HOST}", who(variables))
