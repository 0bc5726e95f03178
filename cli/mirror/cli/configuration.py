"""Reads a configuration file: JSON, TOML or YAML, with the field names that mirrord's files have.

Every field is either understood or refused by name, since a setting that is silently not followed (a port that is
not stolen, a variable that is not excluded) is worse than a program that does not start. What the file says is
laid over by the command line (`settings.combine`). The only I/O is reading the file.

What is understood is the table `_FIELDS`; the simple forms (`"fs": "read"`, `"incoming": "steal"`, `"dns": false`)
stand for the field named in `_SIMPLE_FORMS`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, ItemsView, Mapping
from typing import Any

from mirror.cli.errors import EXIT_USAGE, MirrorError
from mirror.cli.settings import FS_MODES, INCOMING_MODES, PULL_POLICIES, REPLICAS, TRANSPORTS

_SIMPLE_FORMS = {
    "target": "target.path",
    "feature.env": "feature.env.enabled",
    "feature.fs": "feature.fs.mode",
    "feature.network": "feature.network.enabled",
    "feature.network.incoming": "feature.network.incoming.mode",
    "feature.network.outgoing": "feature.network.outgoing.tcp",
    "feature.network.dns": "feature.network.dns.enabled",
}
_ELSEWHERE = frozenset(
    {
    "accept_invalid_certificates", "api", "baggage", "ci", "container", "experimental",
    "external_proxy", "internal_proxy", "key", "multi_cluster", "operator",
    "profile", "sip_binaries", "skip_build_tools", "skip_extra_build_tools", "skip_processes", "skip_sip",
    "startup_retry", "telemetry", "traceparent", "use_proxy",
    "agent.check_out_of_pods", "agent.clean_iptables_on_start", "agent.dns",
    "agent.exclude_from_mesh", "agent.external_ip_fix", "agent.flush_connections", "agent.http_detection_timeout",
    "agent.inject_headers", "agent.jaq_time_limit", "agent.json_log", "agent.log_level",
    "agent.max_body_buffer_size", "agent.max_body_buffer_timeout", "agent.metrics", "agent.nftables",
    "agent.override_cache_control",
    "feature.copy_target", "feature.db_branches", "feature.magic", "feature.preview", "feature.split_queues",
    "feature.env.env_file", "feature.env.load_from_process", "feature.env.mapping", "feature.fs.local",
    "feature.fs.mapping", "feature.fs.not_found", "feature.fs.read_only", "feature.fs.read_write",
    "feature.fs.readonly_file_buffer", "feature.network.ipv6", "feature.network.dns.filter",
    "feature.network.incoming.http_filter", "feature.network.incoming.https_delivery",
    "feature.network.incoming.ignore_localhost", "feature.network.incoming.ignore_ports",
    "feature.network.incoming.listen_ports", "feature.network.incoming.on_concurrent_steal",
    "feature.network.incoming.port_mapping", "feature.network.incoming.ports",
    "feature.network.incoming.tls_delivery", "feature.network.outgoing.filter",
    "feature.network.outgoing.ignore_localhost", "feature.network.outgoing.udp",
    "feature.network.outgoing.unix_streams",
    }
)  # fmt: skip
"""Fields that such files have and that mirror does not follow."""


_LINUX_CAPABILITIES = frozenset(
    {
        "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
        "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
        "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
        "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT",
        "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
        "SYS_TTY_CONFIG", "WAKE_ALARM",
    }
)  # fmt: skip
"""capabilities(7)."""
_PROFILES = ("RuntimeDefault", "Localhost", "Unconfined")
_TOLERATIONS = {"operator": ("Exists", "Equal"), "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute")}
_QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
"""apimachinery/pkg/api/resource/quantity.go"""


def read(path: str) -> dict[str, Any]:
    """Reads a file.

    Args:
        path: Its name; the suffix says the format, JSON without one. `-` is standard input, as JSON.

    Returns:
        The fields of `Settings` that it sets.

    Raises:
        MirrorError: The file cannot be read, or something in it is not understood.
    """
    try:
        if path == "-":
            content = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                content = file.read()
    except OSError as error:
        raise MirrorError(f"configuration file {path}: {error.strerror}", EXIT_USAGE) from None
    try:
        return interpret(_parse(path, content))
    except MirrorError as error:
        raise MirrorError(f"configuration file {path}: {error.sentence}", EXIT_USAGE) from None


def interpret(document: Any) -> dict[str, Any]:
    """Turns a parsed file into the fields of `Settings` that it sets; raises MirrorError naming what is wrong."""
    found: dict[str, Any] = {}
    _walk(document, "", found)
    return found


def _parse(path: str, content: bytes) -> Any:
    suffix = os.path.splitext(path)[1].lower()
    try:
        text = content.decode()
        if suffix == ".toml":
            import tomllib

            return tomllib.loads(text)
        if suffix in (".yaml", ".yml"):
            return _parse_yaml(text)
        import json

        return json.loads(text)
    except ValueError as error:  # json's, tomllib's and UTF-8's errors are all ValueErrors
        raise MirrorError(f"cannot be understood: {' '.join(str(error).split())}") from None


def _parse_yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped, unused-ignore] # slow to import, and most sessions have no such file

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _walk(value: Any, field: str, found: dict[str, Any]) -> None:
    reader = _FIELDS.get(field)
    if reader is not None:
        reader(value, field, found)
    elif field in _ELSEWHERE:
        raise MirrorError(f"`{field}` is not supported; remove it")
    elif field and not any(known.startswith(f"{field}.") for known in _FIELDS):
        raise MirrorError(f"there is no field `{field}`; look for a misspelling, or remove it")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _walk(inner, f"{field}.{name}" if field else str(name), found)
    elif field in _SIMPLE_FORMS:
        simple = _SIMPLE_FORMS[field]
        _FIELDS[simple](value, field, found)
    else:
        raise MirrorError(f"{f'`{field}`' if field else 'the file'} must hold fields, not {value!r}")


# --- the kinds of fields ----------------------------------------------------------------------------------

_Reader = Callable[[Any, str, dict[str, Any]], None]


def _text(setting: str) -> _Reader:
    def read_text(value: Any, field: str, found: dict[str, Any]) -> None:
        if not isinstance(value, str):
            raise MirrorError(f"`{field}` must be a text, not {value!r}")
        found[setting] = value

    return read_text


def _switch(setting: str) -> _Reader:
    def read_switch(value: Any, field: str, found: dict[str, Any]) -> None:
        found[setting] = _boolean(value, field)

    return read_switch


def _choice(setting: str, choices: tuple[str, ...], *, on: str = "", off: str = "") -> _Reader:
    """One of some words; true and false may stand for two of them."""

    def read_choice(value: Any, field: str, found: dict[str, Any]) -> None:
        word = {True: on, False: off}[value] if isinstance(value, bool) else value
        if word not in choices:
            raise MirrorError(f"`{field}` must be one of {', '.join(choices)}, not {value!r}")
        found[setting] = word

    return read_choice


def _names(setting: str) -> _Reader:
    """A list of texts, or one text in which `;` separates them."""

    def read_names(value: Any, field: str, found: dict[str, Any]) -> None:
        names = value.split(";") if isinstance(value, str) else value
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MirrorError(f"`{field}` must be a list of names, not {value!r}")
        found[setting] = tuple(name for name in names if name)

    return read_names


def _variables(value: Any, field: str, found: dict[str, Any]) -> None:
    found["override"] = _texts(value, field)


def _in_agent(reader: _Reader) -> _Reader:
    """A field of `AgentSettings`, read as another is."""

    def read_in_agent(value: Any, field: str, found: dict[str, Any]) -> None:
        reader(value, field, found.setdefault("agent", {}))

    return read_in_agent


def _mapping(setting: str) -> _Reader:
    def read_mapping(value: Any, field: str, found: dict[str, Any]) -> None:
        found[setting] = _texts(value, field)

    return read_mapping


def _seconds(setting: str, kind: type[int | float] = float) -> _Reader:
    """A number of seconds; `int` where only whole ones will do."""

    def read_seconds(value: Any, field: str, found: dict[str, Any]) -> None:
        if isinstance(value, bool) or not isinstance(value, int | kind) or not 0 <= value <= 1e9:
            raise MirrorError(f"`{field}` must be a number of seconds, not {value!r}")
        found[setting] = kind(value)

    return read_seconds


def _image(value: Any, field: str, found: dict[str, Any]) -> None:
    """A name, or its two parts."""
    if isinstance(value, Mapping):
        parts = _texts(value, field)
        if not {"registry"} <= parts.keys() <= {"registry", "tag"}:
            raise MirrorError(f"`{field}` must hold `registry` and may hold `tag`, not {', '.join(parts) or 'nothing'}")
        value = ":".join(parts[name] for name in ("registry", "tag") if name in parts)
    _text("image")(value, field, found)


def _pull_secrets(value: Any, field: str, found: dict[str, Any]) -> None:
    if not isinstance(value, list) or not all(
        isinstance(entry, Mapping) and entry.keys() == {"name"} and isinstance(entry["name"], str) for entry in value
    ):
        raise MirrorError(f"`{field}` must be a list of {{name: SECRET}}, not {value!r}")
    found["image_pull_secrets"] = tuple(entry["name"] for entry in value)


def _tolerations(value: Any, field: str, found: dict[str, Any]) -> None:
    known = {"effect", "key", "operator", "tolerationSeconds", "value"}
    if not isinstance(value, list) or not all(isinstance(each, Mapping) and each.keys() <= known for each in value):
        raise MirrorError(f"`{field}` must be a list of tolerations as in a pod, not {value!r}")
    for each in value:
        for name, text in each.items():
            choices = _TOLERATIONS.get(name, ())
            if not isinstance(text, int if name == "tolerationSeconds" else str) or (choices and text not in choices):
                wanted = f"one of {', '.join(choices)}" if choices else "as in a pod"
                raise MirrorError(f"`{field}`: `{name}` must be {wanted}, not {text!r}")
    found["tolerations"] = tuple(dict(each) for each in value)


def _resources(value: Any, field: str, found: dict[str, Any]) -> None:
    if not isinstance(value, Mapping) or not value.keys() <= {"requests", "limits"}:
        raise MirrorError(f"`{field}` may hold `requests` and `limits`, not {value!r}")
    found["resources"] = {
        name: {
            resource: _quantity(quantity, f"{field}.{name}.{resource}")
            for resource, quantity in _entries(quantities, f"{field}.{name}")
        }
        for name, quantities in value.items()
    }


def _profile(setting: str) -> _Reader:
    """Of seccomp or AppArmor; its file is named as in a pod or as in such a file."""

    def read_profile(value: Any, field: str, found: dict[str, Any]) -> None:
        profile = {
            "localhostProfile" if name == "localhost_profile" else name: text
            for name, text in _texts(value, field).items()
        }
        if not {"type"} <= profile.keys() <= {"type", "localhostProfile"}:
            raise MirrorError(f"`{field}` must hold `type` and may hold `localhost_profile`, not {value!r}")
        if profile["type"] not in _PROFILES:
            raise MirrorError(f"`{field}.type` must be one of {', '.join(_PROFILES)}, not {profile['type']!r}")
        if (profile["type"] == "Localhost") != bool(profile.get("localhostProfile")):
            raise MirrorError(f"`{field}.localhost_profile` must be there if `type` is Localhost, and only then")
        found[setting] = profile

    return read_profile


def _se_linux(value: Any, field: str, found: dict[str, Any]) -> None:
    options = _texts(value, field)
    if not options.keys() <= {"level", "role", "type", "user"}:
        raise MirrorError(f"`{field}` may hold `level`, `role`, `type` and `user`, not {value!r}")
    found["se_linux_options"] = options


def _capabilities(value: Any, field: str, found: dict[str, Any]) -> None:
    """With or without `CAP_`."""
    _names("dropped_capabilities")(value, field, found)
    names = tuple(name.upper().removeprefix("CAP_") for name in found["dropped_capabilities"])
    if unknown := [name for name in names if name not in _LINUX_CAPABILITIES]:
        raise MirrorError(f"`{field}` must be a list of Linux capabilities, which {unknown[0]!r} is not")
    found["dropped_capabilities"] = names


def _quantity(value: Any, field: str) -> str:
    text = str(value)
    if isinstance(value, bool) or not _QUANTITY.fullmatch(text):
        raise MirrorError(f"`{field}` must be a quantity as in a pod, such as 500m or 64Mi, not {value!r}")
    return text


def _target_path(value: Any, field: str, found: dict[str, Any]) -> None:
    """`KIND/NAME`, or the same as an object: the kind with the name, and perhaps a container."""
    if isinstance(value, Mapping):
        container = value.get("container")
        kinds = [kind for kind in value if kind != "container"]
        if len(kinds) != 1 or not isinstance(container, str | None):
            raise MirrorError(f"`{field}` must hold one kind of target with its name, and may hold `container`")
        kind, name = kinds[0], value[kinds[0]]
        if kind == "labels":
            kind, name = "label", ",".join(f"{key}={text}" for key, text in _texts(name, f"{field}.{kind}").items())
        if not isinstance(name, str):
            raise MirrorError(f"`{field}.{kind}` must be a text, not {name!r}")
        value = f"{kind.replace('_', '')}/{name}" + (f"/container/{container}" if container else "")
    _text("target")(value, field, found)


def _size(value: Any, field: str, found: dict[str, Any]) -> None:
    try:
        found["file_limit_bytes"] = parse_size(str(value))
    except ValueError as error:
        raise MirrorError(f"`{field}` must be a size such as 64M, not {value!r}") from error


def _network(value: Any, field: str, found: dict[str, Any]) -> None:
    is_on = _boolean(value, field)
    found.update(incoming="mirror" if is_on else "off", outgoing=is_on, names=is_on)


def _texts(value: Any, field: str) -> dict[str, str]:
    texts = dict(_entries(value, field))
    if not all(isinstance(text, str) for pair in texts.items() for text in pair):
        raise MirrorError(f"`{field}` must hold names with texts as values, not {value!r}")
    return texts


def _entries(value: Any, field: str) -> ItemsView[Any, Any]:
    if not isinstance(value, Mapping):
        raise MirrorError(f"`{field}` must hold names with texts as values, not {value!r}")
    return value.items()


def _boolean(value: Any, field: str) -> bool:
    if not isinstance(value, bool):
        raise MirrorError(f"`{field}` must be true or false, not {value!r}")
    return value


_FIELDS: dict[str, _Reader] = {
    "target.path": _target_path,
    "target.namespace": _text("namespace"),
    "kube_context": _text("context"),
    "kubeconfig": _text("kubeconfig"),
    "reconnect_timeout": _seconds("reconnect_timeout_s"),
    "agent.annotations": _in_agent(_mapping("annotations")),
    "agent.communication_timeout": _in_agent(_seconds("first_client_within_s")),
    "agent.disable_mesh_sidecar_injection": _in_agent(_switch("is_kept_out_of_meshes")),
    "agent.disabled_capabilities": _in_agent(_capabilities),
    "agent.ephemeral": _in_agent(_switch("is_ephemeral")),
    "agent.grace": _in_agent(_seconds("grace_s")),
    "agent.image": _in_agent(_image),
    "agent.image_pull_policy": _in_agent(_choice("image_pull_policy", PULL_POLICIES)),
    "agent.image_pull_secrets": _in_agent(_pull_secrets),
    "agent.labels": _in_agent(_mapping("labels")),
    "agent.namespace": _in_agent(_text("namespace")),
    "agent.node_selector": _in_agent(_mapping("node_selector")),
    "agent.priority_class": _in_agent(_text("priority_class")),
    "agent.privileged": _in_agent(_switch("is_privileged")),
    "agent.resources": _in_agent(_resources),
    "agent.security_context.app_armor_profile": _in_agent(_profile("app_armor_profile")),
    "agent.security_context.seccomp_profile": _in_agent(_profile("seccomp_profile")),
    "agent.security_context.se_linux_options": _in_agent(_se_linux),
    "agent.service_account": _in_agent(_text("service_account")),
    "agent.startup_timeout": _in_agent(_seconds("startup_timeout_s")),
    "agent.tolerations": _in_agent(_tolerations),
    "agent.transport": _in_agent(_choice("transport", TRANSPORTS)),
    "agent.ttl": _in_agent(_seconds("ttl_s", int)),
    "feature.env.enabled": _switch("environment"),
    "feature.env.include": _names("include"),
    "feature.env.exclude": _names("exclude"),
    "feature.env.override": _variables,
    "feature.env.unset": _names("unset"),
    "feature.fs.mode": _choice("fs_mode", FS_MODES, on="read", off="local"),
    "feature.fs.file_limit": _size,
    "feature.hostname": _switch("host_name"),
    "feature.network.enabled": _network,
    "feature.network.incoming.mode": _choice("incoming", INCOMING_MODES, on="mirror", off="off"),
    "feature.network.incoming.replicas": _choice("replicas", REPLICAS),
    "feature.network.incoming.steal_probes": _switch("steals_probes"),
    "feature.network.outgoing.tcp": _switch("outgoing"),
    "feature.network.dns.enabled": _switch("names"),
}


def parse_size(text: str) -> int:
    """Reads a size in bytes, with K, M or G for powers of 1024. Raises ValueError if it is none."""
    number = text.strip().upper().removesuffix("B").removesuffix("I")
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(number[-1:], 1)
    size = int(number[:-1] if factor > 1 else number) * factor
    if size < 0:
        raise ValueError(f"{text}: negative")
    return size
