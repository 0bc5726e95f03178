from __future__ import annotations

import mmap
import os
import socket
import subprocess

import pytest
import trio
import trio.testing

from mirror.cli.proxy import lifeline
from mirror.cli.proxy.lifeline import GRACE_S, Lifelines

WITHIN_S = 30.0
"""Bounds a wait on a busy machine."""


async def is_over(lifelines: Lifelines, within_s: float = WITHIN_S) -> bool:
    with trio.move_on_after(within_s):
        await lifelines.wait_over()
        return True
    return False


async def test_over_at_once_where_nobody_ever_was(autojump_clock: trio.testing.MockClock) -> None:
    assert await is_over(Lifelines())


async def test_held_until_the_last_one_and_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    lifelines = Lifelines()
    lifelines.grace_s = GRACE_S
    with lifelines.held():
        with lifelines.held():
            assert not await is_over(lifelines)
        assert not await is_over(lifelines)
    began_at = trio.current_time()
    assert await is_over(lifelines)
    assert trio.current_time() - began_at == pytest.approx(GRACE_S)


async def test_somebody_new_within_the_grace(autojump_clock: trio.testing.MockClock) -> None:
    lifelines = Lifelines()
    lifelines.grace_s = GRACE_S

    async def come_back() -> None:
        await trio.sleep(GRACE_S / 2)
        with lifelines.held():
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come_back)
        began_at = trio.current_time()
        assert await is_over(lifelines)
        assert trio.current_time() - began_at == pytest.approx(GRACE_S / 2 + 1 + GRACE_S)


async def connected(lifelines: Lifelines) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", lifelines.port)


def port_of(line: trio.SocketStream) -> int:
    return int(line.socket.getsockname()[1])


async def wait_held(lifelines: Lifelines) -> None:
    with trio.fail_after(WITHIN_S):
        await lifelines._some.wait()


@pytest.mark.parametrize("is_named_first", [True, False])
async def test_named_line_holds_until_its_end(nursery: trio.Nursery, is_named_first: bool) -> None:
    lifelines = Lifelines()
    await nursery.start(lifelines.listen)
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
        if is_named_first:
            lifelines.name(port)
        await trio.to_thread.run_sync(line.connect, ("127.0.0.1", lifelines.port))
        lifelines.name(port)
        await wait_held(lifelines)
    with trio.fail_after(WITHIN_S):
        await lifelines.wait_over()


async def test_line_that_nobody_names_counts_for_nothing_and_is_closed(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifeline, "_NAMED_WITHIN_S", 0.05)
    lifelines = Lifelines()
    await nursery.start(lifelines.listen)
    async with await connected(lifelines) as line:
        assert await is_over(lifelines)
        with trio.fail_after(WITHIN_S):
            assert await line.receive_some(1) == b""


async def test_line_that_is_reset_ends(nursery: trio.Nursery) -> None:
    lifelines = Lifelines()
    await nursery.start(lifelines.listen)
    line = await connected(lifelines)
    lifelines.name(port_of(line))
    await wait_held(lifelines)
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await line.aclose()
    with trio.fail_after(WITHIN_S):
        await lifelines.wait_over()


async def test_process_that_maps_a_named_line(nursery: trio.Nursery) -> None:
    lifelines = Lifelines()
    await nursery.start(lifelines.listen)
    async with await connected(lifelines) as line:
        with mmap.mmap(line.socket.fileno(), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ):
            assert not lifelines.is_held_by(os.getpid())
            lifelines.name(port_of(line))
            assert lifelines.is_held_by(os.getpid())
            assert not lifelines.is_held_by(os.getppid())
        assert not lifelines.is_held_by(os.getpid())


async def test_line_from_another_address_than_the_named_one(nursery: trio.Nursery) -> None:
    lifelines = Lifelines()
    await nursery.start(lifelines.listen)
    with socket.socket() as line:
        line.bind(("127.0.0.2", 0))
        lifelines.name(line.getsockname()[1])
        line.connect(("127.0.0.1", lifelines.port))
        with mmap.mmap(line.fileno(), mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ):
            assert not lifelines.is_held_by(os.getpid())


def test_nobody_holds_what_does_not_exist() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert not Lifelines().is_held_by(gone.pid)
