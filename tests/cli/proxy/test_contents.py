"""A content is a real file that nobody can change, with an offset of its own for each open."""

from __future__ import annotations

import fcntl
import mmap
import os

import pytest

from mirror.cli.proxy import contents
from mirror.cli.proxy.contents import Content, reopen
from mirror.protocol.messages import Stat

STAT = Stat(1, 2, 0o100640, 1, 0, 0, 0, 6, 4096, 8, 1_000_000_001, 2_000_000_002, 3)


@pytest.fixture
def content() -> Content:
    made = Content(b"/pod/file", STAT)
    made.write(b"con")
    made.write(b"tent")
    made.seal()
    return made


@pytest.fixture
def closing() -> list[int]:
    """Descriptors to be closed."""
    return []


@pytest.fixture(autouse=True)
def _close(closing: list[int]) -> object:
    yield
    for fd in closing:
        os.close(fd)


def test_it_reads_like_a_file(content: Content, closing: list[int]) -> None:
    closing.append(fd := reopen(content.fd, 0))
    assert content.size_bytes == 7
    assert os.pread(fd, 100, 0) == b"content"
    assert os.lseek(fd, 0, os.SEEK_END) == 7
    with mmap.mmap(fd, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
        assert mapped[:] == b"content"


def test_offsets_are_separate(content: Content, closing: list[int]) -> None:
    closing += [one := reopen(content.fd, 0), other := reopen(content.fd, 0)]
    os.read(one, 3)
    assert os.read(other, 3) == b"con"


def test_nobody_can_write(content: Content, closing: list[int]) -> None:
    closing.append(fd := reopen(content.fd, 0))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(fd, b"x")
    with pytest.raises(PermissionError):
        mmap.mmap(fd, 0, prot=mmap.PROT_WRITE)
    with pytest.raises(PermissionError):
        closing.append(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_TRUNC))


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK, os.O_APPEND, contents.O_PATH, os.O_SYNC])
def test_the_flags_are_those_that_were_asked_for(content: Content, closing: list[int], flags: int) -> None:
    closing.append(fd := reopen(content.fd, flags | contents.O_NOFOLLOW))
    large_file = 0 if flags == contents.O_PATH else fcntl.fcntl(content.fd, fcntl.F_GETFL) & ~os.O_RDWR
    assert fcntl.fcntl(fd, fcntl.F_GETFL) == flags | large_file
    assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC


def test_it_is_recognised_and_looks_like_the_original_without_hooks(content: Content, closing: list[int]) -> None:
    closing.append(fd := reopen(content.fd, 0))
    found = os.fstat(fd)
    assert (found.st_dev, found.st_ino) == content.numbers
    assert (found.st_mode, found.st_size, found.st_mtime_ns, found.st_nlink) == (0o100640, 7, 2_000_000_002, 0)


def test_programs_keep_it_when_we_do_not(closing: list[int]) -> None:
    content = Content(b"/pod/file", STAT)
    content.write(b"content")
    content.seal()
    closing.append(fd := reopen(content.fd, 0))
    own = content.fd
    del content
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(own)
    assert os.read(fd, 100) == b"content"
