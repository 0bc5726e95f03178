from __future__ import annotations

import pytest

from mirror.cli import environment
from mirror.cli.environment import EnvironmentRules
from mirror.cli.errors import EXIT_USAGE, MirrorError

USER = [("PATH", "/user/bin"), ("HOME", "/home/user"), ("MODE", "laptop"), ("EDITOR", "vi")]
TARGET = [("PATH", "/pod/bin"), ("MODE", "pod"), ("HOSTNAME", "orders-1"), ("JAVA_HOME", "/opt/java"), ("DB_URL", "x")]


def merged(**rules: object) -> dict[str, str]:
    return dict(environment.merge(USER, TARGET, EnvironmentRules(**rules)))  # type: ignore[arg-type]


def test_target_wins_but_for_the_users_own_names() -> None:
    assert merged() == {
        "PATH": "/user/bin",
        "HOME": "/home/user",
        "MODE": "pod",
        "EDITOR": "vi",
        "HOSTNAME": "orders-1",
        "DB_URL": "x",
    }


def test_order_is_the_users_then_the_targets() -> None:
    names = [name for name, _ in environment.merge(USER, TARGET, EnvironmentRules())]
    assert names == ["PATH", "HOME", "MODE", "EDITOR", "HOSTNAME", "DB_URL"]


def test_include_takes_only_what_matches() -> None:
    result = merged(include=("DB_*", "PATH"))
    assert (result["MODE"], result["DB_URL"], result["PATH"]) == ("laptop", "x", "/user/bin")
    assert "HOSTNAME" not in result


def test_exclude_leaves_the_users_value() -> None:
    result = merged(exclude=("M?DE", "HOST*"))
    assert result["MODE"] == "laptop"
    assert "HOSTNAME" not in result
    assert result["DB_URL"] == "x"


def test_globs_count_case() -> None:
    assert "DB_URL" in merged(exclude=("db_*",))


def test_override_beats_everything_and_unset_beats_that() -> None:
    result = merged(override={"PATH": "/mine", "MODE": "test", "ADDED": ""}, unset=("mode", "editor"))
    assert (result["PATH"], result["ADDED"]) == ("/mine", "")
    assert "MODE" not in result
    assert "EDITOR" not in result


def test_disabled_takes_nothing_but_overrides() -> None:
    assert merged(enabled=False, override={"A": "b"}) == {**dict(USER), "A": "b"}


def test_first_of_the_targets_repetitions_counts() -> None:
    assert environment.merge([], [("A", "1"), ("A", "2")], EnvironmentRules()) == [("A", "1")]


def test_users_untouched_repetitions_stay() -> None:
    assert environment.merge([("A", "1"), ("A", "2")], [], EnvironmentRules()) == [("A", "1"), ("A", "2")]


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "PWD", "SHELL", "PYTHONPATH", "JAVA_HOME", "GOPATH", "RUBYOPT", "GEM_HOME", "BUNDLE_WITHOUT",
     "CATALINA_HOME", "DOTNET_ROOT", "LD_PRELOAD", "LD_LIBRARY_PATH", "TERM", "TMPDIR", "RUST_LOG", "MIRROR_SOCKET"],
)  # fmt: skip
def test_names_that_are_never_taken(name: str) -> None:
    assert environment.is_never_taken(name)


@pytest.mark.parametrize("name", ["HOSTNAME", "ENV", "PORT", "TZ", "LANG", "PATHS", "KUBERNETES_SERVICE_HOST", "path"])
def test_names_of_applications_are_taken(name: str) -> None:
    assert not environment.is_never_taken(name)


def test_include_and_exclude_contradict() -> None:
    with pytest.raises(MirrorError) as caught:
        EnvironmentRules(include=("A",), exclude=("B",))
    assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize("override", [{"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "x\0"}])
def test_override_names_must_be_names(override: dict[str, str]) -> None:
    with pytest.raises(MirrorError):
        EnvironmentRules(override=override)


def test_blocks_keep_every_byte() -> None:
    block = b"A=1\0B=\xff=\xc3\xa4\0EMPTY=\0no equals sign\0=bad\0"
    variables = environment.parse_block(block)
    assert [name for name, _ in variables] == ["A", "B", "EMPTY"]
    assert environment.format_block(variables) == [b"A=1", b"B=\xff=\xc3\xa4", b"EMPTY="]
