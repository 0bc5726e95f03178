"""What an agent can do with exactly the capabilities of `features`, with one fewer, and for itself."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from mirror.agent import libc
from mirror.protocol import messages as m
from mirror.protocol.features import FEATURES, linux_capabilities
from mirror.protocol.stream import RequestFailed
from tests.agent.actors import IS_ROOT, NOBODY, Agent, Target, listen_agent, needs_root, open_target

PATIENCE_S = 60.0
CONTAINER_CAPABILITIES = 0xA80425FB
"""What container runtimes give to a root by default."""
OTHER_UID = NOBODY - 1


def with_only(capabilities: Sequence[str]) -> list[str]:
    """The beginning of a command that runs with these capabilities and no others, as a container's root has them."""
    return ["setpriv", f"--bounding-set=-all{''.join(f',+{name.lower()}' for name in capabilities)}", "--"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A target's root directory."""
    tmp_path.chmod(0o755)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("10.1.2.3 orders\n")
    for name, uid in ("nobodys", NOBODY), ("others", OTHER_UID):
        (tmp_path / name).write_text(name)
        os.chown(tmp_path / name, uid, uid)
        (tmp_path / name).chmod(0o600)
    return tmp_path


@contextlib.contextmanager
def as_in_a_container(root: Path, **wanted: Any) -> Iterator[Target]:
    """A target with a root directory and network of its own; of an ordinary user unless something else is wanted."""
    wanted = wanted or {"uid": NOBODY, "gid": NOBODY, "groups": [4321]}
    with open_target(root=str(root), unshare_network=True, environment={"WHOSE": "target"}, **wanted) as target:
        yield target


async def use_environment(client: Agent, target: Target) -> None:
    answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
    assert b"WHOSE=target" in answer.variables


async def use_files(client: Agent, target: Target) -> None:
    assert (await client.read_file(b"/nobodys"))[1] == b"nobodys"
    if target.ask("os.getuid()"):
        with pytest.raises(RequestFailed) as refused:
            await client.read_file(b"/others")
        assert refused.value.errno == errno.EACCES
    else:
        assert (await client.read_file(b"/others"))[1] == b"others"


async def use_names(client: Agent, target: Target) -> None:
    answer = await client.peer.request(m.LookUpHost(b"orders", socket.AF_INET))
    assert isinstance(answer, m.HostLookedUp)
    assert answer.addresses == (bytes((10, 1, 2, 3)),)


async def use_outgoing(client: Agent, target: Target) -> None:
    target.ask("listening = socket.create_server(('127.0.0.1', 0))")
    port = target.ask("listening.getsockname()[1]")
    own = 0 if target.ask("os.getuid()") else 700
    localhost = bytes((127, 0, 0, 1))
    channel = client.peer.open_channel()
    request = m.Connect(channel.id, m.SocketAddress(localhost, port), m.SocketAddress(localhost, own))
    connected = await client.peer.request(request, m.Connected)
    assert connected.local.port == (own or connected.local.port)
    assert target.ask("listening.accept()[1]") == ("127.0.0.1", connected.local.port)
    await channel.aclose()


async def use_incoming(client: Agent, target: Target) -> None:
    await client.peer.request(m.Subscribe(8080, steal=True))
    target.ask("calling = socket.create_connection(('127.0.0.1', 8080))")
    with trio.fail_after(PATIENCE_S):
        await client.arrived.wait()
    _, channel = client.arrivals[0]
    await channel.send(b"outside")
    assert await trio.to_thread.run_sync(target.ask, "calling.recv(100)") == b"outside"
    await channel.aclose()


USES = {
    "environment": use_environment,
    "files": use_files,
    "names": use_names,
    "outgoing": use_outgoing,
    "incoming": use_incoming,
}


@contextlib.asynccontextmanager
async def client_of(target: Target, features: Sequence[str], capabilities: Sequence[str]) -> AsyncIterator[Agent]:
    arguments = ["--pid", str(target.pid), "--features", ",".join(features), "--grace", "0"]
    with listen_agent(*arguments, limit=with_only(capabilities)) as agent, trio.fail_after(3 * PATIENCE_S):
        async with agent.client() as client:
            yield client
        assert await agent.wait() == (0, "")


@needs_root
@pytest.mark.parametrize("kind", ["user", "root"])
@pytest.mark.parametrize("features", [*((feature,) for feature in FEATURES), ("environment", "files"), FEATURES])
async def test_each_row_of_capabilities_is_enough(features: tuple[str, ...], kind: str, root: Path) -> None:
    wanted = {} if kind == "user" else {"capabilities": CONTAINER_CAPABILITIES}
    with as_in_a_container(root, **wanted) as target:
        async with client_of(target, features, linux_capabilities(features)) as client:
            assert client.welcome.capabilities == tuple(feature for feature in FEATURES if feature in features)
            for feature in FEATURES:
                if feature in features:
                    await USES[feature](client, target)
                else:
                    assert client.welcome.reasons[feature] == (
                        f"this agent was started without {feature}; start one whose --features include it"
                    )
            assert client.notices == []


def connect_in(network_of: Target, port: int) -> socket.socket:
    """A connection to the loopback of a target's network."""
    made: list[socket.socket] = []

    def connect() -> None:
        with open(f"/proc/{network_of.pid}/ns/net") as namespace:
            libc.setns(namespace.fileno(), libc.CLONE_NEWNET)
        made.append(socket.create_connection(("127.0.0.1", port)))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    return made[0]


@needs_root
@pytest.mark.parametrize("kind", ["user", "root"])
@pytest.mark.parametrize("features", [*((feature,) for feature in FEATURES), FEATURES])
async def test_in_the_targets_pod_fewer_are_enough(features: tuple[str, ...], kind: str, root: Path) -> None:
    """As an ephemeral container has them, which shares the target's network and host name."""
    wanted = {} if kind == "user" else {"capabilities": CONTAINER_CAPABILITIES}
    with as_in_a_container(root, **wanted) as target:
        enter = ["nsenter", "--target", str(target.pid), "--net", "--uts", "--"]
        limit = [*enter, *with_only(linux_capabilities(features, in_the_pod=True))]
        arguments = ["--pid", str(target.pid), "--features", ",".join(features), "--grace", "0"]
        with listen_agent(*arguments, limit=limit) as agent, trio.fail_after(3 * PATIENCE_S):
            agent.connect = functools.partial(connect_in, target, agent.port)  # type: ignore[method-assign]
            async with agent.client() as client:
                assert {*client.welcome.capabilities} == {*features}
                for feature in features:
                    await USES[feature](client, target)
                assert client.notices == []
            assert await agent.wait() == (0, "")


LACKING = [
    (feature, capability)
    for feature in FEATURES
    for capability in linux_capabilities([feature])
    if capability != "SYS_PTRACE"
]
ONLY_NOTICED = {("files", "DAC_OVERRIDE"), ("outgoing", "NET_BIND_SERVICE")}
"""What only a root in the target misses, and not for all that the feature is."""


@needs_root
@pytest.mark.parametrize(("feature", "capability"), sorted({*LACKING} - ONLY_NOTICED))
async def test_without_one_of_them_the_feature_is_missing(feature: str, capability: str, root: Path) -> None:
    capabilities = [name for name in linux_capabilities(FEATURES) if name != capability]
    with as_in_a_container(root) as target:
        async with client_of(target, FEATURES, capabilities) as client:
            assert feature not in client.welcome.capabilities
            reason = client.welcome.reasons[feature]
            assert f"CAP_{capability}" in reason
            with pytest.raises(RequestFailed) as refused:
                await USES[feature](client, target)
            assert refused.value.errno == errno.EOPNOTSUPP
            assert refused.value.reason == reason
            # The others are there, and work.
            for other in client.welcome.capabilities:
                assert (other, capability) not in {*LACKING} - ONLY_NOTICED
                await USES[other](client, target)


@needs_root
@pytest.mark.parametrize(("feature", "capability"), sorted(ONLY_NOTICED))
async def test_what_only_a_root_in_the_target_misses_is_told(feature: str, capability: str, root: Path) -> None:
    capabilities = [name for name in linux_capabilities([feature]) if name != capability]
    with as_in_a_container(root, capabilities=CONTAINER_CAPABILITIES) as target:
        async with client_of(target, [feature], capabilities) as client:
            with trio.fail_after(PATIENCE_S):
                await client.noticed.wait()
            (notice,) = client.notices
            assert f"CAP_{capability}" in notice
    with as_in_a_container(root) as target:
        async with client_of(target, [feature], capabilities) as client:
            await USES[feature](client, target)
            assert client.notices == []


@needs_root
@pytest.mark.parametrize("feature", FEATURES)
def test_without_sys_ptrace_nothing_can_be_entered(feature: str, root: Path) -> None:
    capabilities = [name for name in linux_capabilities([feature]) if name != "SYS_PTRACE"]
    with as_in_a_container(root) as target:
        command = [sys.executable, "-m", "mirror.agent", "--listen", "0", "--pid", str(target.pid)]
        ended = subprocess.run(
            [*with_only(capabilities), *command, "--features", feature], capture_output=True, text=True, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "CAP_SYS_PTRACE" in ended.stderr


@needs_root
async def test_the_host_name_comes_with_the_environment_where_it_may_not_be_entered(root: Path) -> None:
    """As container runtimes put it there."""
    with open_target(root=str(root), environment={"HOSTNAME": "orders-7"}, unshare_host_name=True) as target:
        async with client_of(target, ["environment"], linux_capabilities(["environment"])) as client:
            answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
    assert answer.host_name == b"orders-7"


# --- targetless -------------------------------------------------------------------------------------------


async def test_a_targetless_agent_is_its_own_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN_BY", "the pod")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHON_VERSION", "3.11.2")
    monkeypatch.setenv("GPG_KEY", "A035C8C19219BA821ECEA86B64E628F8D684696D")
    with listen_agent("--targetless", "--grace", "0") as agent:
        async with agent.client() as client:
            answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
            assert b"GIVEN_BY=the pod" in answer.variables
            assert not [one for one in answer.variables if one.startswith((b"PYTHON", b"GPG_KEY"))]
            assert answer.host_name == socket.gethostname().encode()
            _, content = await client.read_file(b"/proc/version")
            assert content == Path("/proc/version").read_bytes()
            assert isinstance(await client.peer.request(m.LookUpHost(b"localhost", socket.AF_INET)), m.HostLookedUp)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                channel = client.peer.open_channel()
                endpoint = m.SocketAddress(bytes((127, 0, 0, 1)), listening.getsockname()[1])
                connected = await client.peer.request(m.Connect(channel.id, endpoint), m.Connected)
                accepted, peer = listening.accept()
                accepted.close()
                assert peer[1] == connected.local.port
        assert await agent.wait() == (0, "")


async def test_a_targetless_agent_needs_no_privileges_except_for_incoming_traffic() -> None:
    with listen_agent("--targetless", "--grace", "0", uid=NOBODY if IS_ROOT else None) as agent:
        async with agent.client() as client:
            assert client.welcome.capabilities == tuple(one for one in FEATURES if one != "incoming")
            assert client.welcome.reasons.keys() == {"incoming"}
            assert "let the agent have NET_ADMIN" in client.welcome.reasons["incoming"]
            assert (await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)).variables
            assert (await client.peer.request(m.StatFile(b"/", follow=True), m.FileStatted)).stat.mode
            assert client.notices == []
        assert await agent.wait() == (0, "")
