"""A placeholder is a directory in which there is nothing and can be nothing, and which leads nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import pytest

from mirror.cli.proxy import contents
from mirror.cli.proxy.contents import reopen
from mirror.cli.proxy.directories import Placeholders, make_placeholder


@pytest.fixture
def placeholder() -> Iterator[int]:
    fd = make_placeholder()
    yield fd
    os.close(fd)


def test_it_is_an_empty_directory_without_a_name(placeholder: int) -> None:
    found = os.fstat(placeholder)
    assert stat.S_ISDIR(found.st_mode)
    assert found.st_nlink == 0
    assert os.listdir(placeholder) == []
    assert not os.path.exists(os.readlink(f"/proc/self/fd/{placeholder}"))


def test_nothing_can_be_made_in_it(placeholder: int) -> None:
    with pytest.raises(FileNotFoundError):
        os.mkdir("x", dir_fd=placeholder)
    with pytest.raises(FileNotFoundError):
        os.close(os.open("x", os.O_CREAT | os.O_WRONLY, dir_fd=placeholder))
    with pytest.raises(FileNotFoundError):
        os.stat("x", dir_fd=placeholder)


def test_above_it_there_is_nothing_either(placeholder: int) -> None:
    parent = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=placeholder)
    try:
        assert os.listdir(parent) == []
        with pytest.raises(FileNotFoundError):
            os.mkdir("x", dir_fd=parent)
    finally:
        os.close(parent)


def test_it_can_be_entered_and_opened_anew(placeholder: int) -> None:
    again = reopen(placeholder, contents.O_DIRECTORY)
    came_from = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.lseek(again, 7, os.SEEK_SET)
        assert os.lseek(placeholder, 0, os.SEEK_CUR) == 0
        assert os.path.samestat(os.fstat(again), os.fstat(placeholder))
        os.fchdir(again)
        with pytest.raises(FileNotFoundError):
            os.getcwd()
    finally:
        os.fchdir(came_from)
        os.close(came_from)
        os.close(again)


def test_each_directory_has_one_and_no_two_the_same() -> None:
    placeholders = Placeholders()
    try:
        one, numbers = placeholders.of(b"/one")
        assert placeholders.of(b"/one") == (one, numbers)
        assert placeholders.of(b"/other")[1] != numbers
    finally:
        placeholders.close()


def test_the_one_used_longest_ago_is_given_up_and_its_numbers_are_not_used_again() -> None:
    placeholders = Placeholders(most=2)
    try:
        seen = {placeholders.of(b"/0")[1]}
        for number in range(1, 50):
            fd, numbers = placeholders.of(b"/%d" % number)
            assert numbers not in seen
            seen.add(numbers)
            assert placeholders.of(b"/%d" % number)[0] == fd
    finally:
        placeholders.close()
