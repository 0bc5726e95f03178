"""What the files called kubeconfig say about one context, by kubectl's rules. Decisions only: it runs nothing.

The files may be several: then the first to define a name, or the current context, is right. Relative paths are
relative to the file that they stand in.

The official client reads these files too, but its import takes 0.35 to 0.55 s (of the 1.5 s that a start may take),
and of several files it takes the last one's current context: the wrong cluster.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from mirror.cli.errors import EXIT_FAILED, EXIT_USAGE, MirrorError

Section = Mapping[str, Any]
"""A mapping from a kubeconfig file."""

_PATHS = {
    "clusters": ("certificate-authority",),
    "users": ("client-certificate", "client-key", "tokenFile"),
    "contexts": (),
}
"""What is in a file, by name, and which of its values are paths."""


class _Variable(TypedDict):
    name: str
    value: str


class _Plugin(TypedDict, total=False):
    command: str
    args: list[str] | None
    env: list[_Variable] | None


_Cluster = TypedDict(
    "_Cluster",
    {"server": str | None, "certificate-authority": str | None, "tls-server-name": str | None},
    total=False,
)
_User = TypedDict(
    "_User",
    {
        "client-certificate": str | None,
        "client-key": str | None,
        "token": str | None,
        "tokenFile": str | None,
        "exec": _Plugin | None,
        "auth-provider": dict[str, Any] | None,
        "as-groups": list[str] | None,
        "as-user-extra": dict[str, list[str]] | None,
    },
    total=False,
)


class _Context(TypedDict, total=False):
    cluster: str | None
    user: str | None
    namespace: str | None


_SHAPES: Mapping[str, Any] = {"clusters": _Cluster, "users": _User, "contexts": _Context}
"""The types of what is read from them. Files that somebody wrote by hand have others."""


class AccessError(MirrorError):
    """The user's way into the cluster is missing, broken or has expired."""


@dataclasses.dataclass(frozen=True)
class Context:
    """One context and what it refers to. Paths are absolute.

    Attributes:
        name: The context's.
        namespace: `default` where none is named.
        cluster: The section `cluster`: `server`, `certificate-authority-data`, ...
        user: The section `user`: `token`, `exec`, ...; empty where the context names none.
        files: Where it was read, for the official client and for messages.
    """

    name: str
    namespace: str
    cluster: Section
    user: Section
    files: tuple[Path, ...]


def files_of(variables: Mapping[str, str], kubeconfig: str | None) -> tuple[Path, ...]:
    """The files to read: the one asked for, or those of KUBECONFIG that are there, or `~/.kube/config` if it is.

    Raises:
        AccessError: The file asked for is not there.
    """
    if kubeconfig:
        path = Path(kubeconfig).expanduser()
        if not path.exists():
            raise AccessError(f"there is no kubeconfig {kubeconfig}: give --kubeconfig one that is there", EXIT_USAGE)
        return (path,)
    return tuple(path for path in _usual_places(variables) if path.exists())


def no_files(variables: Mapping[str, str]) -> AccessError:
    """What to say where there is no file."""
    places = " nor ".join(map(str, _usual_places(variables)))
    return AccessError(
        f"there is no kubeconfig at {places}: set KUBECONFIG or give --kubeconfig, or choose a target on this machine"
    )


def _usual_places(variables: Mapping[str, str]) -> list[Path]:
    names = [name for name in variables.get("KUBECONFIG", "").split(":") if name]
    if names:
        return [Path(name).expanduser() for name in names]
    return [Path(variables.get("HOME") or Path.home()) / ".kube" / "config"]


def read(files: tuple[Path, ...], name: str | None = None) -> Context:
    """A context of these files.

    Args:
        files: At least one.
        name: The context; None: the current one.

    Raises:
        AccessError: A file cannot be read or is no kubeconfig, there is no such context, or it is incomplete.
    """
    documents = [(path, _load(path)) for path in files]
    where = ", ".join(map(str, files))
    contexts = _named(documents, "contexts")
    if not name:
        name = next((text for _, document in documents if (text := document.get("current-context"))), None)
        if not name:
            raise AccessError(f"no context is chosen in {where}: {_choice(contexts)}")
        if name not in contexts:
            raise AccessError(f"the current context {name!r} is not in {where}: {_choice(contexts)}")
    elif name not in contexts:
        raise AccessError(f"there is no context {name!r} in {where}: {_choice(contexts)}", EXIT_USAGE)
    context = contexts[name]

    clusters, users = _named(documents, "clusters"), _named(documents, "users")
    cluster = clusters.get(str(context.get("cluster")))
    if not cluster or not cluster.get("server"):
        raise AccessError(
            f"the context {name!r} in {where} names the cluster {context.get('cluster')!r}, "
            "for which there is no server: correct it with `kubectl config set-cluster`"
        )
    user_name = context.get("user")
    if user_name and user_name not in users:
        raise AccessError(
            f"the context {name!r} in {where} names the user {user_name!r}, who is not there: "
            "correct it with `kubectl config set-credentials`"
        )
    return Context(
        name=name,
        namespace=context.get("namespace") or "default",
        cluster=cluster,
        user=users[user_name] if user_name else {},
        files=files,
    )


def _load(path: Path) -> Section:
    """A file's document; empty for an empty file."""
    import yaml  # type: ignore[import-untyped] # 50 ms

    try:
        # libyaml where it is there: 1 ms instead of 20 for a file with certificates.
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise AccessError(f"the kubeconfig {path} cannot be read: {error.strerror}", EXIT_FAILED) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" (line {mark.line + 1})" if mark else ""
        raise AccessError(f"the kubeconfig {path} is not YAML{place}: correct it or choose another") from None
    if not isinstance(document or {}, dict):
        raise AccessError(f"{path} is no kubeconfig: choose another with KUBECONFIG or --kubeconfig")
    return document or {}


def _named(documents: Iterable[tuple[Path, Section]], kind: str) -> dict[str, Section]:
    """The clusters, users or contexts of all files by their names; the first of a name is right."""
    found: dict[str, Section] = {}
    for path, document in documents:
        entries = document.get(kind) or []
        for entry in entries if isinstance(entries, list) else [entries]:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
                raise AccessError(f"{path} is no kubeconfig: its {kind} are not a list of things with names")
            content = entry.get(kind.removesuffix("s")) or {}
            if not isinstance(content, dict):
                raise AccessError(f"{path} is no kubeconfig: {kind} {entry['name']!r} is empty")
            try:
                msgspec.convert(content, _SHAPES[kind])
            except msgspec.ValidationError as error:
                raise AccessError(
                    f"{path} is no kubeconfig: in {kind} {entry['name']!r}: {error}; correct it"
                ) from None
            found.setdefault(entry["name"], _absolute(content, kind, path.absolute().parent))
    return found


def _absolute(content: Section, kind: str, folder: Path) -> Section:
    paths: dict[str, Any] = {key: str(folder / content[key]) for key in _PATHS[kind] if content.get(key)}
    plugin = content.get("exec")
    if isinstance(plugin, dict) and "/" in str(plugin.get("command", "")):  # a bare name is looked up in PATH
        paths["exec"] = {**plugin, "command": str(folder / plugin["command"])}
    return {**content, **paths}


def _choice(contexts: Iterable[str]) -> str:
    names = sorted(contexts)
    return f"choose one with --context: {', '.join(names)}" if names else "it has none; choose another kubeconfig"
