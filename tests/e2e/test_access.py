"""The ways into a cluster that kubeconfig files describe: whole sessions with the real API server."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
import yaml  # type: ignore[import-untyped, unused-ignore]

from mirror.cli.cluster.access import find_access
from mirror.cli.cluster.api import ApiError, open_api
from mirror.cli.errors import EXIT_FAILED
from tests.e2e.cluster import MIRROR, WITHIN_S, Cluster, wait_until
from tests.e2e.relay import relay_to
from tests.e2e.test_inventory import run as run_mirror
from tests.e2e.test_reconnect import BACK, LOST, NAME, ORDERS, PROGRAM, Program
from tests.e2e.test_rights import RULES, bound
from tests.e2e.test_traffic import CALL, serving

NOT_ACCEPTED = "the cluster does not accept the kubeconfig's credentials (Unauthorized); log in to it again"


# --- kubeconfig files -------------------------------------------------------------------------------------


def sections(cluster: Cluster) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the tests' kubeconfig: the server, and the administrator, who has a certificate."""
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    context = next(each["context"] for each in content["contexts"] if each["name"] == content["current-context"])
    server = next(each["cluster"] for each in content["clusters"] if each["name"] == context["cluster"])
    user = next(each["user"] for each in content["users"] if each["name"] == context["user"])
    return server, user


def write(path: Path, cluster: Cluster, user: dict[str, Any], server: dict[str, Any] | None = None) -> Path:
    """A kubeconfig of one context, whose namespace is the tests'.

    Args:
        path: Of the file.
        cluster: Where it leads.
        user: The user's section.
        server: The cluster's section; None: as the tests have it.
    """
    document = {
        "clusters": [{"name": "c", "cluster": server or sections(cluster)[0]}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "shop", "context": {"cluster": "c", "user": "u", "namespace": cluster.namespace}}],
        "current-context": "shop",
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def enter(
    cluster: Cluster, kubeconfig: Path | str, *options: str, variables: dict[str, str] | None = None, **how: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a target of the context's namespace."""
    command = [*MIRROR, "exec", "-t", "deployment/web", *options, "--", "sh", "-c", "echo $COLOUR"]
    environment = {**cluster.variables, "KUBECONFIG": str(kubeconfig), **(variables or {})}
    arguments = {"capture_output": True, "text": True, "env": environment, "timeout": 2 * WITHIN_S, **how}
    return subprocess.run(command, check=False, **arguments)


def assert_entered(result: subprocess.CompletedProcess[str]) -> None:
    """That it was in the target, and nothing had to be said."""
    assert (result.stdout, result.stderr, result.returncode) == ("blue\n", "", 0)


def sentence_of(result: subprocess.CompletedProcess[str]) -> str:
    """Why the program was not started."""
    assert (result.stdout, result.returncode) == ("", EXIT_FAILED)
    assert result.stderr.startswith("mirror: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr.removeprefix("mirror: ").rstrip()


def assert_stolen(cluster: Cluster, *options: str) -> None:
    """That a session takes over requests, which come through a port-forward. It has ended then."""
    with serving(cluster, "--steal", *options):
        assert cluster.run_in_pod(*CALL).splitlines()[0] == "user"
    wait_until(lambda: not cluster.proxies(), WITHIN_S, "a proxy is left")


# --- users ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def robot(cluster: Cluster, name: str) -> Iterator[str]:
    """A service account with the rights of users; its token."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
    path = f"/api/v1/namespaces/{cluster.namespace}/serviceaccounts/{name}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 3600},
    }
    cluster.apply(account)
    try:
        token = cluster.ask(lambda api: api.create(path, request))["status"]["token"]
        with bound(cluster, "Role", name, RULES, f"system:serviceaccount:{cluster.namespace}:{name}"):
            yield token
    finally:
        cluster.remove("serviceaccount", name)


@pytest.fixture(scope="module")
def token(cluster: Cluster) -> Iterator[str]:
    with robot(cluster, "robot") as made:
        yield made


def is_accepted(kubeconfig: Path) -> bool:
    """Whether the API server knows who a user is."""

    async def ask() -> bool:
        async with open_api(await find_access({"KUBECONFIG": str(kubeconfig)})) as api:
            try:
                await api.get("/api/v1/namespaces")
            except ApiError as error:
                return error.status != 401
            return True

    return trio.run(ask)


def foreign_certificate() -> tuple[bytes, bytes]:
    """A certificate, and its key, of an authority that the cluster does not know."""
    made = trustme.CA().issue_cert("me@example", common_name="me")
    return made.cert_chain_pems[0].bytes(), made.private_key_pem.bytes()


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


# --- certificates -----------------------------------------------------------------------------------------


def test_certificates_in_the_kubeconfig(cluster: Cluster, tmp_path: Path) -> None:
    server, user = sections(cluster)
    assert server["certificate-authority-data"]
    assert user["client-certificate-data"]
    assert user["client-key-data"]
    assert_entered(enter(cluster, write(tmp_path / "kubeconfig", cluster, user)))


def test_certificates_in_files(cluster: Cluster, tmp_path: Path) -> None:
    """Their paths are relative to the kubeconfig's folder, whose own is relative to where the user is."""
    server, user = sections(cluster)
    keys, kubeconfigs = tmp_path / "keys", tmp_path / "kube"
    for folder in (keys, kubeconfigs):
        folder.mkdir()
    named = {}
    for section in (server, user):
        for field in [key for key in section if key.endswith("-data")]:
            name = field.removesuffix("-data")
            (keys / name).write_bytes(base64.b64decode(section.pop(field)))
            section[name] = f"../keys/{name}"
            named[name] = keys / name
    assert sorted(named) == ["certificate-authority", "client-certificate", "client-key"]
    write(kubeconfigs / "config", cluster, user, server)
    assert_entered(enter(cluster, "kube/config", cwd=tmp_path))
    assert_entered(enter(cluster, "nowhere", "--kubeconfig", "../kube/config", cwd=keys))
    named["client-key"].unlink()
    sentence = sentence_of(enter(cluster, "kube/config", cwd=tmp_path))
    assert f"the file {kubeconfigs}/../keys/client-key" in sentence
    assert "names as client-key, cannot be read: No such file or directory" in sentence


def test_an_authority_that_is_not_the_servers(cluster: Cluster, tmp_path: Path) -> None:
    server, user = sections(cluster)
    server["certificate-authority-data"] = encoded(trustme.CA().cert_pem.bytes())
    sentence = sentence_of(enter(cluster, write(tmp_path / "kubeconfig", cluster, user, server)))
    assert f"the certificate of {server['server']} of the context 'shop' is not trusted: " in sentence
    assert "correct certificate-authority in kubeconfig" in sentence


def test_no_authority(cluster: Cluster, tmp_path: Path) -> None:
    """Then the machine's own count, or none need to."""
    server, user = sections(cluster)
    del server["certificate-authority-data"]
    assert "is not trusted" in sentence_of(enter(cluster, write(tmp_path / "kubeconfig", cluster, user, server)))
    server["insecure-skip-tls-verify"] = True
    assert_entered(enter(cluster, write(tmp_path / "kubeconfig", cluster, user, server)))


def test_the_name_in_the_servers_certificate(cluster: Cluster, tmp_path: Path) -> None:
    server, user = sections(cluster)
    server["tls-server-name"] = "kubernetes.default.svc"
    assert_entered(enter(cluster, write(tmp_path / "kubeconfig", cluster, user, server)))
    server["tls-server-name"] = "elsewhere.invalid"
    sentence = sentence_of(enter(cluster, write(tmp_path / "kubeconfig", cluster, user, server)))
    assert "Hostname mismatch, certificate is not valid for 'elsewhere.invalid'" in sentence
    assert "or tls-server-name where it is for another name" in sentence


def test_a_certificate_of_another_cluster(cluster: Cluster, tmp_path: Path) -> None:
    certificate, key = foreign_certificate()
    user = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    assert sentence_of(enter(cluster, write(tmp_path / "kubeconfig", cluster, user))) == NOT_ACCEPTED


# --- tokens -----------------------------------------------------------------------------------------------


def test_a_token(cluster: Cluster, token: str, tmp_path: Path) -> None:
    assert_stolen(cluster, "--kubeconfig", str(write(tmp_path / "kubeconfig", cluster, {"token": token})))


def test_a_token_in_a_file(cluster: Cluster, token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    kubeconfig = write(tmp_path / "kubeconfig", cluster, {"tokenFile": "token", "token": "ignored"})
    assert_entered(enter(cluster, kubeconfig))
    (tmp_path / "token").unlink()
    sentence = sentence_of(enter(cluster, kubeconfig))
    assert sentence == f"the token file {tmp_path}/token cannot be read: No such file or directory; log in again"


def test_a_wrong_token(cluster: Cluster, tmp_path: Path) -> None:
    kubeconfig = write(tmp_path / "kubeconfig", cluster, {"token": "wrong"})
    assert sentence_of(enter(cluster, kubeconfig)) == NOT_ACCEPTED
    listing = run_mirror(cluster, "ls", "--kubeconfig", str(kubeconfig))
    assert sentence_of(listing) == NOT_ACCEPTED


def test_a_token_that_is_over(cluster: Cluster, tmp_path: Path) -> None:
    with robot(cluster, "former") as token:
        kubeconfig = write(tmp_path / "kubeconfig", cluster, {"token": token})
    wait_until(lambda: not is_accepted(kubeconfig), WITHIN_S, "the token is accepted")
    assert sentence_of(enter(cluster, kubeconfig)) == NOT_ACCEPTED


# --- programs that hand out credentials -------------------------------------------------------------------


class Plugin:
    """A program that hands out credentials.

    Attributes:
        section: The user's section of a kubeconfig beside it.
    """

    def __init__(self, folder: Path, version: str = "v1") -> None:
        self._folder = folder
        self._version = f"client.authentication.k8s.io/{version}"
        self.section = {
            "exec": {
                "apiVersion": self._version,
                "command": "./login",
                "args": ["--of", "shop"],
                "interactiveMode": "Never",
                "installHint": "get it at\nexample.org",
            }
        }
        self._write("")

    def give(self, *statuses: dict[str, Any]) -> None:
        """What each run hands out, beginning with the next; the last stays."""
        answers = [{"apiVersion": self._version, "kind": "ExecCredential", "status": status} for status in statuses]
        self._write(f"print(json.dumps({answers}[min(count - {self.runs}, {len(answers) - 1})]))")

    def fail(self, said: str) -> None:
        """Has it complain."""
        self._write(f"sys.exit({said!r})")

    @property
    def runs(self) -> int:
        """How often it has been run."""
        counted = self._folder / "runs"
        return len(counted.read_text().splitlines()) if counted.exists() else 0

    def _write(self, code: str) -> None:
        lines = (
            f"#!{sys.executable}",
            "import json, os, sys",
            f"with open({str(self._folder / 'runs')!r}, 'a+') as runs:",
            "    runs.seek(0)",
            "    count = len(runs.readlines())",
            "    print(os.environ['KUBERNETES_EXEC_INFO'], file=runs)",
            "assert sys.argv[1:] == ['--of', 'shop']",
            code,
        )
        fresh = self._folder / "login.fresh"
        fresh.write_text("\n".join(lines))
        fresh.chmod(0o755)
        fresh.rename(self._folder / "login")


@pytest.fixture
def plugin(tmp_path: Path) -> Plugin:
    return Plugin(tmp_path)


def test_a_plugin_that_gives_a_token(cluster: Cluster, plugin: Plugin, token: str, tmp_path: Path) -> None:
    plugin.give({"token": token})
    assert_stolen(cluster, "--kubeconfig", str(write(tmp_path / "kubeconfig", cluster, plugin.section)))
    assert plugin.runs == 1


def test_a_plugin_of_before(cluster: Cluster, token: str, tmp_path: Path) -> None:
    plugin = Plugin(tmp_path, "v1beta1")
    plugin.give({"token": token, "expirationTimestamp": "2999-01-02T03:04:05Z"})
    assert_entered(enter(cluster, write(tmp_path / "kubeconfig", cluster, plugin.section)))
    assert plugin.runs == 1


def administrator(cluster: Cluster) -> dict[str, str]:
    """The administrator's certificate as a plugin hands it out."""
    _, user = sections(cluster)
    certificate, key = (base64.b64decode(user[f"client-{each}-data"]).decode() for each in ("certificate", "key"))
    return {"clientCertificateData": certificate, "clientKeyData": key}


def test_a_plugin_that_gives_a_certificate(cluster: Cluster, plugin: Plugin, tmp_path: Path) -> None:
    plugin.give(administrator(cluster))
    assert_stolen(cluster, "--kubeconfig", str(write(tmp_path / "kubeconfig", cluster, plugin.section)))
    assert plugin.runs == 1


def test_a_plugin_is_asked_again_for_what_is_not_accepted(cluster: Cluster, plugin: Plugin, tmp_path: Path) -> None:
    kubeconfig = write(tmp_path / "kubeconfig", cluster, plugin.section)
    certificate, key = foreign_certificate()
    foreign = {"clientCertificateData": certificate.decode(), "clientKeyData": key.decode()}
    plugin.give(foreign, administrator(cluster))
    assert_entered(enter(cluster, kubeconfig))
    assert plugin.runs == 2
    plugin.give({"token": "wrong"})
    assert sentence_of(enter(cluster, kubeconfig)) == NOT_ACCEPTED
    assert plugin.runs == 4


@pytest.mark.parametrize("expiry", [{}, {"expirationTimestamp": "2020-01-02T03:04:05Z"}], ids=["rejected", "expired"])
def test_a_plugin_is_asked_again_when_a_session_reconnects(
    cluster: Cluster, plugin: Plugin, expiry: dict[str, str], tmp_path: Path
) -> None:
    relay = relay_to(cluster.kubeconfig)
    through_relay = yaml.safe_load(relay.kubeconfig(cluster.kubeconfig, tmp_path).read_text())["clusters"][0]["cluster"]
    kubeconfig = write(tmp_path / "kubeconfig", cluster, plugin.section, through_relay)
    with contextlib.ExitStack() as stack:
        stack.callback(relay.close)
        later = stack.enter_context(robot(cluster, "later"))
        with robot(cluster, "earlier") as earlier:
            direct = write(tmp_path / "direct", cluster, {"token": earlier})
            plugin.give({"token": earlier, **expiry})
            options = ["--kubeconfig", str(kubeconfig)]
            command = ("python3", "-u", "-c", PROGRAM)
            process = cluster.start("deployment/web", *command, options=options, stdin=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            program = Program(process)
            assert program.hear() == "begun", program.told
            assert program.ask(ORDERS) == "[orders]"
            if not expiry:
                assert plugin.runs == 1
        if not expiry:  # the API server may remember it for 10 s
            wait_until(lambda: not is_accepted(direct), WITHIN_S, "the token is accepted still")
        plugin.give({"token": later, **expiry})
        before = plugin.runs
        relay.cut()
        program.wait_told(LOST, BACK)
        assert program.ask(NAME) == "found"
        assert plugin.runs > before


def test_a_plugin_that_fails(cluster: Cluster, plugin: Plugin, tmp_path: Path) -> None:
    plugin.fail("token.go:12: refresh\nyour login is over: run shop login")
    kubeconfig = write(tmp_path / "kubeconfig", cluster, plugin.section)
    sentence = sentence_of(enter(cluster, kubeconfig))
    assert sentence == (
        f"the program '{tmp_path}/login', by which the context 'shop' logs in, failed: your login is over: run shop "
        "login; log in again, and see that `kubectl get pods` works here"
    )
    assert sentence_of(run_mirror(cluster, "ls", "--kubeconfig", str(kubeconfig))) == sentence


def test_a_plugin_that_fails_on_a_terminal(cluster: Cluster, plugin: Plugin, tmp_path: Path) -> None:
    """There it may ask for something, as with kubectl."""
    plugin.fail("your login is over")
    kubeconfig = write(tmp_path / "kubeconfig", cluster, plugin.section)
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:
        with open(theirs, "wb", buffering=0) as terminal:
            command = [*MIRROR, "ls", "--kubeconfig", str(kubeconfig)]
            ended = subprocess.run(
                command,
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
                env=cluster.variables,
                timeout=WITHIN_S,
                check=False,
            )
        shown = b""
        with contextlib.suppress(OSError):  # EIO: nobody is left who could write
            while chunk := screen.read(1 << 12):
                shown += chunk
    assert ended.returncode == EXIT_FAILED
    said, sentence = shown.decode().splitlines()
    assert said == "your login is over"
    assert sentence.startswith(f"mirror: the program '{tmp_path}/login', by which the context 'shop' logs in, failed")


def test_a_plugin_that_is_not_installed(cluster: Cluster, plugin: Plugin, tmp_path: Path) -> None:
    plugin.section["exec"]["command"] = "shop-login"
    sentence = sentence_of(enter(cluster, write(tmp_path / "kubeconfig", cluster, plugin.section)))
    assert sentence == (
        "the context 'shop' logs in by the program 'shop-login', which is not installed: get it at example.org"
    )


# --- several files and contexts ---------------------------------------------------------------------------


def write_parts(path: Path, **parts: Any) -> Path:
    """A kubeconfig of some parts: `clusters`, `users` and `contexts` by their names."""
    kinds = {"clusters": "cluster", "users": "user", "contexts": "context"}
    document = {
        key: [{"name": name, kinds[key]: content} for name, content in part.items()] if key in kinds else part
        for key, part in parts.items()
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def test_several_files(cluster: Cluster, token: str, tmp_path: Path) -> None:
    """The first to name something is right."""
    server, _ = sections(cluster)
    context = {"cluster": "c", "user": "u", "namespace": cluster.namespace}
    files = [
        tmp_path / "none",
        write_parts(tmp_path / "1" / "config", contexts={"shop": context}, **{"current-context": "shop"}),
        write_parts(tmp_path / "2" / "config", clusters={"c": server}, users={"u": {"tokenFile": "token"}}),
        write_parts(
            tmp_path / "3" / "config",
            clusters={"c": {"server": "https://127.0.0.1:1"}},
            users={"u": {"token": "wrong"}},
            contexts={"other": context, "shop": {"cluster": "c", "user": "nobody"}},
            **{"current-context": "other"},
        ),
    ]
    (tmp_path / "2" / "token").write_text(token)
    assert_entered(enter(cluster, os.pathsep.join(map(str, files))))
    backwards = enter(cluster, os.pathsep.join(map(str, reversed(files))))
    assert "the API server https://127.0.0.1:1 of the context 'other' is not there" in sentence_of(backwards)


def test_contexts_and_their_namespaces(cluster: Cluster, token: str, tmp_path: Path) -> None:
    server, user = sections(cluster)
    kubeconfig = write_parts(
        tmp_path / "config",
        clusters={"c": server},
        users={"robot": {"token": token}, "admin": user},
        contexts={
            "shop": {"cluster": "c", "user": "robot", "namespace": cluster.namespace},
            "elsewhere": {"cluster": "c", "user": "admin", "namespace": "mirror-nowhere"},
            "none": {"cluster": "c", "user": "admin"},
        },
        **{"current-context": "elsewhere"},
    )
    assert_entered(enter(cluster, kubeconfig, "--context", "shop"))
    assert_entered(enter(cluster, kubeconfig, "-n", cluster.namespace))
    assert "there is no namespace mirror-nowhere" in sentence_of(enter(cluster, kubeconfig))
    assert "in namespace default" in sentence_of(enter(cluster, kubeconfig, "--context", "none"))

    def listed(*options: str) -> Sequence[str]:
        result = run_mirror(cluster, "ls", "-o", "json", "--kubeconfig", str(kubeconfig), *options)
        assert result.returncode == 0, result.stderr
        return [row["target"] for row in json.loads(result.stdout)]

    assert "pod/db-0" in listed("--context", "shop")
    assert "pod/db-0" in listed("-n", cluster.namespace)
    nothing = run_mirror(cluster, "ls", "--kubeconfig", str(kubeconfig))
    assert "mirror-nowhere" in sentence_of(nothing)
