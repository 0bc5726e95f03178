"""The path table in C decides as its description in Python does, whatever the table and the path."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.cli.proxy import rules
from mirror.protocol import codec
from mirror.protocol.messages import Rule

NATIVE = Path(__file__).parents[2] / "layer" / "native"

VERDICTS = ("local", "remote", "absent", "read-only")
ACCESSES = ("read", "write")

# Where a relative path begins is told by the test.
BASE = """
#include <string.h>
#include "paths.h"
static char test_path[PATH_MAX];
struct base test_base = {.path = test_path};
bool base_of(int dirfd, struct base *base) {
    (void)dirfd;
    base->remote = test_base.remote;
    base->length = test_base.length;
    strcpy(base->path, test_base.path);
    return base->length > 0;
}
void test_base_set(const char *path, bool remote) {
    test_base.length = strlen(path);
    strcpy(test_base.path, path);
    test_base.remote = remote;
}
"""


class WireReader(ctypes.Structure):
    """struct wire_reader."""

    _fields_ = (("next", ctypes.c_void_p), ("end", ctypes.c_void_p), ("bad", ctypes.c_bool))


class Place(ctypes.Structure):
    """struct place."""

    _fields_ = (("path", ctypes.c_char_p), ("length", ctypes.c_size_t), ("buffer", ctypes.c_char * 4096))


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("decide")
    (folder / "base.c").write_text(BASE)
    sources = [str(NATIVE / name) for name in ("decide.c", "paths.c", "wire.c")]
    target = folder / "libdecide.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-std=gnu11", "-D_GNU_SOURCE", "-O2", "-fPIC", "-shared"]
    subprocess.run([*command, f"-I{NATIVE}", "-o", str(target), str(folder / "base.c"), *sources], check=True)
    return ctypes.CDLL(str(target))


def load(library: ctypes.CDLL, table: tuple[Rule, ...]) -> bool:
    data = codec.encode(table)
    buffer = ctypes.create_string_buffer(data, len(data))
    start = ctypes.addressof(buffer)
    reader = WireReader(start, start + len(data), False)
    library.decide_load.restype = ctypes.c_bool
    return bool(library.decide_load(ctypes.byref(reader)))


def decide(library: ctypes.CDLL, path: bytes, access: str) -> str:
    length = ctypes.c_size_t(len(path))
    return VERDICTS[library.decide_path(ctypes.c_char_p(path), length, ACCESSES.index(access))]


patterns = st.lists(st.sampled_from([b"a", b"B", b"etc", b"longer-than-8", b".so", b"Z", b"@", b"[", b"\xc3\x84"])).map(
    lambda parts: b"/".join([b"", *parts]) or b"/"
)
pieces = st.sampled_from([b".so", b".SO", b"x", b"/etc", b"/node_modules/", b"n-8", b"longer-than-8", b"", b"/"])
tables = st.lists(
    st.builds(
        Rule,
        st.sampled_from(["prefix", "exact", "suffix", "contains", "any"]),
        patterns | pieces,
        st.sampled_from(["read", "write", "any"]),
        st.sampled_from(VERDICTS),
        st.just("a reason"),
    ),
    max_size=8,
).map(lambda rows: (*rows, Rule("any", b"", "any", "local", "last")))
paths = patterns.flatmap(lambda path: st.sampled_from([path, path.upper(), path + b".so", path + b"x"]))


def without_root_prefix(table: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """A prefix that ends in a slash means the folder; the Python table has none, since paths in it are normal."""
    return tuple(
        msgspec.structs.replace(row, pattern=row.pattern.rstrip(b"/")) if row.match == "prefix" else row
        for row in table
    )


@given(table=tables, path=paths, access=st.sampled_from(ACCESSES))
def test_decides_as_described(library: ctypes.CDLL, table: tuple[Rule, ...], path: bytes, access: str) -> None:
    assert load(library, table)
    assert decide(library, path, access) == rules.decide(without_root_prefix(table), path, access).verdict


@pytest.mark.parametrize("mode", ["read", "write", "local", "localwithoverrides"])
def test_the_default_tables(library: ctypes.CDLL, mode: str) -> None:
    table = rules.build(mode, rules.Surroundings(home="/home/me", working_directories=("/work/shop",)))
    assert load(library, table)
    asked = (
        "/ /app /app/x.py /etc /etc/hosts /ETC/HOSTS /etc/ssl/certs/ca.pem /etc/ssl /etcetera /home/me/.kube/config "
        "/home/me/.kubeless /usr/lib/libc.so.6 /data/libx.so.1 /data/libx.sox /srv/node_modules /srv/node_modules/a "
        "/work/shop/a /work/shopping /procedure /proc/self /tmp /tmpfile /data/config.D /data/package.json"
    )
    for path in asked.split():
        for access in ACCESSES:
            expected = rules.decide(table, os.fsencode(path), access).verdict
            assert decide(library, os.fsencode(path), access) == expected, (path, access)


@pytest.mark.parametrize(
    "row",
    [
        Rule("regex", b"/x", "any", "local", ""),
        Rule("prefix", b"/x", "none", "local", ""),
        Rule("prefix", b"/x", "any", "elsewhere", ""),
    ],
)
def test_a_table_that_is_not_understood_is_refused(library: ctypes.CDLL, row: Rule) -> None:
    assert not load(library, (row,))


TABLE = (
    Rule("exact", b"/", "any", "local", "root"),
    Rule("prefix", b"/pod", "any", "remote", ""),
    Rule("prefix", b"/secret", "any", "absent", ""),
    Rule("prefix", b"/frozen", "write", "read-only", ""),
    Rule("any", b"", "any", "local", ""),
)
LOCAL, MOVED, REMOTE, ENOENT, EROFS, ENAMETOOLONG = 0, 1, 2, -2, -30, -36


@pytest.mark.parametrize(
    ("path", "result", "place"),
    [
        (b"/pod/file", REMOTE, b"/pod/file"),
        (b"/pod", REMOTE, b"/pod"),
        (b"/usr/file", LOCAL, None),
        (b"/usr//file/", LOCAL, None),
        (b"/secret/file", ENOENT, None),
        (b"/usr/../secret/file", ENOENT, None),
        (b"", LOCAL, None),
        # What leads nowhere else is sent as it came: the target's kernel knows where its links lead.
        (b"/pod//file", REMOTE, b"/pod//file"),
        (b"/pod/link/../file", REMOTE, b"/pod/link/../file"),
        (b"/pod/file/", REMOTE, b"/pod/file/"),
        (b"/./pod/file/.", REMOTE, b"/./pod/file/."),
        (b"/pod/.hidden/..not", REMOTE, b"/pod/.hidden/..not"),
        # What begins here and leads there has no meaning there but by name.
        (b"/usr/lib/../../pod/file", REMOTE, b"/pod/file"),
        (b"/usr/../pod/folder/", REMOTE, b"/pod/folder/"),
        # What begins there and leads here does not exist here as it came.
        (b"/pod/../usr/file", MOVED, b"/usr/file"),
        (b"/pod/folder/../../usr/folder/", MOVED, b"/usr/folder/"),
        (b"/pod/..", MOVED, b"/"),
        (b"/" + b"x" * 4095, LOCAL, None),
    ],
)
def test_absolute_paths(library: ctypes.CDLL, path: bytes, result: int, place: bytes | None) -> None:
    assert load(library, TABLE)
    assert resolve(library, path) == (result, place)


@pytest.mark.parametrize(
    ("base", "remote", "path", "result", "place"),
    [
        (b"/pod/folder", True, b"file", REMOTE, b"/pod/folder/file"),
        (b"/pod/folder", True, b".", REMOTE, b"/pod/folder/."),
        (b"/pod/folder", True, b"link/../file", REMOTE, b"/pod/folder/link/../file"),
        (b"/pod/folder", True, b"../../usr/file", MOVED, b"/usr/file"),
        (b"/pod/folder", True, b"x" * 4090, ENAMETOOLONG, None),
        (b"/home/me", False, b"file", LOCAL, None),
        (b"/home/me", False, b"../../pod/file", REMOTE, b"/pod/file"),
        (b"/", False, b"pod/file", REMOTE, b"/pod/file"),
        (b"/", False, b"usr", LOCAL, None),
        (b"", False, b"file", LOCAL, None),
    ],
)
def test_relative_paths(
    library: ctypes.CDLL, base: bytes, remote: bool, path: bytes, result: int, place: bytes | None
) -> None:
    assert load(library, TABLE)
    library.test_base_set(ctypes.c_char_p(base), ctypes.c_bool(remote))
    assert resolve(library, path) == (result, place)


def test_writing_where_only_reading_is_remote(library: ctypes.CDLL) -> None:
    assert load(library, TABLE)
    assert resolve(library, b"/frozen/file", "write") == (EROFS, None)
    assert resolve(library, b"/frozen/file", "read") == (LOCAL, None)


def test_attributes_of_the_parent_are_those_of_the_target(library: ctypes.CDLL) -> None:
    assert load(library, TABLE)
    place = Place()
    assert library.path_resolve_attributes(-100, ctypes.c_char_p(b"/pod/.."), ctypes.byref(place)) == REMOTE
    assert place.path == b"/pod/.."


def test_no_path_at_all_is_for_the_kernel_to_refuse(library: ctypes.CDLL) -> None:
    assert load(library, TABLE)
    place = Place()
    for address in (0, 8, 2**64 - 1):
        assert library.path_resolve(-100, ctypes.c_void_p(address), 0, ctypes.byref(place)) == LOCAL


def resolve(library: ctypes.CDLL, path: bytes, access: str = "read") -> tuple[int, bytes | None]:
    place = Place()
    at_fdcwd = -100
    result = library.path_resolve(at_fdcwd, ctypes.c_char_p(path), ACCESSES.index(access), ctypes.byref(place))
    return result, place.path if result > LOCAL else None
