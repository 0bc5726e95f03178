"""What the cache infers from what it was told, and what it does not."""

from __future__ import annotations

import errno
import stat as s

import pytest

from mirror.cli.proxy.cache import FileCache, Known, Listing, normal, split
from mirror.protocol.messages import DirectoryEntry, ReadLink, Stat


class Clock:
    """Stands still unless it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> FileCache:
    return FileCache(1.0, clock)


def stat(ino: int, kind: int = s.S_IFREG) -> Stat:
    return Stat(1, ino, kind | 0o755, 1, 0, 0, 0, 0, 4096, 0, 0, 0, 0)


FILE, FOLDER, LINK = stat(1), stat(2, s.S_IFDIR), stat(3, s.S_IFLNK)


def entry(name: bytes, described: Stat | None) -> DirectoryEntry:
    return DirectoryEntry(name, 1, 0, described)


LISTING = Listing(
    [
        entry(b".", FOLDER),
        entry(b"..", stat(9, s.S_IFDIR)),
        entry(b"file", FILE),
        entry(b"link", LINK),
        entry(b"shy", None),
    ]
)


def test_nothing_is_known_at_first(cache: FileCache) -> None:
    assert cache.look_up(b"/a", follow=True) is None
    assert cache.real(b"/a") is None
    assert cache.listing(b"/a") is None
    assert cache.answer(ReadLink(b"/a")) is None


def test_what_is_no_link_is_the_same_either_way(cache: FileCache) -> None:
    cache.learn(b"/a", Known(FILE), follow=False)
    assert cache.look_up(b"/a", follow=True) == Known(FILE)


def test_what_is_a_link_leads_somewhere_unknown(cache: FileCache) -> None:
    cache.learn(b"/a", Known(LINK), follow=False)
    assert cache.look_up(b"/a", follow=True) is None


def test_where_a_path_leads_does_not_tell_whether_it_is_a_link(cache: FileCache) -> None:
    cache.learn(b"/a", Known(FILE), follow=True)
    assert cache.look_up(b"/a", follow=False) is None


def test_a_link_may_dangle(cache: FileCache) -> None:
    cache.learn(b"/a", Known(None, errno.ENOENT), follow=True)
    assert cache.look_up(b"/a", follow=False) is None
    cache.learn(b"/b", Known(None, errno.ENOENT), follow=False)
    assert cache.look_up(b"/b", follow=True) == Known(None, errno.ENOENT)


def test_errors_that_may_pass_are_not_remembered(cache: FileCache) -> None:
    cache.learn(b"/a", Known(None, errno.EIO), follow=True)
    cache.learn_answer(ReadLink(b"/a"), errno.ETIMEDOUT)
    assert cache.look_up(b"/a", follow=True) is None
    assert cache.answer(ReadLink(b"/a")) is None
    cache.learn_answer(ReadLink(b"/a"), errno.EACCES)
    assert cache.answer(ReadLink(b"/a")) == errno.EACCES


def test_a_listing_tells_the_attributes_of_its_entries(cache: FileCache) -> None:
    cache.learn_listing(b"/d", LISTING)
    assert cache.look_up(b"/d/file", follow=False) == Known(FILE)
    assert cache.look_up(b"/d/file", follow=True) == Known(FILE)
    assert cache.look_up(b"/d/link", follow=False) == Known(LINK)
    assert cache.look_up(b"/d/link", follow=True) is None
    assert cache.look_up(b"/d/shy", follow=False) is None
    assert cache.look_up(b"/d/.", follow=False) == Known(FOLDER)
    assert cache.look_up(b"/d/..", follow=True) == Known(stat(9, s.S_IFDIR))


def test_a_listing_tells_what_is_not_there(cache: FileCache) -> None:
    absent = Known(None, errno.ENOENT)
    cache.learn_listing(b"/d", LISTING)
    assert cache.look_up(b"/d/none", follow=False) == absent
    assert cache.look_up(b"/d/none/below/it", follow=True) == absent
    assert cache.look_up(b"/d/none/", follow=True) == absent
    assert cache.look_up(b"/d/none/../file", follow=True) is None
    assert cache.look_up(b"/d/" + b"n" * 256, follow=True) is None


def test_below_a_file_there_is_nothing(cache: FileCache) -> None:
    cache.learn_listing(b"/d", LISTING)
    assert cache.look_up(b"/d/file/x", follow=True) == Known(None, errno.ENOTDIR)
    assert cache.look_up(b"/d/link/x", follow=True) is None


def test_below_what_is_absent_there_is_nothing(cache: FileCache) -> None:
    cache.learn(b"/a", Known(None, errno.ENOENT), follow=True)
    assert cache.look_up(b"/a/b/c", follow=False) == Known(None, errno.ENOENT)
    assert cache.look_up(b"/ab", follow=False) is None


def test_of_what_may_not_be_entered_nothing_is_inferred(cache: FileCache) -> None:
    cache.learn(b"/a", Known(None, errno.EACCES), follow=True)
    assert cache.look_up(b"/a/b", follow=False) is None


@pytest.mark.parametrize("place", [b"/proc", b"/sys"])
def test_where_listings_are_not_complete_they_do_not_tell_absences(cache: FileCache, place: bytes) -> None:
    cache.learn_listing(place, LISTING)
    assert cache.look_up(place + b"/file", follow=False) == Known(FILE)
    assert cache.look_up(place + b"/none", follow=False) is None


def test_the_root_is_a_directory_like_any_other(cache: FileCache) -> None:
    cache.learn_listing(b"/", LISTING)
    assert cache.look_up(b"/file", follow=False) == Known(FILE)
    assert cache.look_up(b"/none", follow=False) == Known(None, errno.ENOENT)


def test_what_was_said_last_counts(cache: FileCache, clock: Clock) -> None:
    cache.learn(b"/d/file", Known(None, errno.ENOENT), follow=False)
    clock.now += 0.1
    cache.learn_listing(b"/d", LISTING)
    assert cache.look_up(b"/d/file", follow=False) == Known(FILE)
    clock.now += 0.1
    cache.learn(b"/d/file", Known(None, errno.ENOENT), follow=False)
    assert cache.look_up(b"/d/file", follow=False) == Known(None, errno.ENOENT)


def test_everything_is_forgotten_after_the_lease(cache: FileCache, clock: Clock) -> None:
    cache.learn(b"/a", Known(FILE), follow=False)
    cache.learn_listing(b"/d", LISTING)
    cache.learn_real(b"/a", b"/b")
    cache.learn_answer(ReadLink(b"/a"), errno.EINVAL)
    clock.now += 1.0
    test_nothing_is_known_at_first(cache)
    assert cache.look_up(b"/d/none", follow=True) is None


def test_what_took_long_to_learn_holds_longer(cache: FileCache, clock: Clock) -> None:
    cache.learn_listing(b"/d", LISTING, took_s=0.5)
    clock.now += 2.9
    assert cache.look_up(b"/d/file", follow=False) == Known(FILE)
    clock.now += 0.2
    assert cache.look_up(b"/d/file", follow=False) is None


def test_who_goes_through_a_directory_that_was_listed_needs_the_listing_again(cache: FileCache, clock: Clock) -> None:
    assert not cache.should_list(b"/d/one")
    cache.learn_listing(b"/d", LISTING)
    clock.now += 10
    assert not cache.should_list(b"/d/one")
    assert not cache.should_list(b"/d/one")
    assert not cache.should_list(b"/e/two")
    assert not cache.should_list(b"/d/..")
    assert cache.should_list(b"/d/two")
    clock.now += 1
    assert not cache.should_list(b"/d/three")
    clock.now += 60
    cache.should_list(b"/d/four")
    assert not cache.should_list(b"/d/five")


def test_where_a_path_leads(cache: FileCache) -> None:
    cache.learn_real(b"/link", b"/there")
    assert cache.real(b"/link") == b"/there"
    assert cache.real(b"/there") == b"/there"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/a/b", b"/a/b"),
        (b"//a///b/./c", b"/a/b/c"),
        (b"/./a/", b"/a/"),
        (b"/a/.", b"/a/."),
        (b"/a/../b", b"/a/../b"),
        (b"/a/.b//..c", b"/a/.b/..c"),
        (b"//", b"/"),
        (b"/", b"/"),
    ],
)
def test_normal(path: bytes, expected: bytes) -> None:
    assert normal(path) == expected


def test_split() -> None:
    assert split(b"/a/b") == (b"/a", b"b")
    assert split(b"/a") == (b"/", b"a")
    assert split(b"/a/") == (b"/a", b"")
