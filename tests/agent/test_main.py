"""The agent's processes: how they begin, refuse and end."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import trio

from mirror.protocol import messages as m
from mirror.protocol.connection import ConnectionLost
from mirror.protocol.frame import Frame, FrameReader, encode_frame
from mirror.protocol.stream import RequestFailed
from tests.agent.actors import IS_ROOT, NOBODY, Agent, needs_root, open_agent, open_target, spawn_agent, worker_pid_of


def wait_for_end(pidfd: int, *, within_s: float = 5) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def refusal(pid: int, *, uid: int | None = None) -> str:
    """The sentence of an agent that may not serve, which is on stderr and in its goodbye."""
    with spawn_agent(pid, uid=uid) as (process, connection):
        reader = FrameReader(m.AgentMessage)
        while data := connection.recv(1000):
            reader.feed(data)
        (frame,) = reader
        assert isinstance(frame, Frame)
        assert isinstance(frame.message, m.Goodbye)
        assert process.wait() == 1
        assert process.stderr is not None
        assert process.stderr.read().decode().splitlines() == [frame.message.reason]
    return frame.message.reason


def test_a_process_that_does_not_exist_is_named() -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    assert refusal(gone.pid) == f"there is no process {gone.pid} any more; name one that runs"


def test_a_process_that_has_ended_is_refused() -> None:
    zombie = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        assert refusal(zombie.pid) == f"process {zombie.pid} has ended; name one that runs"
    finally:
        zombie.wait()


def test_a_thread_is_refused() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id is not None
        assert refusal(thread.native_id).startswith(f"{thread.native_id} is a thread; name its process")
    finally:
        done.set()
        thread.join()


@needs_root
def test_another_users_process_is_refused_with_a_remedy() -> None:
    with open_target() as target:
        assert "run mirror as root" in refusal(target.pid, uid=NOBODY)
    with open_target(uid=NOBODY - 1, gid=NOBODY - 1) as target:
        assert refusal(target.pid, uid=NOBODY) == (
            f"process {target.pid} belongs to another user (uid {NOBODY - 1}); run mirror as that user or as root"
        )


@pytest.mark.parametrize("arguments", [[], ["--pid", "x", "--fd", "1"], ["--pid", "1"], ["--pid", "1", "--fd", "99"]])
def test_a_wrong_command_line_is_explained(arguments: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-m", "mirror.agent", *arguments], capture_output=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"usage: python -m mirror.agent --pid N --fd FD\n")


@pytest.mark.parametrize(("told", "status", "words"), [("4194305\n", 1, "there is no process 4194305"), ("", 0, "")])
def test_it_may_be_told_the_target_after_its_start(told: str, status: int, words: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [sys.executable, "-m", "mirror.agent", "--pid", "-", "--fd", str(theirs.fileno())]
        ended = subprocess.run(
            command, pass_fds=[theirs.fileno()], input=told, text=True, capture_output=True, check=False
        )
    assert ended.returncode == status
    assert ended.stderr.startswith(words)
    assert bool(ended.stderr) == bool(words)


async def test_the_environment_is_the_targets_byte_for_byte() -> None:
    variables = {"PLAIN": "value", "EMPTY": "", "ODD": "a=b\n\udcff", "REAL": "1"}
    with open_target(environment=variables) as target:
        async with open_agent(target.pid) as agent:
            answer = await agent.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
    kernel = dict(variable.split(b"=", 1) for variable in answer.variables)
    assert kernel.items() >= {os.fsencode(name): os.fsencode(value) for name, value in variables.items()}.items()


@needs_root
async def test_the_environment_of_a_rootless_container_is_read_by_its_owner() -> None:
    wanted = {"unshare": True, "outer_uid": NOBODY, "map": "range", "uid": 999, "gid": 999}
    with open_target(**wanted, environment={"INSIDE": "yes"}) as target:
        async with open_agent(target.pid, uid=NOBODY) as agent:
            answer = await agent.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
    assert b"INSIDE=yes" in answer.variables


async def test_the_host_name_is_the_targets() -> None:
    ids = {"outer_uid": NOBODY} if IS_ROOT else {}
    with open_target(unshare=True, host_name="orders-7", **ids) as target:
        async with open_agent(target.pid, uid=NOBODY if IS_ROOT else None) as agent:
            answer = await agent.peer.request(m.ReadEnvironment(), m.EnvironmentRead)
            assert answer.host_name == b"orders-7"
            assert answer.domain_name == target.ask("open('/proc/sys/kernel/domainname', 'rb').read().strip()")


@needs_root
async def test_groups_that_cannot_be_had_are_told() -> None:
    with open_target(uid=NOBODY, gid=NOBODY, groups=[4321]) as target:
        async with open_agent(target.pid, uid=NOBODY) as agent:
            await agent.noticed.wait()
            assert agent.notices == [
                "files of the target are read without its supplementary groups, so some that it may read are refused:"
                " they could not be taken (Operation not permitted)"
            ]


async def test_the_end_of_the_target_is_told() -> None:
    with open_target() as target:
        async with open_agent(target.pid) as agent:
            target.end()
            await agent.noticed.wait()
            assert agent.notices == [
                f"process {target.pid}, the target, has ended; its files and network can still be reached from this"
                " session, its environment cannot"
            ]
            with pytest.raises(Exception, match="environment of process"):
                await agent.peer.request(m.ReadEnvironment())
            assert isinstance(await agent.peer.request(m.StatFile(b"/", follow=True)), m.FileStatted)


async def abandoned(agent: Agent, end: Callable[[Agent, int], None]) -> tuple[int, int]:
    """Ends something, waits until agent and worker are gone; pidfds are closed."""
    worker_pid = agent.worker_pid()
    descriptors = os.pidfd_open(agent.process.pid), os.pidfd_open(worker_pid)
    try:
        end(agent, worker_pid)
        for descriptor in descriptors:
            assert await trio.to_thread.run_sync(wait_for_end, descriptor)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return agent.process.wait(), worker_pid


@pytest.mark.parametrize(
    ("name", "status"),
    [("SIGKILL to the agent", -signal.SIGKILL), ("SIGKILL to the worker", 0), ("SIGTERM", 0), ("SIGINT", 0)],
)
async def test_all_processes_go_whichever_is_killed(name: str, status: int) -> None:
    def end(agent: Agent, worker_pid: int) -> None:
        signal_name, _, rest = name.partition(" ")
        os.kill(worker_pid if "worker" in rest else agent.process.pid, getattr(signal, signal_name))

    with open_target() as target, spawn_agent(target.pid) as (process, connection):
        agent = Agent(process, connection)
        async with trio.open_nursery() as nursery:
            reasons: list[str] = []

            async def run(*, task_status: trio.TaskStatus[m.Hello | m.Welcome]) -> None:
                try:
                    await agent.peer.run(task_status=task_status)
                except ConnectionLost as lost:
                    reasons.append(str(lost))

            agent.welcome = await nursery.start(run)
            ended, _ = await abandoned(agent, end)
        assert ended == status
        (reason,) = reasons
        if "worker" in name:
            assert reason == "the agent's worker process ended: killed by signal 9"
        elif "TERM" in name or "INT" in name:
            assert reason == "the agent was told to end by a signal"


async def test_the_end_of_the_connection_ends_everything() -> None:
    with open_target() as target, spawn_agent(target.pid) as (process, connection):
        connection.sendall(encode_frame(0, m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION)))
        assert b"Welcome" in await trio.to_thread.run_sync(connection.recv, 10_000)
        descriptors = [os.pidfd_open(process.pid), os.pidfd_open(worker_pid_of(process.pid))]
        connection.close()
        for descriptor in descriptors:
            assert await trio.to_thread.run_sync(wait_for_end, descriptor)
            os.close(descriptor)
        assert process.wait() == 0


async def test_a_client_that_breaks_the_protocol_is_told_and_left() -> None:
    with open_target() as target, spawn_agent(target.pid) as (process, connection):
        connection.sendall(b"\0\0\0\5hello")
        reader = FrameReader(m.AgentMessage)
        while data := await trio.to_thread.run_sync(connection.recv, 1000):
            reader.feed(data)
        assert await trio.to_thread.run_sync(process.wait) == 0
    frames = list(reader)
    assert isinstance(frames[-1].message, m.Goodbye)
    assert "protocol" in frames[-1].message.reason


@needs_root
async def test_the_worker_holds_nothing_that_is_outside_its_root() -> None:
    with open_target() as target:
        before = target.ask("sorted(os.listdir('/proc/self/fd'))")
        async with open_agent(target.pid) as agent:
            pid = agent.worker_pid()
            folder = f"/proc/{pid}/fd"
            links = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if int(name) > 2}
            # Nothing outside the root but the worker's own descriptors.
            assert {link.partition(":")[0] for link in links} == {"socket", folder}
        assert target.ask("sorted(os.listdir('/proc/self/fd'))") == before


@needs_root
@pytest.mark.parametrize(
    ("wanted", "without", "missing", "remedy"),
    [
        ({"root": "/usr"}, "-sys_chroot", {"files", "names"}, "CAP_SYS_CHROOT"),
        ({"unshare_network": True}, "-sys_admin", {"names", "outgoing", "incoming"}, "CAP_SYS_ADMIN"),
        ({"uid": NOBODY, "gid": NOBODY}, "-setuid,-setgid", {"files", "names", "outgoing"}, "CAP_SETUID"),
    ],
)
async def test_what_may_not_be_entered_is_reported_and_refused(
    wanted: dict[str, Any], without: str, missing: set[str], remedy: str
) -> None:
    requests = {
        "files": m.StatFile(b"/", follow=True),
        "names": m.LookUpHost(b"localhost", socket.AF_INET),
        "outgoing": m.Connect(1, m.SocketAddress(bytes((127, 0, 0, 1)), 1)),
        "environment": m.ReadEnvironment(),
    }
    with open_target(**wanted) as target:
        async with open_agent(target.pid, without=without) as agent:
            assert agent.welcome.reasons.keys() == missing
            assert remedy in agent.welcome.reasons[min(missing - {"incoming"})]
            for capability in missing & requests.keys():
                if capability == "outgoing":
                    agent.peer.open_channel()
                with pytest.raises(RequestFailed) as failed:
                    await agent.peer.request(requests[capability])
                assert failed.value.errno == errno.EOPNOTSUPP
                assert failed.value.reason == agent.welcome.reasons[capability]
            assert await agent.peer.request(requests["environment"])
