"""Where the cluster is, who the user is there, and how both prove it.

`kubeconfig` reads what the files say, `proxies` finds the way, `credentials` proves who asks; here they become one
`Access`. Inside a cluster, where there is no kubeconfig, the pod's service account is the user.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import trio

from mirror.cli.cluster.credentials import Credentials, TokenFile, credentials_of, load_certificate
from mirror.cli.cluster.kubeconfig import AccessError, Context, Section, files_of, no_files, read
from mirror.cli.cluster.proxies import proxy_for

__all__ = ["Access", "AccessError", "find_access"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its service account: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/"""


@dataclasses.dataclass(frozen=True)
class Access:
    """A cluster and a user of it.

    Attributes:
        server: The API server's URL, without a slash at its end; it may have a path.
        namespace: The context's, else `default`.
        context: The context's name; empty inside a cluster.
        credentials: Where the header Authorization comes from.
        tls: None where the server's URL is plain http.
        server_name: What the server's certificate must be for; None: the name in its URL.
        proxy: The URL of the proxy through which it is reached, or None.
        headers: What goes with each request besides: as whom the user acts.
    """

    server: str
    namespace: str
    context: str
    credentials: Credentials
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    proxy: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


async def find_access(
    variables: Mapping[str, str],
    *,
    kubeconfig: str | None = None,
    context: str | None = None,
    folder: str | None = None,
) -> Access:
    """The cluster that the user means. Starts no program and asks nobody: that happens with the first request.

    Args:
        variables: The user's environment: KUBECONFIG, HOME, HTTPS_PROXY, NO_PROXY, and what a plugin gets.
        kubeconfig: The one file to read instead of those in KUBECONFIG or `~/.kube/config`.
        context: The context to use instead of the current one.
        folder: The user's working directory, where it is not that of this process.

    Raises:
        AccessError: A MirrorError: no kubeconfig, nothing usable in it, no such context.
    """
    return await trio.to_thread.run_sync(_find, variables, kubeconfig, context, folder, SERVICE_ACCOUNT)


def _find(
    variables: Mapping[str, str], kubeconfig: str | None, name: str | None, folder: str | None, service_account: Path
) -> Access:
    files = files_of(variables, kubeconfig)
    if files:
        return _of_context(read(files, name), variables, folder)
    if variables.get("KUBERNETES_SERVICE_HOST") and (service_account / "token").exists():
        return _of_service_account(variables, service_account)
    raise no_files(variables)


def _of_context(context: Context, variables: Mapping[str, str], folder: str | None) -> Access:
    server = str(context.cluster["server"])
    if "://" not in server:
        server = f"http://{server}"  # as kubectl takes it
    server = server.rstrip("/")
    if not _is_server(server):
        raise AccessError(
            f"the server {server} of the context {context.name!r} is no http or https URL: "
            "correct it with `kubectl config set-cluster`"
        )
    tls = _tls(context) if urlsplit(server).scheme == "https" else None
    return Access(
        server=server,
        namespace=context.namespace,
        context=context.name,
        credentials=credentials_of(context, variables, tls, folder),
        tls=tls,
        server_name=context.cluster.get("tls-server-name"),
        proxy=proxy_for(server, variables, context.cluster),
        headers=_impersonation(context.user),
    )


def _is_server(url: str) -> bool:
    """Whether requests can be made of a URL."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # UnicodeError is one
        return False
    return parts.scheme in ("http", "https") and bool(host) and port != 0


def _of_service_account(variables: Mapping[str, str], folder: Path) -> Access:
    host, port = variables["KUBERNETES_SERVICE_HOST"], variables.get("KUBERNETES_SERVICE_PORT") or "443"
    try:
        authorities = (folder / "ca.crt").read_text()
        namespace = (folder / "namespace").read_text().strip()
    except OSError as error:
        raise AccessError(
            f"the pod's service account cannot be read: {error}; mount it whole, or set KUBECONFIG"
        ) from None
    return Access(
        server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
        namespace=namespace,
        context="",
        credentials=TokenFile(folder / "token"),
        tls=_trusting(authorities),
    )


def _tls(context: Context) -> ssl.SSLContext:
    """What the API server must prove, and by which certificate we do."""
    where = ", ".join(map(str, context.files))
    authorities = _content(context.cluster, "certificate-authority", where)
    try:
        tls = _trusting(authorities.decode() if authorities else None)
    except (ssl.SSLError, UnicodeDecodeError):
        raise AccessError(
            f"the certificate-authority of the context {context.name!r} in {where} is no certificate: correct it"
        ) from None
    if context.cluster.get("insecure-skip-tls-verify"):
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    certificate = _content(context.user, "client-certificate", where)
    if certificate:
        try:
            load_certificate(tls, certificate, _content(context.user, "client-key", where) or b"")
        except ssl.SSLError:
            raise AccessError(
                f"the client certificate and key of the context {context.name!r} in {where} cannot be used: they do "
                "not fit, are broken, or are locked by a password; log in again, or ask for another kubeconfig"
            ) from None
    return tls


def _trusting(authorities: str | None) -> ssl.SSLContext:
    """TLS as Go's clients speak it.

    Args:
        authorities: Who may vouch for the server, in PEM; None: whom this machine trusts.
    """
    tls = ssl.create_default_context(cadata=authorities)
    # Clusters' own authorities are often laxer than Python 3.13 wants them to be, and may be intermediate ones.
    tls.verify_flags = (tls.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return tls


def _content(section: Section, key: str, where: str) -> bytes | None:
    """What `KEY-data` holds, else the file that `KEY` names; None if neither is there."""
    data = section.get(f"{key}-data")
    try:
        if data:
            return base64.b64decode(data, validate=False)
        return Path(section[key]).read_bytes() if section.get(key) else None
    except (binascii.Error, ValueError, TypeError):
        raise AccessError(f"{key}-data in {where} is not base64: get the kubeconfig anew") from None
    except OSError as error:
        raise AccessError(
            f"the file {section[key]}, which {where} names as {key}, cannot be read: {error.strerror}; get it anew"
        ) from None


def _impersonation(user: Section) -> tuple[tuple[str, str], ...]:
    """`as` and its kin: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation."""
    headers = [("Impersonate-User", user["as"])] if user.get("as") else []
    headers += [("Impersonate-Uid", user["as-uid"])] if user.get("as-uid") else []
    headers += [("Impersonate-Group", group) for group in user.get("as-groups") or ()]
    for key, values in (user.get("as-user-extra") or {}).items():
        headers += [(f"Impersonate-Extra-{key}", value) for value in values]
    return tuple((name, str(value)) for name, value in headers)
