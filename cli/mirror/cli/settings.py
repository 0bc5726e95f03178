"""What the user asked for, complete: the command line over the configuration file over the defaults. Pure.

`configuration` reads the file, `main` the command line; both give a `dict` of some of the fields here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mirror.cli.environment import EnvironmentRules
from mirror.cli.errors import EXIT_USAGE, MirrorError

INCOMING_MODES = ("mirror", "steal", "off")
FS_MODES = ("read", "write", "local", "localwithoverrides")
REPLICAS = ("all", "one")
TRANSPORTS = ("forward", "direct")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")


TARGETLESS = "targetless"
"""A target that is none: the program gets the cluster's names and network, from a pod made for it."""
_WITHOUT_TARGET = {"environment": False, "host_name": False, "fs_mode": "localwithoverrides", "incoming": "off"}
"""What there is no point in having from a pod that has nothing but an agent, unless the user asks for it."""


@dataclasses.dataclass(frozen=True)
class AgentSettings:
    """How an agent is run in a cluster. Where something is empty the cluster, or mirror, has a default."""

    is_ephemeral: bool = False
    """Whether it is an ephemeral container of the target's pod, to which not all of this applies; else a Job."""
    transport: str = "forward"
    """One of `TRANSPORTS`: whether it is reached through the API server or at its pod's address."""
    image: str = ""
    """Empty: that of this release."""
    image_pull_policy: str = "IfNotPresent"
    """One of `PULL_POLICIES`."""
    image_pull_secrets: tuple[str, ...] = ()
    namespace: str = ""
    """Empty: the target's."""
    service_account: str = ""
    priority_class: str = ""
    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where to run an agent without a target; one with a target runs on its node."""
    tolerations: tuple[Mapping[str, Any], ...] = ({"operator": "Exists"},)
    """As in a pod: by default an agent may run wherever its target does."""
    resources: Mapping[str, Mapping[str, str]] = dataclasses.field(
        default_factory=lambda: {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        }
    )
    """As in a container. With limits, since a quota may ask for them."""
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    is_privileged: bool = False
    dropped_capabilities: tuple[str, ...] = ()
    """What it does without though the session's features need it; without `CAP_`."""
    seccomp_profile: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"type": "RuntimeDefault"})
    """`type` and `localhostProfile`, as in a container's security context; likewise the next two."""
    app_armor_profile: Mapping[str, str] = dataclasses.field(default_factory=dict)
    se_linux_options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    is_kept_out_of_meshes: bool = True
    """Whether service meshes are asked to put no proxy beside it."""
    startup_timeout_s: float = 60.0
    """From asking for it until its container runs."""
    first_client_within_s: float = 30.0
    """It ends if nobody has come after so long."""
    grace_s: float = 5.0
    """How long it stays after its last client, so that the next session starts at once."""
    ttl_s: int = 1
    """How long the cluster keeps its Job when it has ended."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What one session is to do."""

    target: str
    """`demo`, `pid/N`, `container/NAME`, one of a cluster (`cluster.reference`), or TARGETLESS."""
    namespace: str = ""
    """Of a target in a cluster; empty: the context's."""
    context: str = ""
    """Of the kubeconfig; empty: the current one."""
    kubeconfig: str = ""
    """The file; empty: those that KUBECONFIG names, or `~/.kube/config`."""
    agent: AgentSettings = dataclasses.field(default_factory=AgentSettings)
    incoming: str = "mirror"
    """One of `INCOMING_MODES`: what becomes of connections to ports of the target on which the program listens."""
    needs_incoming: bool = False
    """Whether the user asked for it, so that a target that cannot do it is an error, not a sentence when listening."""
    replicas: str = "all"
    """One of `REPLICAS`: of which of the target's pods incoming connections come."""
    steals_probes: bool = False
    """Whether the kubelet's probes are stolen with everything else; they ask after the target's own process."""
    outgoing: bool = True
    """Whether the program's TCP connections are made in the target."""
    names: bool = True
    """Whether names are looked up in the target."""
    host_name: bool = True
    """Whether the program is told the target's host name."""
    fs_mode: str = "read"
    """One of `FS_MODES`."""
    file_limit_bytes: int = 64 << 20
    """The largest remote file that can be opened."""
    reconnect_timeout_s: float = 30.0
    """How long what the program asks of the target waits for a connection to the agent when that has broken."""
    lease_s: float = 1.0
    """How long what the target said of its files and names is taken for true."""
    include: tuple[str, ...] = ()
    """As in `EnvironmentRules`, like the next four."""
    exclude: tuple[str, ...] = ()
    override: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unset: tuple[str, ...] = ()
    environment: bool = True

    @property
    def features(self) -> tuple[str, ...]:
        """What an agent is to do in this session: some of `mirror.protocol.features.FEATURES`, in their order."""
        wanted = {
            "environment": self.environment or self.host_name,
            "files": self.fs_mode != "local",
            "names": self.names,
            "outgoing": self.outgoing,
            "incoming": self.incoming != "off",
        }
        return tuple(feature for feature, is_wanted in wanted.items() if is_wanted)

    @property
    def environment_rules(self) -> EnvironmentRules:
        """How the program's environment is made. Raises MirrorError where include and exclude contradict."""
        return EnvironmentRules(self.include, self.exclude, self.override, self.unset, self.environment)


def combine(file: Mapping[str, Any], command_line: Mapping[str, Any]) -> Settings:
    """Puts the command line over the file over the defaults; overrides of variables add up.

    Args:
        file: Fields of `Settings` that the configuration file has; `agent` holds those of `AgentSettings`.
        command_line: Those that the command line has.

    Raises:
        MirrorError: The settings contradict each other.
    """
    values = {**file, **command_line}
    values["target"] = values.get("target") or TARGETLESS
    if values["target"] == TARGETLESS:
        if values.get("incoming", "off") != "off":
            raise MirrorError(
                "without a target there is no traffic to be had; name one with -t, for example -t deployment/NAME, or "
                "leave incoming traffic out",
                EXIT_USAGE,
            )
        values = {**_WITHOUT_TARGET, **values}
    values["override"] = {**file.get("override", {}), **command_line.get("override", {})}
    values["unset"] = (*file.get("unset", ()), *command_line.get("unset", ()))
    if {"include", "exclude"} & command_line.keys():
        values = {name: value for name, value in values.items() if name not in {"include", "exclude"} - {*command_line}}
    values["agent"] = AgentSettings(**{**file.get("agent", {}), **command_line.get("agent", {})})
    _check_agent(values["target"], values["agent"])
    settings = Settings(**values, needs_incoming=values.get("incoming", "off") != "off")
    _ = settings.environment_rules
    return settings


def _check_agent(target: str, agent: AgentSettings) -> None:
    if agent.is_ephemeral and target == TARGETLESS:
        raise MirrorError(
            "without a target there is no pod to put an ephemeral container into; name one with -t, for example -t "
            "deployment/NAME, or leave out --ephemeral",
            EXIT_USAGE,
        )
    if agent.is_ephemeral and agent.namespace:
        raise MirrorError(
            "an ephemeral container is in its target's pod, and so in its namespace; leave out --ephemeral or "
            "--agent-namespace",
            EXIT_USAGE,
        )
