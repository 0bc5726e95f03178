"""The agent's end of its worker: a transcript, with the test as the worker process."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mirror.agent.entry import Ready
from mirror.agent.worker import FILES, NAMES, Worker, WorkerLost
from mirror.agent.worker_process import Answer, Request
from mirror.protocol import messages as m
from mirror.protocol.frame import FrameDecoder, encode_frame
from mirror.protocol.stream import RequestFailed

LINK = m.ReadLink(b"/x")
NAME = m.LookUpHost(b"x", 2)


class Other:
    """The worker's end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._link.setblocking(False)
        self._decoder = FrameDecoder(Request)

    def receive(self) -> tuple[int, m.Message]:
        """The next request, which is there already."""
        return self._decoder.decode(self._link.recv(10_000))

    def receive_all(self) -> list[int]:
        """The ids of all requests that are there."""
        ids = []
        while True:
            try:
                ids.append(self.receive()[0])
            except BlockingIOError:
                return ids

    def send(self, request_id: int, message: m.Message, *descriptors: int) -> None:
        socket.send_fds(self._link, [encode_frame(-request_id, message)[4:]], descriptors)

    def end(self) -> None:
        self._link.close()


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A child to be waited for in the worker's place."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.fixture
def ends(process: subprocess.Popen[bytes]) -> Iterator[tuple[Worker, Other]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Worker(process.pid, ours), Other(theirs)


async def settled() -> None:
    """Waits until every task waits."""
    await trio.testing.wait_all_tasks_blocked()


async def test_answers_find_their_requests_in_any_order(ends: tuple[Worker, Other], nursery: trio.Nursery) -> None:
    worker, other = ends
    nursery.start_soon(worker.run)
    answers: dict[bytes, m.Message] = {}

    async def ask(path: bytes) -> None:
        answers[path], fd = await worker.ask(m.ReadLink(path))
        assert fd is None

    for path in (b"/a", b"/b", b"/c"):
        nursery.start_soon(ask, path)
    await settled()
    requests = [other.receive() for _ in range(3)]
    for request_id, request in reversed(requests):
        assert isinstance(request, m.ReadLink)
        other.send(request_id, m.LinkRead(request.path * 2))
    await settled()
    assert answers == {path: m.LinkRead(path * 2) for path in (b"/a", b"/b", b"/c")}


async def test_a_failure_is_raised(ends: tuple[Worker, Other], nursery: trio.Nursery) -> None:
    worker, other = ends
    nursery.start_soon(worker.run)

    async def fail() -> None:
        await settled()
        other.send(other.receive()[0], m.Failed(errno.EACCES, "because"))

    nursery.start_soon(fail)
    with pytest.raises(RequestFailed) as failed:
        await worker.ask(LINK)
    assert (failed.value.errno, failed.value.reason) == (errno.EACCES, "because")


async def test_a_descriptor_belongs_to_who_asked(ends: tuple[Worker, Other], nursery: trio.Nursery) -> None:
    worker, other = ends
    nursery.start_soon(worker.run)
    read_end, write_end = os.pipe()

    async def answer() -> None:
        await settled()
        other.send(other.receive()[0], m.Done(), write_end)
        os.close(write_end)

    nursery.start_soon(answer)
    _, fd = await worker.ask(LINK)
    assert fd is not None
    os.write(fd, b"through")
    os.close(fd)
    assert os.read(read_end, 10) == b"through"
    assert os.read(read_end, 10) == b""
    os.close(read_end)


async def test_a_late_answers_descriptor_is_closed(ends: tuple[Worker, Other], nursery: trio.Nursery) -> None:
    worker, other = ends
    nursery.start_soon(worker.run)
    read_end, write_end = os.pipe()
    async with trio.open_nursery() as askers:
        askers.start_soon(worker.ask, LINK)
        await settled()
        askers.cancel_scope.cancel()
    other.send(other.receive()[0], m.Done(), write_end)
    os.close(write_end)
    await settled()
    assert os.read(read_end, 10) == b""
    os.close(read_end)


async def test_each_kind_of_work_has_its_share(ends: tuple[Worker, Other]) -> None:
    worker, other = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        for _ in range(FILES.threads + 10):
            nursery.start_soon(worker.ask, LINK)
        await settled()
        ids = other.receive_all()
        assert len(ids) == FILES.threads
        nursery.start_soon(worker.ask, NAME)
        await settled()
        assert other.receive()[1] == NAME
        other.send(ids[0], m.LinkRead(b""))
        await settled()
        assert len(other.receive_all()) == 1
        nursery.cancel_scope.cancel()


async def test_who_gives_up_gives_no_thread_back(ends: tuple[Worker, Other]) -> None:
    worker, other = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.run)
        async with trio.open_nursery() as askers:
            for _ in range(FILES.threads):
                askers.start_soon(worker.ask, LINK)
            await settled()
            askers.cancel_scope.cancel()
        ids = other.receive_all()
        nursery.start_soon(worker.ask, LINK)
        await settled()
        assert other.receive_all() == []
        other.send(ids[5], m.LinkRead(b""))
        await settled()
        assert len(other.receive_all()) == 1
        nursery.cancel_scope.cancel()


async def test_an_answer_that_takes_too_long_is_an_error(
    ends: tuple[Worker, Other], autojump_clock: trio.testing.MockClock
) -> None:
    worker, _ = ends
    for request, share in ((LINK, FILES), (NAME, NAMES)):
        started = trio.current_time()
        with pytest.raises(RequestFailed) as failed:
            await worker.ask(request)
        assert failed.value.errno == errno.ETIMEDOUT
        assert failed.value.reason.startswith(share.slow)
        assert trio.current_time() - started == pytest.approx(share.timeout_s)


async def test_the_end_of_the_worker_fails_what_is_under_way(
    ends: tuple[Worker, Other], process: subprocess.Popen[bytes]
) -> None:
    worker, other = ends
    errors = []

    async def ask() -> None:
        with pytest.raises(RequestFailed) as failed:
            await worker.ask(LINK)
        errors.append(failed.value.errno)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await settled()
        process.kill()
        other.end()
        with pytest.raises(WorkerLost, match="killed by signal 9"):
            await worker.run()
    await ask()
    assert errors == [errno.EIO, errno.EIO]
    process.returncode = -9  # `Worker` has waited for it


async def test_a_worker_that_is_not_ready_is_lost(ends: tuple[Worker, Other], process: subprocess.Popen[bytes]) -> None:
    worker, other = ends
    assert process.stdin is not None
    process.stdin.close()
    other.end()
    with pytest.raises(WorkerLost, match="before it was ready: exit status 0"):
        await worker.ready()
    process.returncode = 0


async def test_what_the_worker_found_is_told(ends: tuple[Worker, Other]) -> None:
    worker, other = ends
    ready = Ready({"files": "No."}, ("A notice.",))
    other.send(0, ready)
    assert await worker.ready() == ready


def test_every_request_of_the_worker_has_a_handler_and_a_share() -> None:
    from mirror.agent.worker import _SHARES
    from mirror.agent.worker_process import _handlers

    kinds = set(Request.__args__)
    assert kinds == set(_SHARES) == set(_handlers(-1, {}, is_foreign=False))
    assert m.Failed in Answer.__args__
