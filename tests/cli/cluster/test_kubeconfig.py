from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from mirror.cli.cluster.kubeconfig import AccessError, files_of, no_files, read
from mirror.cli.errors import EXIT_USAGE

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a kubeconfig of contexts, each with a cluster and a user of its own name."""

    def write(name: str, *contexts: str, current: str = "", **more: Any) -> Path:
        document = {
            "clusters": [{"name": each, "cluster": {"server": f"https://{each}.{name}"}} for each in contexts],
            "users": [{"name": each, "user": {"token": f"{each} of {name}"}} for each in contexts],
            "contexts": [{"name": each, "context": {"cluster": each, "user": each}} for each in contexts],
            **({"current-context": current} if current else {}),
            **more,
        }
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(yaml.safe_dump(document))
        return path

    return write


def sentence(files: tuple[Path, ...], name: str | None = None) -> str:
    with pytest.raises(AccessError) as caught:
        read(files, name)
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


# --- which files ------------------------------------------------------------------------------------------


def test_the_usual_place(write: Write, tmp_path: Path) -> None:
    path = write(".kube/config", "a")
    assert files_of({"HOME": str(tmp_path)}, None) == (path,)
    assert files_of({"HOME": str(tmp_path), "KUBECONFIG": ""}, None) == (path,)


def test_the_list_without_what_is_missing(write: Write, tmp_path: Path) -> None:
    first, second = write("first", "a"), write("second", "b")
    value = f"{first}::{tmp_path}/missing:{second}"
    assert files_of({"HOME": "/nowhere", "KUBECONFIG": value}, None) == (first, second)


def test_the_one_asked_for(write: Write) -> None:
    first, second = write("first", "a"), write("second", "b")
    assert files_of({"KUBECONFIG": str(first)}, str(second)) == (second,)


def test_the_one_asked_for_is_missing() -> None:
    with pytest.raises(AccessError, match=r"there is no kubeconfig /nowhere/x: give --kubeconfig") as caught:
        files_of({}, "/nowhere/x")
    assert caught.value.exit_status == EXIT_USAGE


def test_none_at_all() -> None:
    assert files_of({"HOME": "/nowhere"}, None) == ()
    assert "no kubeconfig at /nowhere/.kube/config: set KUBECONFIG" in no_files({"HOME": "/nowhere"}).sentence
    assert "at /a nor /b" in no_files({"HOME": "/nowhere", "KUBECONFIG": "/a:/b"}).sentence


# --- what they say ----------------------------------------------------------------------------------------


def test_the_current_context(write: Write) -> None:
    context = read((write("f", "a", "b", current="b"),))
    assert (context.name, context.namespace) == ("b", "default")
    assert context.cluster == {"server": "https://b.f"}
    assert context.user == {"token": "b of f"}


def test_another_context(write: Write) -> None:
    assert read((write("f", "a", "b", current="b"),), "a").name == "a"


def test_the_first_of_several_files_is_right(write: Write) -> None:
    first, second = write("first", "a", current="a"), write("second", "a", "b", current="b")
    assert read((first, second)).user == {"token": "a of first"}
    assert read((second, first)).name == "b"
    assert read((first, second), "b").cluster == {"server": "https://b.second"}


def test_a_context_of_parts_in_several_files(write: Write) -> None:
    first = write("first", contexts=[{"name": "x", "context": {"cluster": "a", "user": "b", "namespace": "shop"}}])
    context = read((first, write("second", "a"), write("third", "b")), "x")
    assert context.namespace == "shop"
    assert (context.cluster["server"], context.user["token"]) == ("https://a.second", "b of third")


def test_no_user(write: Write) -> None:
    assert read((write("f", "a", contexts=[{"name": "x", "context": {"cluster": "a"}}]),), "x").user == {}


def test_paths_are_relative_to_their_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = {"server": "https://s", "certificate-authority": "ca.pem"}
    user = {"client-certificate": "/abs/c.pem", "client-key": "../k.pem", "exec": {"command": "bin/login"}}
    path = write(
        "deep/f",
        clusters=[{"name": "a", "cluster": cluster}],
        users=[{"name": "a", "user": user}],
        contexts=[{"name": "a", "context": {"cluster": "a", "user": "a"}}],
    )
    monkeypatch.chdir(path.parent.parent)
    context = read((Path("deep/f"),), "a")
    assert context.cluster["certificate-authority"] == str(path.parent / "ca.pem")
    assert context.user["client-certificate"] == "/abs/c.pem"
    assert context.user["client-key"] == str(path.parent / "../k.pem")
    assert context.user["exec"] == {"command": str(path.parent / "bin/login")}


def test_a_plugin_is_looked_up_in_path(write: Write) -> None:
    path = write("f", "a", users=[{"name": "a", "user": {"exec": {"command": "login"}}}], current="a")
    assert read((path,)).user["exec"] == {"command": "login"}


# --- what is wrong with them ------------------------------------------------------------------------------


def test_no_such_context(write: Write) -> None:
    path = write("f", "b", "a", current="a")
    with pytest.raises(AccessError) as caught:
        read((path,), "c")
    assert caught.value.sentence == f"there is no context 'c' in {path}: choose one with --context: a, b"
    assert caught.value.exit_status == EXIT_USAGE


def test_no_current_context(write: Write) -> None:
    assert "no context is chosen in" in sentence((write("f", "a", "b"),))
    assert "the current context 'z' is not in" in sentence((write("g", "a", current="z"),))
    assert sentence((write("h"),)).endswith("it has none; choose another kubeconfig")


def test_no_such_cluster_or_server(write: Write) -> None:
    contexts = [{"name": "x", "context": {"cluster": "q", "user": "a"}}]
    assert "names the cluster 'q', for which there is no server" in sentence((write("f", "a", contexts=contexts),), "x")
    empty = write("g", "a", clusters=[{"name": "a", "cluster": {}}])
    assert "for which there is no server" in sentence((empty,), "a")


def test_no_such_user(write: Write) -> None:
    contexts = [{"name": "x", "context": {"cluster": "a", "user": "q"}}]
    assert "names the user 'q', who is not there" in sentence((write("f", "a", contexts=contexts),), "x")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: 1\nb: }", "is not YAML (line 2)"),
        ("- a", "is no kubeconfig"),
        ("just words", "is no kubeconfig"),
        ("contexts: [{}]", "its contexts are not a list of things with names"),
        ("contexts: [{name: a, context: [1]}]", "is no kubeconfig"),
        ("contexts: 3", "its contexts are not a list"),
        ("", "no context is chosen"),
    ],
)
def test_no_kubeconfig(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "f"
    path.write_text(content)
    assert expected in sentence((path,))


def test_unreadable(tmp_path: Path) -> None:
    assert "cannot be read: Is a directory" in sentence((tmp_path,))
    path = tmp_path / "f"
    path.write_bytes(b"\xff\xfe\x00")
    assert "is not YAML" in sentence((path,))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("user", "exec", "aws"),
        ("user", "exec", {"command": ["aws"]}),
        ("user", "exec", {"command": "aws", "env": ["HOME"]}),
        ("user", "auth-provider", "oidc"),
        ("user", "as-groups", 5),
        ("user", "as-user-extra", {"reason": 5}),
        ("user", "tokenFile", ["x"]),
        ("user", "client-key", 5),
        ("cluster", "server", {"https": 1}),
        ("cluster", "certificate-authority", 7),
        ("context", "namespace", ["x"]),
        ("context", "user", ["x"]),
    ],
)
def test_values_of_other_types(write: Write, kind: str, key: str, value: Any) -> None:
    path = write("config", "a", current="a")
    document = yaml.safe_load(path.read_text())
    document[f"{kind}s"][0][kind][key] = value
    path.write_text(yaml.safe_dump(document))
    assert key in sentence((path,))
