"""The keeper alone, with the test as its agent."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.agent.incoming import keeper, netlink
from mirror.agent.incoming.ruleset import Mark, Ruleset, Support

from .stage import PATH, PATIENCE_S, Pod


@contextlib.contextmanager
def keeping(pod: Pod) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A keeper in the pod that has said that it is there."""
    link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.settimeout(PATIENCE_S)
    with link:
        with theirs:
            namespaces = ["--user", "--net", "--preserve-credentials", "--target", str(pod.process.pid)]
            program = [sys.executable, "-I", "-S", str(Path(keeper.__file__)), str(theirs.fileno()), str(os.getpid())]
            process = subprocess.Popen(["nsenter", *namespaces, *program], pass_fds=[theirs.fileno()])
        try:
            assert link.recv(100) == keeper.TICK
            yield link, process
        finally:
            process.kill()
            process.wait()


def table(name: str) -> bytes:
    return netlink.batch(Ruleset(name, Mark(0), Support(), {socket.AF_INET: 1}).create())


def exchange(link: socket.socket, sequence: bytes, batch: bytes) -> int:
    link.send(sequence + batch)
    answer = link.recv(1 << 16)
    assert answer[:4] == sequence
    return netlink.first_error(answer[4:])


def tables(pod: Pod) -> str:
    return pod.run("target", "nft", "list", "tables")


def tick(link: socket.socket, last_at: float) -> float | None:
    """Ticks for longer than the keeper is patient.

    Args:
        link: To the keeper.
        last_at: When it was spoken to before.

    Returns:
        When the last tick was sent; None if one was late, as may happen on a busy machine: what the keeper did then
        proves nothing.
    """
    begun_at = last_at
    while last_at < begun_at + 2 * keeper.PATIENCE_S:
        sent_at = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            link.send(keeper.TICK)
        if time.monotonic() - last_at >= keeper.PATIENCE_S:
            return None
        last_at = sent_at
        assert link.recv(100) == keeper.TICK
        assert not select.select([link], [], [], keeper.TICK_S)[0]
    return last_at


def test_the_table_lasts_as_long_as_there_are_ticks(pod: Pod) -> None:
    last_at = None
    while last_at is None:
        with keeping(pod) as (link, process):
            begun_at = time.monotonic()
            assert exchange(link, b"0001", table("kept")) == 0
            last_at = tick(link, begun_at)
            if last_at is None:
                continue
            # Then nothing is said, and the keeper ends the conversation before it ends.
            assert link.recv(100) == b""
            assert time.monotonic() - last_at >= keeper.PATIENCE_S
            assert tables(pod) == ""
            link.close()
            assert process.wait(PATIENCE_S) == 0


def test_a_tick_brings_something_to_carry_out(pod: Pod) -> None:
    with keeping(pod) as (link, _):
        for batch in b"nonsense", table("kept"):
            link.send(keeper.TICK + batch)
            assert link.recv(100) == keeper.TICK
        assert "kept" in tables(pod)


def test_it_ends_with_the_link(pod: Pod) -> None:
    with keeping(pod) as (link, process):
        assert exchange(link, b"0001", table("kept")) == 0
        link.close()
        assert process.wait(PATIENCE_S) == 0
        assert tables(pod) == ""


def test_refusals_are_told_and_leave_nothing(pod: Pod) -> None:
    with keeping(pod) as (link, _), keeping(pod) as (other, _):
        assert exchange(link, b"0001", table("kept")) == 0
        assert exchange(other, b"0001", table("kept")) in (errno.EPERM, errno.EEXIST)
        assert exchange(link, b"0002", b"nonsense") == errno.EPROTO
        assert exchange(link, b"0003", table("another")) == 0


@pytest.mark.parametrize("is_wanted", [True, False])
def test_the_farewell_comes_last_unless_it_is_taken_back(pod: Pod, is_wanted: bool) -> None:
    if shutil.which("conntrack", path=PATH) is None:
        pytest.skip("conntrack makes an entry to forget")
    with keeping(pod) as (link, process):
        mark = Mark(0)
        link.send(keeper.FAREWELL + netlink.forget_connections(mark.passed_on(), mark.passed_on_mask))
        make_entry = ["conntrack", "-I", "-p", "tcp", "-s", "10.99.0.200", "-d", "10.99.0.1", "--sport", "7", "--dport"]
        entry = [*make_entry, "7", "--state", "ESTABLISHED", "--timeout", "100", "--mark", str(mark.passed_on(3))]
        pod.run("target", *entry)
        if not is_wanted:
            link.send(keeper.FAREWELL)
        # An agent that ends has not always read everything, and what it leaves unread is an error to the other end.
        link.send(b"0001" + table("kept"))
        assert select.select([link], [], [], PATIENCE_S)[0]
        link.close()
        assert process.wait(PATIENCE_S) == 0
        assert ("src=10.99.0.200 " in pod.run("target", "conntrack", "-L")) is not is_wanted
