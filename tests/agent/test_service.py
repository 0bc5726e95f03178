"""One agent with several clients: what they share, what ends one of them, and what ends them all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from mirror.agent.gate import Gate
from mirror.cli.proxy.ports import free_port
from mirror.protocol import messages as m
from mirror.protocol.connection import TargetEnded
from mirror.protocol.frame import Frame, FrameReader, encode_frame
from mirror.protocol.stream import RequestFailed
from tests.agent.actors import ListeningAgent, listen_agent, needs_root, open_target

PATIENCE_S = 60.0
"""What counts as never, on a busy machine."""
AT_ONCE = "--grace", "0"


def goodbye(connection: socket.socket) -> str:
    """The sentence with which an agent ends a connection, whatever it says before."""
    return last_word(connection).reason


def last_word(connection: socket.socket) -> m.Goodbye:
    """With which an agent ends a connection."""
    reader = FrameReader(m.AgentMessage)
    connection.settimeout(PATIENCE_S)
    while data := connection.recv(10_000):
        reader.feed(data)
    last = list(reader)[-1]
    assert isinstance(last, Frame)
    assert isinstance(last.message, m.Goodbye)
    return last.message


def answer(connection: socket.socket, request_id: int) -> m.Message:
    """What a request is answered."""
    reader = FrameReader(m.AgentMessage)
    connection.settimeout(PATIENCE_S)
    while data := connection.recv(10_000):
        reader.feed(data)
        for frame in reader:
            if frame.request_id == -request_id:
                return frame.message
    raise AssertionError("the agent has ended the connection")


async def works(agent: ListeningAgent) -> bool:
    async with agent.client() as client:
        return isinstance(await client.peer.request(m.StatFile(b"/", follow=True)), m.FileStatted)


async def test_clients_share_the_target_and_its_worker() -> None:
    with open_target(environment={"WHOSE": "target"}) as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as one, agent.client() as two:
            for client in one, two:
                answer = await client.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
                assert b"WHOSE=target" in answer.variables
            _, content = await one.read_file(b"/proc/self/stat")
            _, other_content = await two.read_file(b"/proc/self/stat")
            assert content.split()[0] == other_content.split()[0] == b"%d" % one.worker_pid()


@needs_root
async def test_clients_are_told_of_each_other() -> None:
    with open_target(unshare_network=True) as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client("anna@laptop") as anna, agent.client("bert@desk") as bert:
            await anna.peer.request(m.Subscribe(8080, steal=True))
            with pytest.raises(
                RequestFailed, match=r"^port 8080 of the target is taken by anna@laptop since ..:.. UTC"
            ):
                await bert.peer.request(m.Subscribe(8080, steal=True))


@needs_root
async def test_the_command_line_keeps_callers_from_all_clients() -> None:
    with open_target(unshare_network=True) as target:
        call = "calling = socket.create_connection(('127.0.0.1', 8080), source_address=('127.0.0.{}', 0))"
        with listen_agent("--pid", str(target.pid), "--keep-from", "127.0.0.7,::7") as agent:
            async with agent.client() as client:
                await client.peer.request(m.Subscribe(8080, steal=True))
                with pytest.raises(ConnectionRefusedError):
                    target.ask(call.format(7))
                target.ask(call.format(8))
                with trio.fail_after(PATIENCE_S):
                    await client.arrived.wait()


@needs_root
async def test_a_node_that_cannot_reach_the_target_is_told() -> None:
    with open_target(unshare_network=True) as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as client:
            await client.peer.request(m.Subscribe(8080, steal=True, keep_node=True))
            with trio.fail_after(PATIENCE_S):
                await client.noticed.wait()
            assert client.notices[0].startswith("probes of port 8080 that the kubelet makes come to the program")


async def test_a_client_that_breaks_the_protocol_ends_alone() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as staying:
            with agent.connect() as bad:
                bad.sendall(b"\0\0\0\5hello")
                assert "protocol" in await trio.to_thread.run_sync(goodbye, bad)
            assert await staying.peer.request(m.StatFile(b"/", follow=True))
        assert await works(agent)


async def test_an_error_in_the_agent_ends_one_client() -> None:
    fault = """
from mirror.agent.client import Client
serve, number = Client.serve, iter(range(9))
async def serve_badly(self):
    if next(number) == 1:
        raise ValueError("an error on purpose")
    await serve(self)
Client.serve = serve_badly
"""
    with open_target() as target, listen_agent("--pid", str(target.pid), *AT_ONCE, fault=fault) as agent:
        async with agent.client() as staying:
            with agent.connect() as unlucky:
                unlucky.settimeout(PATIENCE_S)
                assert await trio.to_thread.run_sync(unlucky.recv, 1000) == b""
            assert await staying.peer.request(m.StatFile(b"/", follow=True))
        status, errors = await agent.wait()
    assert status == 0
    assert "an error on purpose" in errors


async def test_a_signal_ends_all_clients_and_tells_them() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as one, agent.client() as two:
            agent.process.send_signal(signal.SIGTERM)
            with trio.fail_after(PATIENCE_S):
                await one.ended.wait()
                await two.ended.wait()
        assert one.farewell == two.farewell == "the agent was told to end by a signal"
        assert await agent.wait() == (0, "")


@needs_root
async def test_a_signal_gives_the_traffic_back_before_the_agent_is_gone() -> None:
    call = "calling = socket.create_connection(('127.0.0.1', 8080))"
    with open_target(unshare_network=True) as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as client:
            await client.peer.request(m.Subscribe(8080, steal=True))
            target.ask(call)
            agent.process.send_signal(signal.SIGTERM)
            assert await agent.wait() == (0, "")
            with pytest.raises(ConnectionRefusedError):
                target.ask(call)


async def test_a_signal_ends_an_agent_without_clients() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid)) as agent:
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.wait() == (0, "")


IN_ITS_POD = "from mirror.agent import service\nservice._is_in_its_pod = lambda target: True"


async def test_in_a_pod_that_is_being_removed_it_stays_with_its_target() -> None:
    """The kubelet sends SIGTERM to all containers, and the target may go on for its grace period."""
    with open_target() as target, listen_agent("--pid", str(target.pid), fault=IN_ITS_POD) as agent:
        async with agent.client() as client:
            agent.process.send_signal(signal.SIGTERM)
            async with agent.client() as other:
                assert await other.peer.request(m.StatFile(b"/", follow=True))
            assert await client.peer.request(m.StatFile(b"/", follow=True))
            target.end()
            with pytest.raises(TargetEnded):
                await client.peer.request(m.StatFile(b"/", follow=True))
        assert await agent.wait() == (0, "")


async def test_in_a_pod_that_is_being_removed_it_keeps_nobody_waiting() -> None:
    waiting = "--grace", "600", "--first-client-within", "600"
    with open_target() as target, listen_agent("--pid", str(target.pid), *waiting, fault=IN_ITS_POD) as agent:
        async with agent.client() as client:
            assert await client.peer.request(m.StatFile(b"/", follow=True))
            agent.process.send_signal(signal.SIGTERM)
        assert await agent.wait() == (0, "")


async def test_a_lost_worker_ends_all_clients_and_tells_them() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client() as one, agent.client() as two:
            os.kill(one.worker_pid(), signal.SIGKILL)
            with trio.fail_after(PATIENCE_S):
                await one.ended.wait()
                await two.ended.wait()
        assert one.farewell == two.farewell == "the agent's worker process ended: killed by signal 9"
        assert await agent.wait() == (1, one.farewell + "\n")


async def test_it_ends_with_its_target_and_says_so() -> None:
    """Only a new agent would find the container's next process."""
    with open_target() as target, listen_agent("--pid", str(target.pid), "--grace", "600") as agent:
        async with agent.client() as one, agent.client() as two:
            target.end()
            for client in one, two:
                with pytest.raises(TargetEnded, match=f"^process {target.pid}, the target of this agent, has ended;"):
                    await client.peer.request(m.StatFile(b"/", follow=True))
            assert one.notices == two.notices == []  # a session in a cluster goes on elsewhere
        assert await agent.wait() == (0, "")


LATE = """
import trio
from mirror.agent.client import Client
from mirror.agent.service import Service
end = Service.end
async def end_late(self, *reason, **kind):
    await trio.sleep(0.5)
    await end(self, *reason, **kind)
Service.end = end_late
"""
"""The agent is slow to say that its target has ended."""


async def test_nothing_is_answered_once_the_target_has_ended() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid), fault=LATE) as agent:
        async with agent.client() as client:
            target.end()
            for request in m.StatFile(b"/", follow=True), m.StatFile(b"/none", follow=True):
                with pytest.raises(TargetEnded):
                    await client.peer.request(request)
        assert await agent.wait() == (0, "")


async def test_volumes_stay_until_it_is_known_that_the_target_has_ended(tmp_path: Path) -> None:
    """The kernel takes the mounts of a dead process away before it says that it is dead."""
    unaware = f"{LATE}\nClient._until_told = lambda self: trio.lowlevel.checkpoint()"
    with open_target(unshare=True, root=str(tmp_path)) as target:
        (tmp_path / "volume").mkdir()
        target.ask("check(libc.mount(b'none', b'/volume', b'tmpfs', 0, None))")
        target.ask("open('/volume/file', 'w').close()")
        with listen_agent("--pid", str(target.pid), fault=unaware) as agent:
            async with agent.client() as client:
                target.end()
                with contextlib.suppress(TargetEnded):
                    while True:
                        await client.peer.request(m.StatFile(b"/volume/file", follow=True))
            assert await agent.wait() == (0, "")


async def test_newcomers_are_told_that_the_target_has_ended() -> None:
    """Those who have connected and are not being served yet."""
    held = """
import trio
from mirror.agent.gate import Gate
async def accept(self):
    await trio.sleep_forever()
Gate.accept = accept
"""
    with open_target() as target, listen_agent("--pid", str(target.pid), fault=held) as agent:
        with agent.connect() as newcomer:
            newcomer.sendall(encode_frame(0, m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION)))
            target.end()
            assert (await trio.to_thread.run_sync(last_word, newcomer)).is_targets_end
        assert await agent.wait() == (0, "")


async def test_it_ends_with_its_target_if_nobody_is_there() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid), "--grace", "600") as agent:
        assert await works(agent)
        target.end()
        assert await agent.wait() == (0, "")


async def test_it_ends_after_the_last_client_and_takes_its_worker_along() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid), *AT_ONCE) as agent:
        async with agent.client() as first:
            async with agent.client():
                worker = os.pidfd_open(first.worker_pid())
            assert agent.process.poll() is None
            assert await first.peer.request(m.StatFile(b"/", follow=True))
        assert await agent.wait() == (0, "")
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.wait_readable(worker)
        os.close(worker)


async def test_within_the_grace_period_another_client_is_served() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid), "--grace", "600") as agent:
        assert await works(agent)
        assert await works(agent)
        assert agent.process.poll() is None


AS_FIRST_PROCESS = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
agent = subprocess.Popen([sys.executable, "-m", "mirror.agent", "--listen", "0", *sys.argv[1:]])
agent.wait()
try:
    print("left:", os.waitpid(-1, 0))
except ChildProcessError:
    print("nobody")
"""


def test_it_leaves_no_process_to_the_first_one_of_its_namespace() -> None:
    """Which is the target in a pod's own, and may never ask after it."""
    with open_target() as target:
        command = [sys.executable, "-c", AS_FIRST_PROCESS, "--pid", str(target.pid), "--first-client-within", "0"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert said.splitlines()[-1] == "nobody"


async def test_it_ends_if_nobody_comes() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid), "--first-client-within", "0") as agent:
        assert await agent.wait() == (0, "")


async def test_nobody_but_its_own_network_namespace_can_reach_it() -> None:
    with open_target() as target, listen_agent("--pid", str(target.pid)) as agent:
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/{agent.process.pid}/net/{table}").read_text().splitlines()
            if f":{agent.port:04X} " in line and " 0A " in line
        ]
    assert listening == [f"0100007F:{agent.port:04X}"]


def test_a_target_that_cannot_be_had_is_told_to_who_waits() -> None:
    """Whoever connects while the agent still looks for its target."""
    port = free_port()
    command = [sys.executable, "-m", "mirror.agent", "--listen", str(port), "--container", "c0ffee"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        connection = None
        while connection is None and process.poll() is None:
            try:
                connection = socket.create_connection(("127.0.0.1", port))
            except ConnectionRefusedError:
                continue
        assert connection is not None
        with connection:
            connection.sendall(encode_frame(0, m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION)))
            reason = goodbye(connection)
        assert process.wait() == 1
        assert process.stderr is not None
        assert process.stderr.read() == reason + "\n"
    assert reason.startswith("no process of container c0ffee can be seen")


def test_who_was_turned_away_was_the_last() -> None:
    """Whoever came later would be cut off by the end of the process, without a word."""
    gate = Gate.listening(0)
    assert gate.listener is not None
    address = gate.listener.getsockname()
    with socket.create_connection(address) as early:
        gate.turn_away("it is over")
        assert goodbye(early) == "it is over"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mirror.agent", "--listen", str(port), "--targetless"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"mirror's agent cannot listen on port {port}: Address already in use\n"


@pytest.mark.slow
async def test_a_client_that_falls_silent_is_given_up() -> None:
    """As one does whose machine has vanished without a FIN: its connection stays, and nothing comes."""
    with open_target() as target, listen_agent("--pid", str(target.pid), *AT_ONCE) as agent, agent.connect() as silent:
        silent.sendall(encode_frame(0, m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION)))
        with trio.fail_after(PATIENCE_S):
            await agent.wait()
    assert agent.process.returncode == 0


@needs_root
async def test_a_client_that_connects_again_takes_its_ports_with_it() -> None:
    """Its former connection may be dead, without anybody having noticed."""
    with open_target(unshare_network=True) as target, listen_agent("--pid", str(target.pid)) as agent:
        async with agent.client("anna@laptop", "hers") as former, agent.client("anna@laptop", "another") as other:
            await former.peer.request(m.Subscribe(8080, steal=True))
            with agent.connect() as connection:
                # All at once, so that nothing but the agent's own order lets the former connection end first.
                hello = m.Hello(1, 1, (), "anna@laptop", "hers")
                subscribe = m.Subscribe(8080, steal=True)
                connection.sendall(encode_frame(0, hello) + encode_frame(1, subscribe))
                assert await trio.to_thread.run_sync(answer, connection, 1) == m.Done()
                with trio.fail_after(PATIENCE_S):
                    await former.ended.wait()
                assert former.farewell == "this session has connected again"
                assert await other.peer.request(m.StatFile(b"/", follow=True))
