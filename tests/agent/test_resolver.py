"""Which modules of the name service switch are kept. What comes of it is in test_names."""

from __future__ import annotations

import pytest

from mirror.agent.resolver import built_in_lines

DEFAULT = {b"hosts": b"files dns", b"services": b"files"}


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        (b"", b"files dns"),
        (b"passwd: files\n", b"files dns"),
        (b"hosts: dns files", b"dns files"),
        (b"  hosts :\tfiles # dns\n", b"files"),
        (b"#hosts: dns\n", b"files dns"),
        (b"hosts:", b"files dns"),
        (b"hosts: files mdns4_minimal [NOTFOUND=return] dns", b"files dns"),
        (b"hosts: files resolve [!UNAVAIL=return] dns [NOTFOUND=return SUCCESS=continue] myhostname", None),
        (b"hosts: files[NOTFOUND=return]dns", b"files [NOTFOUND=return] dns"),
        (b"hosts: sss wins", b"files dns"),
        (b"hosts: files [NOTFOUND", b"files"),
    ],
)
def test_only_built_in_modules_and_their_actions_stay(text: bytes, hosts: bytes | None) -> None:
    expected = b"files dns [NOTFOUND=return SUCCESS=continue]" if hosts is None else hosts
    assert built_in_lines(text)[b"hosts"] == expected


def test_services_have_a_line_of_their_own() -> None:
    assert built_in_lines(b"services: db files\nhosts: dns\n") == {b"hosts": b"dns", b"services": b"files"}
    assert built_in_lines(b"") == DEFAULT
