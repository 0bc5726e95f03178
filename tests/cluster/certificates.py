"""The cluster's certificates and tokens, and kubeconfig files that use them. All of it dies with the cluster."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from tests.cluster.commands import run

DAYS = "3650"
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_authority(folder: Path) -> None:
    """The certificate authority that everything in the cluster trusts: ca.crt and ca.key."""
    subject = ["-subj", "/CN=mirror-cluster"]
    extension = ["-addext", "keyUsage=critical,keyCertSign,digitalSignature"]
    output = ["-keyout", folder / "ca.key", "-out", folder / "ca.crt"]
    run(["openssl", "req", "-x509", *KEY, "-days", DAYS, *subject, *extension, *output])


def make_certificate(folder: Path, name: str, subject: str, alternative_names: str = "") -> None:
    """A certificate of the authority in the same folder: NAME.crt and NAME.key.

    Args:
        folder: Where the authority is.
        name: Of the files.
        subject: `/O=GROUP/CN=USER`, by which Kubernetes knows its holder.
        alternative_names: For a server: `DNS:name,IP:address,...`.
    """
    request = folder / f"{name}.csr"
    run(["openssl", "req", "-new", *KEY, "-subj", subject, "-keyout", folder / f"{name}.key", "-out", request])
    usage = "extendedKeyUsage=serverAuth" if alternative_names else "extendedKeyUsage=clientAuth"
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"{usage}\n" + (f"subjectAltName={alternative_names}\n" if alternative_names else ""))
    authority = ["-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial", "-days", DAYS]
    output = ["-extfile", extensions, "-out", folder / f"{name}.crt"]
    run(["openssl", "x509", "-req", "-in", request, *authority, *output])


def make_signing_key(folder: Path, name: str) -> None:
    """A key pair: NAME.key and NAME.pub."""
    key = folder / f"{name}.key"
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key])
    run(["openssl", "ec", "-in", key, "-pubout", "-out", folder / f"{name}.pub"])


def make_tokens(users: dict[str, str]) -> tuple[str, dict[str, str]]:
    """A token file for the API server and the token of each user.

    Args:
        users: The groups, joined by commas, of each.
    """
    tokens = {user: secrets.token_hex(16) for user in users}
    rows = [f'{tokens[user]},{user},{user},"{groups}"' for user, groups in users.items()]
    return "\n".join(rows) + "\n", tokens


def by_certificate(folder: Path, name: str) -> dict[str, str]:
    """A kubeconfig's `user` with NAME's certificate."""
    return {
        "client-certificate-data": _encoded(folder / f"{name}.crt"),
        "client-key-data": _encoded(folder / f"{name}.key"),
    }


def kubeconfig(server: str, authority: Path, users: dict[str, dict[str, str]]) -> str:
    """A kubeconfig with a context for each user, of the same name; the first is the current one."""
    contexts = {user: {"cluster": "mirror", "user": user, "namespace": "default"} for user in users}
    cluster = {"server": server, "certificate-authority-data": _encoded(authority)}
    # JSON is YAML too.
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "mirror", "cluster": cluster}],
            "users": [{"name": name, "user": user} for name, user in users.items()],
            "contexts": [{"name": name, "context": context} for name, context in contexts.items()],
            "current-context": next(iter(users)),
        },
        indent=1,
    )


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
