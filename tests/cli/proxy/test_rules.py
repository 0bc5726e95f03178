from __future__ import annotations

import pytest

from mirror.cli.proxy import rules
from mirror.cli.proxy.rules import Surroundings

AROUND = Surroundings(
    home="/data/people/ann",
    working_directories=("/work/shop", "/mnt/disk/shop"),
    programs=("/srv/python/bin/python3", "/srv/tool"),
    scripts=("/srv/scripts",),
    temporary=("/scratch/tmp",),
    toolchains=("/srv/toolchain",),
    search_path=("/srv/node/bin", "/app/tools"),
)
READ = rules.build("read", AROUND)


def verdict(path: str, access: str = "read", mode: str = "read", around: Surroundings = AROUND) -> tuple[str, str]:
    row = rules.decide(rules.build(mode, around), path.encode(), access)
    return row.verdict, row.reason


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/app/config.yml", ("remote", "mode-read")),
        ("/var/run/secrets/token", ("remote", "mode-read")),
        ("/data/people/bob/file", ("remote", "mode-read")),
        ("/etcetera", ("remote", "mode-read")),
        ("/etc/resolv.conf", ("remote", "identity")),
        ("/ETC/hosts", ("remote", "identity")),
        ("/etc/ssl/certs/ca.pem", ("remote", "identity")),
        ("/run/secrets/kubernetes.io/serviceaccount/token", ("remote", "identity")),
        ("/run/user", ("local", "system")),
        ("/etc/passwd", ("local", "system")),
        ("/etc", ("local", "system")),
        ("/", ("local", "root")),
        ("/proc/self/status", ("local", "system")),
        ("/usr/lib/libc.so.6", ("local", "system")),
        ("/data/people/ann/notes", ("local", "home")),
        ("/data/people/ann/.kube/config", ("absent", "credentials")),
        ("/data/people/ann/.kubeconfig", ("local", "home")),
        ("/work/shop/settings.ini", ("local", "working-directory")),
        ("/mnt/disk/shop", ("local", "working-directory")),
        ("/mnt/disk", ("local", "way")),
        ("/mnt/disk/other", ("remote", "mode-read")),
        ("/data/people", ("local", "way")),
        ("/srv", ("local", "way")),
        ("/srv/python/bin/python3", ("local", "installation")),
        ("/srv/tool", ("local", "program")),
        ("/srv/tool/x", ("remote", "mode-read")),
        ("/srv/python/lib/python3.11/os.txt", ("local", "installation")),
        ("/srv/python/data", ("remote", "mode-read")),
        ("/srv/scripts/input.txt", ("local", "script-directory")),
        ("/scratch/tmp/x", ("local", "temporary")),
        ("/srv/toolchain/x", ("local", "toolchain")),
        ("/srv/node/bin/node", ("local", "search-path")),
        ("/srv/node/lib/x", ("local", "installation")),
        ("/app/tools/x", ("local", "search-path")),
        ("/app/main.py", ("local", "code")),
        ("/app/libx.so.1.2", ("local", "code")),
        ("/app/node_modules/left-pad/readme.md", ("local", "code")),
        ("/app/node_modules", ("local", "code")),
        ("/app/.yarnrc.yml", ("local", "code")),
        ("/app/my.sources", ("remote", "mode-read")),
    ],
)
def test_reading(path: str, expected: tuple[str, str]) -> None:
    assert verdict(path) == expected


@pytest.mark.parametrize(
    ("path", "mode", "expected"),
    [
        ("/app/log", "read", ("local", "mode-read")),
        ("/app/log", "write", ("read-only", "mode-write")),
        ("/app/log", "localwithoverrides", ("local", "mode-localwithoverrides")),
        ("/app/log", "local", ("local", "mode-local")),
        ("/etc/hosts", "read", ("local", "system")),
        ("/data/people/ann/.kube/config", "read", ("absent", "credentials")),
        ("/data/people/ann/.kube/config", "local", ("local", "mode-local")),
    ],
)
def test_writing(path: str, mode: str, expected: tuple[str, str]) -> None:
    assert verdict(path, "write", mode) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/app/x", ("local", "mode-localwithoverrides")), ("/etc/hosts", ("remote", "identity"))],
)
def test_localwithoverrides(path: str, expected: tuple[str, str]) -> None:
    assert verdict(path, mode="localwithoverrides") == expected


def test_unknown_surroundings_make_no_rows() -> None:
    bare = Surroundings(home="", working_directories=("/",), search_path=("", "relative/bin", "/"))
    assert verdict("/anything", around=bare) == ("remote", "mode-read")
    assert verdict("/bin2/x", around=bare) == ("remote", "mode-read")
    assert all(row.pattern not in (b"", b"/") or row.match in ("any", "exact") for row in rules.build("read", bare))


def test_rows_that_others_cover_are_left_out() -> None:
    around = Surroundings(home="/home/ann", working_directories=("/home/ann/shop",), search_path=("/usr/bin",))
    patterns = [row.pattern for row in rules.build("read", around) if row.verdict == "local"]
    assert b"/home/ann" not in patterns
    assert b"/usr/bin" not in patterns
    assert len(patterns) == len(set(patterns))


def test_pruning_changes_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [row.pattern + tail for row in READ for tail in (b"", b"/x", b"x")]
    pruned = [rules.decide(READ, path, "read").verdict for path in paths if path.startswith(b"/")]
    monkeypatch.setattr(rules, "_pruned", list)
    whole = rules.build("read", AROUND)
    assert len(whole) > len(READ)
    assert [rules.decide(whole, path, "read").verdict for path in paths if path.startswith(b"/")] == pruned


@pytest.mark.parametrize("mode", ["read", "write", "local", "localwithoverrides"])
def test_every_path_has_a_verdict(mode: str) -> None:
    for access in ("read", "write"):
        rules.decide(rules.build(mode, Surroundings()), b"/some/where", access)
