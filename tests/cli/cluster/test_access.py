from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from mirror.cli.cluster import access
from mirror.cli.cluster.access import Access, AccessError, find_access
from mirror.cli.cluster.credentials import TokenFile

Find = Callable[..., Any]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """The access that a kubeconfig of one cluster and one user gives."""

    async def find(cluster: Mapping[str, Any], user: Mapping[str, Any] | None = None, **variables: str) -> Access:
        document = {
            "clusters": [{"name": "c", "cluster": {"server": "https://api.example:6443", **cluster}}],
            "users": [{"name": "u", "user": user or {}}],
            "contexts": [{"name": "shop", "context": {"cluster": "c", "user": "u", "namespace": "orders"}}],
            "current-context": "shop",
        }
        path = tmp_path / "kubeconfig"
        path.write_text(json.dumps(document))
        return await find_access({"KUBECONFIG": str(path), **variables})

    return find


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def test_all_of_it(find: Find) -> None:
    found = await find({"tls-server-name": "api", "proxy-url": "http://proxy:3128"}, {"token": "abc"})
    assert (found.server, found.namespace, found.context) == ("https://api.example:6443", "orders", "shop")
    assert (found.server_name, found.proxy) == ("api", "http://proxy:3128")
    assert await found.credentials.header() == "Bearer abc"
    assert found.tls is not None
    assert found.tls.verify_mode is ssl.CERT_REQUIRED
    assert found.tls.check_hostname
    assert found.tls.get_ca_certs() or ssl.get_default_verify_paths().capath
    assert found.headers == ()


async def test_the_proxy_of_the_environment(find: Find) -> None:
    assert (await find({}, HTTPS_PROXY="http://proxy:1")).proxy == "http://proxy:1"
    assert (await find({}, HTTPS_PROXY="http://proxy:1", NO_PROXY="example")).proxy is None


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("https://api/", "https://api"),
        ("https://api/k8s/c-1/", "https://api/k8s/c-1"),
        ("localhost:80", "http://localhost:80"),
    ],
)
async def test_servers(find: Find, server: str, expected: str) -> None:
    found = await find({"server": server})
    assert found.server == expected
    assert (found.tls is None) is expected.startswith("http:")


@pytest.mark.parametrize(
    "server",
    ["ftp://api", "https://", "https://api:6443x", "https://api:99999", "https://[::1", "https://api..example"],
)
async def test_no_server(find: Find, server: str) -> None:
    with pytest.raises(AccessError, match=r"is no http or https URL: correct it with `kubectl config set-cluster`"):
        await find({"server": server})


async def test_not_verified(find: Find) -> None:
    tls = (await find({"insecure-skip-tls-verify": True})).tls
    assert (tls.verify_mode, tls.check_hostname) == (ssl.CERT_NONE, False)


async def test_the_clusters_own_authority(find: Find, tmp_path: Path) -> None:
    content = trustme.CA().cert_pem.bytes()
    (tmp_path / "ca.pem").write_bytes(content)
    by_path = (await find({"certificate-authority": "ca.pem"})).tls.get_ca_certs()
    by_data = (await find({"certificate-authority-data": encoded(content), "certificate-authority": "no"})).tls
    assert len(by_path) == 1
    assert by_data.get_ca_certs() == by_path


@pytest.mark.parametrize(
    ("cluster", "expected"),
    [
        ({"certificate-authority-data": encoded(b"words")}, "is no certificate: correct it"),
        ({"certificate-authority-data": encoded(b"\xff")}, "is no certificate: correct it"),
        ({"certificate-authority-data": "a"}, "is not base64: get the kubeconfig anew"),
        ({"certificate-authority": "nowhere.pem"}, "cannot be read: No such file or directory; get it anew"),
    ],
)
async def test_no_authority(find: Find, cluster: Mapping[str, Any], expected: str) -> None:
    with pytest.raises(AccessError) as caught:
        await find(cluster)
    assert expected in caught.value.sentence
    assert "\n" not in caught.value.sentence


async def test_client_certificate(find: Find, tmp_path: Path) -> None:
    mine = trustme.CA().issue_cert("me@example")
    certificate, key = mine.cert_chain_pems[0].bytes(), mine.private_key_pem.bytes()
    (tmp_path / "c.pem").write_bytes(certificate)
    (tmp_path / "k.pem").write_bytes(key)
    (tmp_path / "both.pem").write_bytes(certificate + key)
    before = set(tmp_path.parent.iterdir())
    for user in (
        {"client-certificate": "c.pem", "client-key": "k.pem"},
        {"client-certificate": "both.pem"},
        {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)},
    ):
        assert await (await find({}, user)).credentials.header() is None
    assert set(tmp_path.parent.iterdir()) == before, "a key was written somewhere"


async def test_a_certificate_that_does_not_fit_its_key(find: Find) -> None:
    authority = trustme.CA()
    user = {
        "client-certificate-data": encoded(authority.issue_cert("a@b").cert_chain_pems[0].bytes()),
        "client-key-data": encoded(authority.issue_cert("a@b").private_key_pem.bytes()),
    }
    with pytest.raises(AccessError, match=r"client certificate and key of the context 'shop' .* cannot be used"):
        await find({}, user)


LOCKED = b"""-----BEGIN RSA PRIVATE KEY-----
Proc-Type: 4,ENCRYPTED
DEK-Info: AES-128-CBC,00000000000000000000000000000000

AAAA
-----END RSA PRIVATE KEY-----
"""


async def test_a_key_with_a_password_asks_nobody(find: Find) -> None:
    certificate = trustme.CA().issue_cert("a@b").cert_chain_pems[0].bytes()
    with pytest.raises(AccessError, match=r"cannot be used: they do not fit, are broken, or are locked by a password"):
        await find({}, {"client-certificate-data": encoded(certificate), "client-key-data": encoded(LOCKED)})


async def test_acting_as_somebody_else(find: Find) -> None:
    user = {"as": "me", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"reason": ["x", "y"]}}
    assert (await find({}, user)).headers == (
        ("Impersonate-User", "me"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-reason", "x"),
        ("Impersonate-Extra-reason", "y"),
    )


# --- inside a cluster -------------------------------------------------------------------------------------


@pytest.fixture
def service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text("abc")
    (folder / "namespace").write_text("orders")
    (folder / "ca.crt").write_bytes(trustme.CA().cert_pem.bytes())
    monkeypatch.setattr(access, "SERVICE_ACCOUNT", folder)
    return folder


INSIDE = {"HOME": "/nowhere", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


async def test_a_service_account(service_account: Path) -> None:
    found = await find_access({**INSIDE, "HTTPS_PROXY": "http://proxy"})
    assert (found.server, found.namespace, found.context) == ("https://10.96.0.1:6443", "orders", "")
    assert isinstance(found.credentials, TokenFile)
    assert await found.credentials.header() == "Bearer abc"
    assert found.tls is not None
    assert len(found.tls.get_ca_certs()) == 1
    assert (await find_access({**INSIDE, "KUBERNETES_SERVICE_HOST": "fd00::1"})).server == "https://[fd00::1]:6443"


async def test_a_kubeconfig_goes_before_a_service_account(service_account: Path, find: Find) -> None:
    assert (await find({}, **INSIDE)).context == "shop"


async def test_half_a_service_account(service_account: Path) -> None:
    (service_account / "namespace").unlink()
    with pytest.raises(AccessError, match=r"service account cannot be read.*mount it whole, or set KUBECONFIG"):
        await find_access(INSIDE)


async def test_nothing_at_all() -> None:
    with pytest.raises(AccessError, match=r"there is no kubeconfig at /nowhere/.kube/config: set KUBECONFIG"):
        await find_access({"HOME": "/nowhere"})
