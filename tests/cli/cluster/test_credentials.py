"""How users prove who they are: programs are real ones, run as a kubeconfig has them run."""

from __future__ import annotations

import json
import pty
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from mirror.cli.cluster.credentials import Credentials, Fixed, Plugin, TokenFile, credentials_of
from mirror.cli.cluster.kubeconfig import AccessError, Context
from tests.cli.cluster.servers import mutual_tls

V1 = "client.authentication.k8s.io/v1"


def of(user: Mapping[str, Any], variables: Mapping[str, str] | None = None, **more: Any) -> Credentials:
    tls = more.pop("tls", None)
    context = Context(name="shop", namespace="default", cluster={"server": "https://api"}, user=user, files=(), **more)
    return credentials_of(context, variables or {"PATH": "/usr/bin:/bin"}, tls)


# --- what stands in kubeconfig ----------------------------------------------------------------------------


async def test_fixed() -> None:
    assert await of({}).header() is None
    assert await of({"token": "abc"}).header() == "Bearer abc"
    assert await of({"token": "abc"}).header(rejected="Bearer abc") == "Bearer abc"
    assert await of({"username": "me", "password": "pässword"}).header() == "Basic bWU6cMOkc3N3b3Jk"
    assert isinstance(of({"client-certificate-data": "x"}), Fixed)


async def test_token_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    credentials = of({"tokenFile": str(path), "token": "ignored"})
    assert await credentials.header() == "Bearer one"
    path.write_text("two\n")
    assert await credentials.header() == "Bearer one", "it was read a moment ago"
    assert await credentials.header(rejected="Bearer one") == "Bearer two"
    assert isinstance(credentials, TokenFile)
    credentials._read_at -= 60
    path.write_text("three")
    assert await credentials.header() == "Bearer three"


async def test_token_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match=r"token cannot be read: No such file or directory; log in again"):
        await of({"tokenFile": str(tmp_path / "token")}).header()


# --- programs that hand out credentials -------------------------------------------------------------------

Script = Callable[..., dict[str, Any]]


@pytest.fixture
def program(tmp_path: Path) -> Script:
    """Makes a plugin that notes each run, with what it was given, and prints a status; gives the user section."""

    def make(status: Any = None, code: str = "", **more: Any) -> dict[str, Any]:
        path = tmp_path / "login"
        path.write_text(
            f"""#!{sys.executable}
import json, os, sys
with open({str(tmp_path / "runs")!r}, "a") as runs:
    print(json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]), file=runs)
{code}
print(json.dumps({{"apiVersion": {V1!r}, "kind": "ExecCredential", "status": {status!r}}}))
"""
        )
        path.chmod(0o755)
        return {"exec": {"apiVersion": V1, "command": str(path), **more}}

    return make


def runs(folder: Path) -> list[Any]:
    path = folder / "runs"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def test_a_plugin(program: Script, tmp_path: Path) -> None:
    user = program({"token": "abc"}, args=["get", "token"], env=[{"name": "PROFILE", "value": "shop"}])
    credentials = of(user, {"PATH": "/usr/bin:/bin", "HOME": "/home/me"})
    assert runs(tmp_path) == []
    assert await credentials.header() == "Bearer abc"
    assert await credentials.header() == "Bearer abc"
    [(arguments, environment, folder)] = runs(tmp_path)
    assert arguments == ["get", "token"]
    assert folder == str(Path.cwd())
    given = json.loads(environment.pop("KUBERNETES_EXEC_INFO"))
    assert given["kind"] == "ExecCredential"
    assert given["apiVersion"] == V1
    assert "cluster" not in given["spec"]
    environment.pop("LC_CTYPE", None)
    assert environment == {"PATH": "/usr/bin:/bin", "HOME": "/home/me", "PROFILE": "shop"}


async def test_a_plugin_that_wants_to_know_the_cluster(program: Script, tmp_path: Path) -> None:
    await of(program({"token": "abc"}, provideClusterInfo=True)).header()
    given = json.loads(runs(tmp_path)[0][1]["KUBERNETES_EXEC_INFO"])
    assert given["spec"]["cluster"] == {"server": "https://api"}


async def test_a_plugin_is_found_by_the_users_path(program: Script, tmp_path: Path) -> None:
    user = program({"token": "abc"})
    user["exec"]["command"] = "login"
    assert await of(user, {"PATH": str(tmp_path)}).header() == "Bearer abc"


async def test_an_expired_token_is_asked_for_again(program: Script, tmp_path: Path) -> None:
    credentials = of(program({"token": "old", "expirationTimestamp": "2020-01-02T03:04:05Z"}))
    assert await credentials.header() == "Bearer old"
    program({"token": "new", "expirationTimestamp": "2999-01-02T03:04:05.678Z"})
    assert await credentials.header() == "Bearer new"
    assert await credentials.header() == "Bearer new"
    assert len(runs(tmp_path)) == 2


async def test_a_rejected_token_is_asked_for_again_once(program: Script, tmp_path: Path) -> None:
    credentials = of(program({"token": "old"}))
    assert await credentials.header() == "Bearer old"
    program({"token": "new"})

    async def ask() -> None:
        assert await credentials.header(rejected="Bearer old") == "Bearer new"

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
    assert len(runs(tmp_path)) == 2


async def test_a_plugin_that_gives_a_certificate(program: Script, tmp_path: Path) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("me@example")
    status = {
        "clientCertificateData": mine.cert_chain_pems[0].bytes().decode(),
        "clientKeyData": mine.private_key_pem.bytes().decode(),
    }
    server_side, tls = mutual_tls(authority, "api")
    credentials = of(program(status), tls=tls)
    assert await credentials.header() is None
    assert await credentials.header() is None
    assert len(runs(tmp_path)) == 1
    await credentials.header(certificate=status["clientCertificateData"].encode())
    assert len(runs(tmp_path)) == 2, "that one was rejected"
    await credentials.header(certificate=b"of before")
    assert len(runs(tmp_path)) == 2, "there is another already"
    ours, theirs = trio.testing.memory_stream_pair()
    client = trio.SSLStream(ours, tls, server_hostname="api")
    server = trio.SSLStream(theirs, server_side, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    assert server.getpeercert()["subjectAltName"] == (("email", "me@example"),)


async def test_a_plugin_runs_where_the_user_is(program: Script, tmp_path: Path) -> None:
    context = Context(
        name="shop", namespace="default", cluster={"server": "https://api"}, user=program({"token": "abc"}), files=()
    )
    await credentials_of(context, {"PATH": "/usr/bin:/bin"}, None, str(tmp_path)).header()
    assert runs(tmp_path)[0][2] == str(tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (
            None,
            "sys.exit('line one\\nplease log in')",
            "failed: please log in; log in again, and see that `kubectl get",
        ),
        (None, "sys.exit(3)", "failed: process returned 3"),
        (None, "print('no JSON'); sys.exit()", "failed: failed to decode process output"),
        (None, "print('{}'); sys.exit()", "failed: malformed response. missing key 'apiVersion'"),
        ({}, "", "gave neither a token nor a certificate"),
        (["x"], "", "gave neither a token nor a certificate"),
        ({"token": "x", "expirationTimestamp": "tomorrow"}, "", "gave what cannot be used"),
    ],
)
async def test_a_plugin_that_fails(program: Script, status: Any, code: str, expected: str) -> None:
    with pytest.raises(AccessError) as caught:
        await of(program(status, code)).header()
    assert expected in caught.value.sentence
    assert "'shop'" in caught.value.sentence
    assert "\n" not in caught.value.sentence


async def test_a_plugin_that_fails_on_a_terminal(program: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it writes goes there, where it may ask for something too."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen, open(theirs, "w") as terminal:
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, terminal)
        with pytest.raises(AccessError, match="failed: what it says is above; log in again"):
            await of(program(None, "sys.exit('please log in')")).header()
        assert screen.read(100) == b"please log in\r\n"


async def test_a_broken_certificate_from_a_plugin(program: Script) -> None:
    with pytest.raises(AccessError, match="gave what cannot be used"):
        await of(
            program({"clientCertificateData": "no", "clientKeyData": "no"}), tls=ssl.create_default_context()
        ).header()


async def test_a_plugin_of_another_version(program: Script) -> None:
    user = program({"token": "abc"})
    user["exec"]["apiVersion"] = "client.authentication.k8s.io/v1beta1"
    with pytest.raises(AccessError, match="failed: plugin api version"):
        await of(user).header()


async def test_a_plugin_that_is_not_installed(program: Script) -> None:
    user = {"exec": {"apiVersion": V1, "command": "no-such-login", "installHint": "Get it\n from example.org"}}
    with pytest.raises(AccessError, match=r"program 'no-such-login', which is not installed: Get it from example.org"):
        await of(user).header()
    del user["exec"]["installHint"]
    with pytest.raises(AccessError, match=r"which is not installed: install it, or put it on PATH"):
        await of(user).header()


async def test_a_plugin_that_may_not_be_run(program: Script, tmp_path: Path) -> None:
    user = program({"token": "abc"})
    (tmp_path / "login").chmod(0o644)
    with pytest.raises(AccessError, match=r"which cannot be run: Permission denied; correct its permissions"):
        await of(user).header()


async def test_a_plugin_that_failed_is_asked_again(program: Script) -> None:
    credentials = of(program(None, "sys.exit(1)"))
    assert isinstance(credentials, Plugin)
    with pytest.raises(AccessError):
        await credentials.header()
    program({"token": "abc"})
    assert await credentials.header() == "Bearer abc"


# --- login providers --------------------------------------------------------------------------------------


def provider(tmp_path: Path, name: str, config: Mapping[str, Any]) -> Credentials:
    path = tmp_path / "kubeconfig"
    user = {"auth-provider": {"name": name, "config": dict(config)}}
    document = {
        "clusters": [{"name": "c", "cluster": {"server": "https://api"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "shop", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "another",
    }
    path.write_text(json.dumps(document))
    context = Context("shop", "default", {"server": "https://api"}, user, (path,))
    return credentials_of(context, {}, None)


@pytest.fixture
def apart() -> Callable[[str], str]:
    """Runs code in an interpreter of its own: the client changes what is imported, for the whole process."""

    def run(code: str) -> str:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
        ).stdout

    return run


async def test_a_provider(tmp_path: Path) -> None:
    config = {"access-token": "abc", "expiry": "2999-01-02T03:04:05Z"}
    assert await provider(tmp_path, "gcp", config).header() == "Bearer abc"


async def test_a_provider_that_runs_a_command(tmp_path: Path) -> None:
    """And the official client writes the new token back."""
    answer = {"credential": {"access_token": "new", "token_expiry": "2999-01-02T03:04:05Z"}}
    (tmp_path / "login").write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    (tmp_path / "login").chmod(0o755)
    config = {
        "access-token": "old",
        "expiry": "2020-01-02T03:04:05Z",
        "cmd-path": str(tmp_path / "login"),
        "cmd-args": "",
    }
    assert await provider(tmp_path, "gcp", config).header() == "Bearer new"
    assert "access-token: new" in (tmp_path / "kubeconfig").read_text()


@pytest.mark.parametrize("name", ["azure", "oidc"])
async def test_a_provider_that_gives_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(AccessError, match=rf"'shop' logs in by {name}, which .*log in again"):
        await provider(tmp_path, name, {}).header()


# --- what it costs ----------------------------------------------------------------------------------------


def test_only_the_needed_part_of_the_client_is_imported(apart: Callable[[str], str]) -> None:
    """Its packages import everything, half a second: what a plugin needs are two small modules."""
    shown = apart(
        "import sys\n"
        "from mirror.cli.cluster.credentials import _part_of_client\n"
        "assert not any(name.startswith('kubernetes') for name in sys.modules)\n"
        "_part_of_client('kubernetes.config.exec_provider').ExecProvider\n"
        "print(sorted(name for name in sys.modules if name.startswith('kubernetes')))\n"
        "_part_of_client('kubernetes.config.kube_config').load_kube_config"
    )
    assert shown.strip() == str(
        ["kubernetes", "kubernetes.config", "kubernetes.config.config_exception", "kubernetes.config.exec_provider"]
    )
