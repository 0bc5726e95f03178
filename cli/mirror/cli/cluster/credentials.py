"""How the user proves who they are: the header Authorization, and how to get the next one.

A token may stand in kubeconfig or in a file that somebody renews; a program may hand it out (`exec`: the clouds'
plugins); or the official client asks a provider for it (`auth-provider`: OpenID Connect). The latter two are that
client's code, run in a thread: they may take seconds.

Importing `kubernetes` imports all of it, 0.5 s. The plugins' module alone costs a millisecond, that of the providers
0.35 s; `_part_of_client` gets at them.
"""

from __future__ import annotations

import base64
import datetime
import importlib.util
import os
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import trio

from mirror.cli.cluster.kubeconfig import AccessError, Context, Section

TOKEN_FILE_S = 60.0
"""How old what was read from a token file may be; client-go reads it as often."""

EXPIRY_MARGIN = datetime.timedelta(seconds=10)
"""A token that expires within this is renewed: clocks differ, and requests take time."""


class Credentials(Protocol):
    """Where the header comes from.

    Attributes:
        certificate: What new connections prove the user by besides, in PEM, where `header` has renewed that; else
            empty.
    """

    certificate: bytes

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        """The value of Authorization; None: none is sent.

        Args:
            rejected: What the server did not accept: not this one again, if there is a way to another.
            certificate: The one that went with it.

        Raises:
            AccessError: There is none to be had.
        """
        ...


class Fixed:
    """What stands in kubeconfig; None: only a certificate says who the user is, or nothing does."""

    certificate = b""

    def __init__(self, value: str | None) -> None:
        self._value = value

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        """See Credentials."""
        return self._value


class TokenFile:
    """A file with a token that is renewed by others, as service accounts have it."""

    certificate = b""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._value = ""
        self._read_at = -TOKEN_FILE_S

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        """See Credentials."""
        if rejected == self._value or time.monotonic() - self._read_at >= TOKEN_FILE_S:
            try:
                text = await trio.to_thread.run_sync(self._path.read_text)
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "it is no text"
                raise AccessError(f"the token file {self._path} cannot be read: {reason}; log in again") from None
            self._value = f"Bearer {text.strip()}"
            self._read_at = time.monotonic()
        return self._value


class Plugin:
    """A program that hands out a token, a client certificate, or both (`exec` in kubeconfig).

    Its protocol: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
    """

    def __init__(
        self, context: Context, variables: Mapping[str, str], tls: ssl.SSLContext | None, folder: str | None
    ) -> None:
        self._context = context
        self._exec: Section = context.user["exec"]
        self._variables = variables
        self._tls = tls
        self._folder = folder
        self._lock = trio.Lock()
        self._value: str | None = None
        self.certificate = b""
        self._expires: datetime.datetime | None = None
        self._has_run = False

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        """See Credentials. Several tasks that need another one at the same time start the program once."""
        async with self._lock:
            given = rejected or certificate
            is_rejected = given and (rejected, certificate) == (self._value, self.certificate)
            if not self._has_run or is_rejected or _is_over(self._expires):
                self._take(await trio.to_thread.run_sync(self._run, abandon_on_cancel=True))
                self._has_run = True
            return self._value

    def _run(self) -> Mapping[str, Any]:
        exec_provider = _part_of_client("kubernetes.config.exec_provider")
        command = self._exec.get("command", "")
        cluster = {key: value for key, value in self._context.cluster.items() if key != "proxy-url"}
        try:
            plugin = exec_provider.ExecProvider(_Node(self._exec), self._folder, _ClusterNode(cluster))
            named = {item["name"]: item["value"] for item in self._exec.get("env") or ()}
            plugin.env = {**self._variables, **named}
            status = plugin.run()
        except FileNotFoundError:
            hint = " ".join(str(self._exec.get("installHint") or "").split())
            raise AccessError(
                f"the context {self._context.name!r} logs in by the program {command!r}, which is not installed: "
                + (hint or "install it, or put it on PATH")
            ) from None
        except OSError as error:
            raise AccessError(
                f"the context {self._context.name!r} logs in by the program {command!r}, which cannot be run: "
                f"{error.strerror}; correct its permissions"
            ) from None
        except (exec_provider.ConfigException, KeyError, TypeError, AttributeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            said = lines[-1].removeprefix("exec: ") if lines else "it says nothing"
            if isinstance(error, AttributeError):  # the client looks for what went to the terminal instead
                said = "what it says is above"
            raise AccessError(
                f"the program {command!r}, by which the context {self._context.name!r} logs in, failed: {said}; "
                "log in again, and see that `kubectl get pods` works here"
            ) from None
        if not isinstance(status, dict) or not (status.get("token") or status.get("clientCertificateData")):
            raise AccessError(
                f"the program {command!r}, by which the context {self._context.name!r} logs in, gave neither a token "
                "nor a certificate: log in again, and see that `kubectl get pods` works here"
            )
        return status

    def _take(self, status: Mapping[str, Any]) -> None:
        self._value = f"Bearer {status['token']}" if status.get("token") else None
        try:
            text = status.get("expirationTimestamp")
            self._expires = datetime.datetime.fromisoformat(text) if text else None
            if status.get("clientCertificateData") and self._tls:
                certificate = status["clientCertificateData"].encode()
                load_certificate(self._tls, certificate, status.get("clientKeyData", "").encode())
                self.certificate = certificate
        except (ValueError, TypeError, AttributeError, ssl.SSLError):
            raise AccessError(
                f"the program {self._exec['command']!r}, by which the context {self._context.name!r} logs in, gave "
                "what cannot be used: install another version of it"
            ) from None


class Provider:
    """What the official client knows how to get (`auth-provider` in kubeconfig), which also writes it back there."""

    certificate = b""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = trio.Lock()
        self._configuration: Any = None
        self._value: str | None = None

    async def header(self, rejected: str | None = None, *, certificate: bytes = b"") -> str | None:
        """See Credentials. The client renews it by its expiry; a rejected one that has not expired stays."""
        async with self._lock:
            self._value = await trio.to_thread.run_sync(self._ask, rejected is not None, abandon_on_cancel=True)
            return self._value

    def _ask(self, anew: bool) -> str:
        kube_config = _part_of_client("kubernetes.config.kube_config")
        name = (self._context.user["auth-provider"] or {}).get("name")
        try:
            if self._configuration is None or anew:
                self._configuration = kube_config.Configuration()
                kube_config.load_kube_config(
                    config_file=os.pathsep.join(map(str, self._context.files)),
                    context=self._context.name,
                    client_configuration=self._configuration,
                )
            value = self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:  # whatever a provider's library raises
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise AccessError(
                f"the context {self._context.name!r} logs in by {name}, which failed: {said}; log in again, and see "
                "that `kubectl get pods` works here"
            ) from None
        if not value:
            raise AccessError(
                f"the context {self._context.name!r} logs in by {name}, which gives no token: log in again, or use a "
                "credential plugin (exec) instead"
            )
        return str(value)


def credentials_of(
    context: Context, variables: Mapping[str, str], tls: ssl.SSLContext | None, folder: str | None = None
) -> Credentials:
    """What a context's user section says, in kubectl's order.

    Args:
        context: As read.
        variables: What a plugin gets as its environment.
        tls: Where a plugin's certificate goes.
        folder: Where a plugin runs; None: in this process's working directory.
    """
    user = context.user
    if user.get("tokenFile"):
        return TokenFile(Path(user["tokenFile"]))
    if user.get("token"):
        return Fixed(f"Bearer {user['token']}")
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return Fixed(f"Basic {base64.b64encode(pair.encode()).decode()}")
    if user.get("exec"):
        return Plugin(context, variables, tls, folder)
    if user.get("auth-provider"):
        return Provider(context)
    return Fixed(None)


def load_certificate(tls: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Makes a certificate ours from here on; both in PEM, `key` may be empty where `certificate` has it too.

    Raises:
        ssl.SSLError: They are unusable, do not fit, or are locked by a password.
    """
    # The ssl module reads files only. These are in memory: a key is never written anywhere.
    with _MemoryFile(certificate) as certificate_path, _MemoryFile(key or certificate) as key_path:
        tls.load_cert_chain(certificate_path, key_path, password=b"")  # a password would be asked for on the terminal


class _MemoryFile:
    """A file with a path that is nowhere on a disk; for a `with` block."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __enter__(self) -> str:
        self._fd = os.memfd_create("mirror-credentials")
        os.write(self._fd, self._content)
        return f"/proc/self/fd/{self._fd}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


class _Node(dict[str, Any]):
    """A section of kubeconfig as the official client's code wants to read it."""

    def __init__(self, content: Section) -> None:
        super().__init__(content)

    def safe_get(self, key: str) -> Any:
        return self.get(key)


class _ClusterNode:
    def __init__(self, content: Section) -> None:
        self.value = dict(content)


def _is_over(expires: datetime.datetime | None) -> bool:
    return expires is not None and expires - EXPIRY_MARGIN <= datetime.datetime.now(expires.tzinfo)


def _part_of_client(name: str) -> ModuleType:
    """A module of the official client without what its packages' `__init__` would import.

    The packages stay empty in this process, which uses nothing else of them.
    """
    parent = ""
    for part in name.split(".")[:-1]:
        parent = f"{parent}.{part}" if parent else part
        if parent not in sys.modules:
            spec = importlib.util.find_spec(parent)
            if spec is None:
                raise ModuleNotFoundError(f"No module named {parent!r}", name=parent)
            sys.modules[parent] = importlib.util.module_from_spec(spec)
    return importlib.import_module(name)
