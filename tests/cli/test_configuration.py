from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mirror.cli import configuration, settings
from mirror.cli.errors import EXIT_USAGE, MirrorError


def complaint(document: Any) -> str:
    with pytest.raises(MirrorError) as caught:
        configuration.interpret(document)
    assert "\n" not in caught.value.sentence
    return caught.value.sentence


def test_everything_that_is_understood() -> None:
    document = {
        "target": {"path": "pid/1"},
        "feature": {
            "env": {"include": ["A", "B"], "override": {"C": "d"}, "unset": "E;F"},
            "fs": {"mode": "localwithoverrides", "file_limit": "2G"},
            "network": {"incoming": {"mode": "steal"}, "outgoing": {"tcp": False}, "dns": {"enabled": False}},
        },
    }
    assert configuration.interpret(document) == {
        "target": "pid/1",
        "include": ("A", "B"),
        "override": {"C": "d"},
        "unset": ("E", "F"),
        "fs_mode": "localwithoverrides",
        "file_limit_bytes": 2 << 30,
        "incoming": "steal",
        "outgoing": False,
        "names": False,
    }


@pytest.mark.parametrize(
    ("feature", "result"),
    [
        ({"fs": "local"}, {"fs_mode": "local"}),
        ({"fs": False}, {"fs_mode": "local"}),
        ({"fs": True}, {"fs_mode": "read"}),
        ({"env": False}, {"environment": False}),
        ({"hostname": False}, {"host_name": False}),
        ({"network": False}, {"incoming": "off", "outgoing": False, "names": False}),
        ({"network": {"incoming": "steal"}}, {"incoming": "steal"}),
        ({"network": {"incoming": False}}, {"incoming": "off"}),
        ({"network": {"outgoing": False}}, {"outgoing": False}),
        ({"network": {"dns": False}}, {"names": False}),
        ({}, {}),
    ],
)
def test_simple_forms(feature: Any, result: dict[str, Any]) -> None:
    assert configuration.interpret({"feature": feature}) == result


def test_simple_target() -> None:
    assert configuration.interpret({"target": "demo"}) == {"target": "demo"}


def test_how_long_requests_wait_for_a_connection() -> None:
    assert configuration.interpret({"reconnect_timeout": 5}) == {"reconnect_timeout_s": 5}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"featur": {}}, "featur"),
        ({"feature": {"network": {"incoming": {"mod": "steal"}}}}, "feature.network.incoming.mod"),
        ({"feature": {"network": {"incoming": {"http_filter": {}}}}}, "feature.network.incoming.http_filter"),
        ({"agent": {"metrics": "0.0.0.0:9000"}}, "agent.metrics"),
        ({"target": {"namespace": 1}}, "target.namespace"),
        ({"target": {"path": {"pod": "a", "deployment": "b"}}}, "target.path"),
        ({"target": {"path": {"pod": 1}}}, "target.path.pod"),
        ({"agent": {"imag": "x"}}, "agent.imag"),
        ({"agent": {"image": {"tag": "1"}}}, "agent.image"),
        ({"agent": {"image_pull_policy": "Sometimes"}}, "agent.image_pull_policy"),
        ({"agent": {"image_pull_policy": True}}, "agent.image_pull_policy"),
        ({"agent": {"image_pull_secrets": ["a"]}}, "agent.image_pull_secrets"),
        ({"agent": {"tolerations": [{"keys": "a"}]}}, "agent.tolerations"),
        ({"agent": {"resources": {"claims": []}}}, "agent.resources"),
        ({"agent": {"tolerations": [{"operator": "Sometimes"}]}}, "`operator` must be one of Exists, Equal"),
        ({"agent": {"tolerations": [{"tolerationSeconds": "60"}]}}, "`agent.tolerations`: `tolerationSeconds`"),
        ({"agent": {"tolerations": [{"key": 1}]}}, "`agent.tolerations`: `key`"),
        ({"agent": {"resources": {"limits": {"cpu": "lots"}}}}, "`agent.resources.limits.cpu`"),
        ({"agent": {"resources": {"requests": {"memory": True}}}}, "`agent.resources.requests.memory`"),
        ({"agent": {"disabled_capabilities": ["NET_ADMN"]}}, "`agent.disabled_capabilities`"),
        ({"agent": {"labels": {"a": 1}}}, "agent.labels"),
        ({"agent": {"startup_timeout": "60"}}, "agent.startup_timeout"),
        ({"agent": {"ttl": -1}}, "agent.ttl"),
        ({"agent": {"ttl": 1.5}}, "agent.ttl"),
        ({"agent": {"ttl": True}}, "agent.ttl"),
        ({"agent": {"security_context": {"seccomp_profile": {"typ": "x"}}}}, "agent.security_context.seccomp_profile"),
        (
            {"agent": {"security_context": {"seccomp_profile": {"type": "None"}}}},
            "seccomp_profile.type` must be one of",
        ),
        (
            {"agent": {"security_context": {"app_armor_profile": {"type": "Localhost"}}}},
            "`agent.security_context.app_armor_profile.localhost_profile` must be there",
        ),
        ({"agent": {"security_context": {"se_linux_options": {"typ": "x"}}}}, "security_context.se_linux_options`"),
        ({"feature": {"fs": {"mode": "reed"}}}, "feature.fs.mode"),
        ({"feature": {"fs": {"mode": ["read"]}}}, "feature.fs.mode"),
        ({"feature": {"env": {"override": {"A": 1}}}}, "feature.env.override"),
        ({"feature": {"env": {"include": [1]}}}, "feature.env.include"),
        ({"feature": {"env": "yes"}}, "feature.env"),
        ({"feature": {"fs": {"file_limit": "many"}}}, "feature.fs.file_limit"),
        ({"feature": 1}, "feature"),
        ([], "the file"),
    ],
)
def test_what_is_refused_is_named(document: Any, field: str) -> None:
    assert field in complaint(document)


@pytest.mark.parametrize("quantity", ["1", 1, 0.5, "500m", "64Mi", "1.5G", "1e3", ".5"])
def test_quantities(quantity: Any) -> None:
    found = configuration.interpret({"agent": {"resources": {"limits": {"memory": quantity}}}})
    assert found["agent"]["resources"] == {"limits": {"memory": str(quantity)}}


def test_a_cluster_and_its_agent() -> None:
    document = {
        "target": {"path": "pod/web", "namespace": "shop"},
        "kube_context": "east",
        "kubeconfig": "/kube",
        "agent": {
            "annotations": {"a": "b"},
            "communication_timeout": 10,
            "disable_mesh_sidecar_injection": False,
            "disabled_capabilities": ["NET_ADMIN", "cap_net_raw"],
            "grace": 2.5,
            "image": "agent:1",
            "image_pull_policy": "Always",
            "image_pull_secrets": [{"name": "login"}],
            "labels": {"c": "d"},
            "namespace": "agents",
            "node_selector": {"e": "f"},
            "priority_class": "high",
            "privileged": True,
            "resources": {"requests": {"cpu": 1}},
            "security_context": {
                "app_armor_profile": {"type": "Unconfined"},
                "seccomp_profile": {"type": "Localhost", "localhost_profile": "agent.json"},
                "se_linux_options": {"type": "spc_t"},
            },
            "service_account": "mirror",
            "startup_timeout": 90,
            "tolerations": [],
            "ttl": 30,
        },
    }
    found = settings.combine(configuration.interpret(document), {"agent": {"image": "agent:2"}})
    assert (found.target, found.namespace, found.context, found.kubeconfig) == ("pod/web", "shop", "east", "/kube")
    assert found.agent == settings.AgentSettings(
        image="agent:2",
        image_pull_policy="Always",
        image_pull_secrets=("login",),
        namespace="agents",
        service_account="mirror",
        priority_class="high",
        node_selector={"e": "f"},
        tolerations=(),
        resources={"requests": {"cpu": "1"}},
        labels={"c": "d"},
        annotations={"a": "b"},
        is_privileged=True,
        dropped_capabilities=("NET_ADMIN", "NET_RAW"),
        seccomp_profile={"type": "Localhost", "localhostProfile": "agent.json"},
        app_armor_profile={"type": "Unconfined"},
        se_linux_options={"type": "spc_t"},
        is_kept_out_of_meshes=False,
        startup_timeout_s=90,
        first_client_within_s=10,
        grace_s=2.5,
        ttl_s=30,
    )


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ({"deployment": "web"}, "deployment/web"),
        ({"stateful_set": "db", "container": "app"}, "statefulset/db/container/app"),
        ({"cron_job": "nightly", "container": None}, "cronjob/nightly"),
        ({"labels": {"app": "web", "tier": "a"}}, "label/app=web,tier=a"),
    ],
)
def test_targets_as_objects(path: Any, target: str) -> None:
    assert configuration.interpret({"target": {"path": path}}) == {"target": target}


@pytest.mark.parametrize(
    ("image", "name"), [("a:1", "a:1"), ({"registry": "r/a", "tag": "2"}, "r/a:2"), ({"registry": "r/a"}, "r/a")]
)
def test_images(image: Any, name: str) -> None:
    assert configuration.interpret({"agent": {"image": image}}) == {"agent": {"image": name}}


def test_unsupported_differs_from_unknown() -> None:
    assert "not supported" in complaint({"feature": {"magic": True}})
    assert "there is no field" in complaint({"feature": {"magik": True}})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"target": "demo", "feature": {"fs": "read"}}'),
        ("a", '{"target": "demo", "feature": {"fs": "read"}}'),
        ("a.toml", 'target = "demo"\n[feature]\nfs = "read"\n'),
        ("a.yaml", "target: demo\nfeature:\n  fs: read\n"),
    ],
)
def test_formats(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert configuration.read(str(tmp_path / name)) == {"target": "demo", "fs_mode": "read"}


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.toml", "="), ("a.json", b"\xff".decode("latin-1"))])
def test_broken_files(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(MirrorError) as caught:
        configuration.read(str(tmp_path / name))
    assert caught.value.exit_status == EXIT_USAGE
    assert str(tmp_path / name) in caught.value.sentence
    assert "\n" not in caught.value.sentence


def test_missing_file() -> None:
    with pytest.raises(MirrorError, match="No such file"):
        configuration.read("/no/such/file.json")


@pytest.mark.parametrize(("text", "size"), [("10", 10), ("64M", 64 << 20), ("2GiB", 2 << 30), ("1kb", 1024), ("0", 0)])
def test_sizes(text: str, size: int) -> None:
    assert configuration.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "10X"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever int() says
        configuration.parse_size(text)


# --- settings.combine -------------------------------------------------------------------------------------


def test_command_line_wins_over_file() -> None:
    combined = settings.combine({"target": "demo", "fs_mode": "local"}, {"fs_mode": "read"})
    assert (combined.target, combined.fs_mode) == ("demo", "read")


def test_features() -> None:
    everything = ("environment", "files", "names", "outgoing", "incoming")
    assert settings.Settings("demo").features == everything
    assert settings.Settings("demo", environment=False, host_name=False, fs_mode="local").features == everything[2:]
    assert settings.Settings("demo", names=False, outgoing=False, incoming="off").features == everything[:2]


def test_without_a_target() -> None:
    combined = settings.combine({}, {})
    assert combined.target == settings.TARGETLESS
    assert combined.features == ("files", "names", "outgoing")
    assert settings.combine({"fs_mode": "local"}, {}).features == ("names", "outgoing")
    assert settings.combine({"target": "targetless", "environment": True}, {}).environment is True


def test_overrides_and_unsets_add_up() -> None:
    combined = settings.combine(
        {"target": "demo", "override": {"A": "file", "B": "file"}, "unset": ("X",)},
        {"override": {"A": "line"}, "unset": ("Y",)},
    )
    assert combined.override == {"A": "line", "B": "file"}
    assert combined.unset == ("X", "Y")


def test_exclude_on_the_command_line_replaces_include_of_the_file() -> None:
    combined = settings.combine({"target": "demo", "include": ("A",)}, {"exclude": ("B",)})
    assert (combined.include, combined.exclude) == ((), ("B",))


def test_contradictions_are_usage_errors() -> None:
    for line in ({"incoming": "steal"}, {"target": "demo", "include": ("A",), "exclude": ("B",)}):
        with pytest.raises(MirrorError) as caught:
            settings.combine({}, line)
        assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize(("incoming", "needed"), [(None, False), ("off", False), ("mirror", True), ("steal", True)])
def test_incoming_that_was_asked_for_is_needed(incoming: str | None, needed: bool) -> None:
    line = {"target": "demo"} | ({"incoming": incoming} if incoming else {})
    assert settings.combine({}, line).needs_incoming is needed


def test_ways_to_run_and_reach_the_agent() -> None:
    agent = settings.combine(
        configuration.interpret({"target": "pod/web", "agent": {"ephemeral": True, "transport": "direct"}}), {}
    ).agent
    assert (agent.is_ephemeral, agent.transport) == (True, "direct")
    over = settings.combine({"target": "pod/web", "agent": {"is_ephemeral": True}}, {"agent": {"is_ephemeral": False}})
    assert not over.agent.is_ephemeral
    with pytest.raises(MirrorError, match=r"`agent.transport` must be one of forward, direct"):
        configuration.interpret({"agent": {"transport": "udp"}})


def test_an_ephemeral_container_needs_a_pod_and_is_where_that_is() -> None:
    with pytest.raises(MirrorError, match="without a target there is no pod to put an ephemeral container into"):
        settings.combine({"agent": {"is_ephemeral": True}}, {})
    with pytest.raises(MirrorError, match="leave out --ephemeral or --agent-namespace"):
        settings.combine({"target": "pod/web"}, {"agent": {"is_ephemeral": True, "namespace": "agents"}})
