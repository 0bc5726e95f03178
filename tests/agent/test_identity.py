"""An agent whose port others can reach: it serves who has its secret, and the secret is not to be had."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mirror.agent import identity as agents_identity
from mirror.agent.gate import IdentityError
from mirror.cli.cluster import identity as users_identity
from mirror.cli.cluster.identity import GuardedStream, Identity
from mirror.cli.errors import TargetError
from mirror.protocol import messages as m
from mirror.protocol.features import FEATURES, linux_capabilities
from mirror.protocol.frame import encode_frame
from mirror.protocol.stream import Peer
from tests.agent.actors import ListeningAgent, listen_agent, needs_root, open_target
from tests.agent.test_features import CONTAINER_CAPABILITIES, connect_in, with_only

PATIENCE_S = 20.0
HELLO = encode_frame(0, m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION))
CONTAINERS_ROOT = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod"
)
"""What runtimes let a container's root do."""


def fetch(file: Path) -> Identity:
    """As a client does, by the command that it runs in the agent's container."""
    command = [sys.executable, "-m", "mirror.agent.identity", str(file)]
    return users_identity.parse(subprocess.run(command, check=True, capture_output=True).stdout)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "agent.pem"


@contextlib.contextmanager
def guarded_agent(file: Path, *arguments: str) -> Iterator[ListeningAgent]:
    with (
        open_target(environment={"WHOSE": "target"}) as target,
        listen_agent("--pid", str(target.pid), "--identity", str(file), *arguments) as agent,
    ):
        yield agent


async def hear(_: m.Message) -> None:
    pass


@contextlib.asynccontextmanager
async def client(identity: Identity, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    below = await trio.open_tcp_stream(host, identity.port)
    stream = GuardedStream(below, identity, "here")
    await stream.do_handshake()
    assert stream.failure is None
    peer = Peer(stream, is_client=True, handler=hear)
    async with trio.open_nursery() as nursery:
        await nursery.start(peer.run)
        yield peer
        await peer.aclose()


async def works(identity: Identity, host: str = "127.0.0.1") -> bool:
    with trio.fail_after(PATIENCE_S):
        async with client(identity, host) as peer:
            answer = await peer.request(m.ReadEnvironment(), m.EnvironmentRead)
            return b"WHOSE=target" in answer.variables


def other_identity(folder: Path) -> Identity:
    """Of another agent."""
    agents_identity.make(str(folder / "other.pem"), 1)
    return fetch(folder / "other.pem")


# --- who is served ----------------------------------------------------------------------------------------


async def test_who_has_the_secret_is_served(file: Path) -> None:
    with guarded_agent(file) as agent:
        identity = await trio.to_thread.run_sync(fetch, file)
        assert identity.port == agent.port
        assert await works(identity)
        assert await works(identity)


async def test_much_in_both_directions(file: Path) -> None:
    """More than fits into the buffers of a connection, as files do."""
    big = file.with_name("big")
    big.write_bytes(os.urandom(4 << 20))
    with guarded_agent(file):
        identity = await trio.to_thread.run_sync(fetch, file)
        async with client(identity) as peer:
            channel = peer.open_channel()
            request = m.OpenFile(os.fsencode(big), os.O_RDONLY, channel=channel.id, limit_bytes=1 << 30)
            content = (await peer.request(request, m.FileOpened)).content
            while part := await channel.receive():
                content += part
    assert content == big.read_bytes()


def plainly(connection: socket.socket, _: Path) -> bytes:
    connection.sendall(HELLO)
    return connection.recv(10_000)


def without_a_certificate(connection: socket.socket, _: Path) -> bytes:
    return _by_tls(connection, ssl._create_unverified_context())


def with_another_certificate(connection: socket.socket, folder: Path) -> bytes:
    context = users_identity.context(other_identity(folder))
    context.verify_mode = ssl.CERT_NONE
    return _by_tls(connection, context)


def in_an_older_tls(connection: socket.socket, folder: Path) -> bytes:
    context = users_identity.context(fetch(folder / "agent.pem"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return _by_tls(connection, context)


def _by_tls(connection: socket.socket, context: ssl.SSLContext) -> bytes:
    with context.wrap_socket(connection) as secure:
        secure.sendall(HELLO)
        return secure.recv(10_000)


@pytest.mark.parametrize("attempt", [plainly, without_a_certificate, with_another_certificate, in_an_older_tls])
async def test_nobody_else_is(file: Path, attempt: Callable[[socket.socket, Path], bytes]) -> None:
    with guarded_agent(file) as agent:
        identity = await trio.to_thread.run_sync(fetch, file)
        with agent.connect() as connection:
            connection.settimeout(PATIENCE_S)
            try:
                said = await trio.to_thread.run_sync(attempt, connection, file.parent)
            except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                said = b""
        assert b"Welcome" not in said
        assert b"mirror" not in said
        assert await works(identity)


async def test_who_proves_nothing_does_not_keep_the_agent(file: Path) -> None:
    with guarded_agent(file, "--grace", "0") as agent:
        identity = await trio.to_thread.run_sync(fetch, file)
        with agent.connect():
            assert await works(identity)
            with trio.fail_after(PATIENCE_S):
                assert await agent.wait() == (0, "")


async def test_an_impostor_is_told_nothing(file: Path) -> None:
    """Somebody else is at the port that the agent had, with a certificate that looks alike."""
    agents_identity.make(str(file), 1)
    ours, other = fetch(file), agents_identity.make(str(file.with_name("other.pem")), 1)
    other.verify_mode = ssl.CERT_NONE
    heard = b""

    async def impostor(stream: trio.SocketStream) -> None:
        nonlocal heard
        secure = trio.SSLStream(stream, other, server_side=True)
        with contextlib.suppress(trio.BrokenResourceError):
            heard += await secure.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, impostor, 0, host="127.0.0.1"))
        below = await trio.testing.open_stream_to_socket_listener(listeners[0])
        stream = GuardedStream(below, ours, "the pod shop/web-1")
        with trio.fail_after(PATIENCE_S):
            await stream.do_handshake()
        assert isinstance(stream.failure, TargetError)
        assert "of the pod shop/web-1 does not have the secret of mirror's agent" in stream.failure.sentence
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()
    assert heard == b""


@pytest.mark.parametrize("said", [b"SSH-2.0-OpenSSH_9.2\r\n", b""])
async def test_what_is_no_tls(file: Path, said: bytes) -> None:
    """Another server is told apart from a connection that ends, as one to an agent that ends does."""
    agents_identity.make(str(file), 1)
    here, there = trio.testing.memory_stream_pair()
    await there.send_all(said)
    await there.send_eof()
    stream = GuardedStream(here, fetch(file), "the pod shop/web-1")
    await stream.do_handshake()
    assert (stream.failure is not None) == bool(said)
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


@needs_root
async def test_directly_it_is_reached_at_every_address(file: Path) -> None:
    with guarded_agent(file, "--direct"):
        identity = await trio.to_thread.run_sync(fetch, file)
        assert await works(identity, "127.0.0.2")
        if socket.has_dualstack_ipv6():
            assert await works(identity, "::1")


# --- where the secret is ----------------------------------------------------------------------------------


async def test_the_file_is_its_users_alone_and_tells_nothing_to_the_command_line(file: Path) -> None:
    with guarded_agent(file) as agent:
        content = (await trio.to_thread.run_sync(fetch, file)).pem
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        key = content.splitlines()[1].encode()
        for name in ("cmdline", "environ"):
            assert key not in Path(f"/proc/{agent.process.pid}/{name}").read_bytes()


def test_it_is_waited_for(file: Path) -> None:
    command = [sys.executable, "-m", "mirror.agent.identity", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        time.sleep(0.5)  # most of the time it has begun to wait by then
        agents_identity.make(str(file), 4711)
        assert users_identity.parse(reader.stdout.read()).port == 4711
    assert reader.returncode == 0


def test_that_there_is_none_is_said(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        agents_identity.read(str(file), wait_s=0)
    said = subprocess.run([sys.executable, "-m", "mirror.agent.identity"], check=False, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr.startswith("the agent's identity cannot be read: ")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"cannot write .*/none/agent.pem: No such file or directory"):
        agents_identity.make(str(tmp_path / "none/agent.pem"), 1)
    command = [sys.executable, "-m", "mirror.agent", "--listen", "0", "--pid", str(os.getpid())]
    ended = subprocess.run(
        [*command, "--identity", "/proc/none"], check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert ended.returncode == 1
    assert ended.stderr == "mirror's agent cannot write /proc/none: No such file or directory\n"


LOOK = """
import os, sys
found = []
for pid in sys.argv[1:]:
    for name in ("root", "cwd", "exe", "mem", "maps", "environ", "fd", "ns/mnt", "map_files"):
        try:
            path = f"/proc/{pid}/{name}"
            if name == "fd":
                os.readlink(f"{path}/0")
            elif name in ("map_files", "root"):
                os.listdir(path)
            elif name in ("mem", "maps", "environ"):
                os.close(os.open(path, os.O_RDONLY))
            else:
                os.readlink(path)
        except PermissionError:
            continue
        found.append(name)
print(*found)
"""


def look_into(*pids: int) -> list[str]:
    """What a root with the rights of a container's sees of processes."""
    limit = ["setpriv", "--bounding-set=-all,+" + CONTAINERS_ROOT.replace(",", ",+"), "--"]
    command = [*limit, sys.executable, "-c", LOOK, *map(str, pids)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


UNTIL_HIDDEN = """
import os, runpy, sys

def see(event, arguments):
    if event == "ctypes.dlsym" and arguments[1] == "prctl":
        print(*sys.modules, flush=True)
        os._exit(0)

sys.addaudithook(see)
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module and ends where it hides: which modules there are by then."""


@pytest.mark.parametrize(
    "command",
    [
        ["mirror.agent.identity", "/proc/none"],
        ["mirror.agent", "--listen", "0", "--pid", "1", "--identity", "/proc/none"],
    ],
)
def test_each_process_that_can_read_it_hides_before_it_imports_much(command: list[str]) -> None:
    program = [sys.executable, "-c", UNTIL_HIDDEN, *command]
    modules = subprocess.run(program, check=True, capture_output=True, text=True, timeout=PATIENCE_S).stdout.split()
    ours = {"mirror", "mirror.agent", "mirror.agent.hiding"}
    assert "mirror.agent.hiding" in modules
    assert {name for name in modules if name.startswith("mirror")} <= ours
    assert not {"asyncio", "socket", "ssl", "trio", "msgspec", "cryptography"} & {*modules}


@needs_root
async def test_a_root_beside_it_cannot_look_into_it(file: Path) -> None:
    """As one in the target's container can, which shares its processes with an ephemeral container."""
    container = ["setpriv", "--bounding-set=-all,+" + CONTAINERS_ROOT.replace(",", ",+"), "--"]
    with open_target(capabilities=0) as target:
        arguments = ["--pid", str(target.pid), "--features", "environment"]
        with listen_agent(*arguments, limit=container) as plain:
            assert "mem" in await trio.to_thread.run_sync(look_into, plain.process.pid)
        with listen_agent(*arguments, "--identity", str(file), limit=container) as agent:
            identity = await trio.to_thread.run_sync(fetch, file)
            async with client(identity):
                children = Path(f"/proc/{agent.process.pid}/task/{agent.process.pid}/children").read_text().split()
                assert children
                assert await trio.to_thread.run_sync(look_into, agent.process.pid, *map(int, children)) == []


@needs_root
async def test_nor_into_the_command_that_reads_it(file: Path) -> None:
    limit = ["setpriv", "--bounding-set=-all,+" + CONTAINERS_ROOT.replace(",", ",+"), "--"]
    command = [*limit, sys.executable, "-m", "mirror.agent.identity", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        with trio.move_on_after(PATIENCE_S) as patience:
            while await trio.to_thread.run_sync(look_into, reader.pid):  # it is about to begin
                pass
        agents_identity.make(str(file), 4711)
        assert reader.stdout is not None
        assert users_identity.parse(reader.stdout.read()).port == 4711
    assert not patience.cancelled_caught


@needs_root
async def test_nor_into_one_that_has_privileges(file: Path) -> None:
    """Nor into the process that holds its rules, which has executed another program."""
    with open_target(unshare_network=True, capabilities=CONTAINER_CAPABILITIES) as target:
        enter = ["nsenter", "--target", str(target.pid), "--net", "--"]
        limit = [*enter, *with_only(linux_capabilities(FEATURES, in_the_pod=True))]
        with listen_agent("--pid", str(target.pid), "--identity", str(file), limit=limit) as agent:
            identity = await trio.to_thread.run_sync(fetch, file)
            connection = trio.socket.from_stdlib_socket(connect_in(target, identity.port))
            stream = GuardedStream(trio.SocketStream(connection), identity, "here")
            peer = Peer(stream, is_client=True, handler=hear)
            async with trio.open_nursery() as nursery:
                await nursery.start(peer.run)
                await peer.request(m.Subscribe(8080, steal=True))
                children = Path(f"/proc/{agent.process.pid}/task").glob("*/children")
                pids = [int(pid) for listed in children for pid in listed.read_text().split()]
                assert len(pids) == 2
                assert await trio.to_thread.run_sync(look_into, agent.process.pid, *pids) == []
                await peer.aclose()


def test_without_it_nothing_of_it_is_imported() -> None:
    """It would take a third of the agent's start."""
    program = "import sys, mirror.agent.main, mirror.agent.service; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "mirror.agent.gate" in modules
    assert not {"cryptography", "mirror.agent.identity"} & {*modules}
