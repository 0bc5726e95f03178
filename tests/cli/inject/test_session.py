"""Whole sessions and Frida: only the first one starts it, and none leaves anything of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from mirror.cli.inject.cache import RecipeCache
from tests.cli.conftest import Target, wait_until
from tests.cli.processes import children, has_frida, is_traced, of_session, running_from

TRIES = 100
"""A busy machine may let a moment pass before anybody can see it, but not time and again."""


@pytest.fixture
def cache(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for recipes."""
    folder = tmp_path / "cache"
    folder.mkdir()
    target.variables["XDG_CACHE_HOME"] = str(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def temporary(target: Target, tmp_path: Path) -> Path:
    """An empty folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    for name in ("TMPDIR", "XDG_RUNTIME_DIR"):
        target.variables[name] = str(folder)
    return folder


def fridas(target: Target) -> list[int]:
    """Frida's processes of this target's sessions."""
    return target.marked("mirror.cli.inject")


def run(target: Target) -> None:
    done = target.run("printenv", "MODE")
    assert (done.returncode, done.stdout, done.stderr) == (0, "target\n", "")


def recipe_file(cache: Path) -> Path:
    (path,) = (cache / "mirror/recipes").iterdir()
    return path


def test_only_the_first_session_starts_frida(target: Target, cache: Path, temporary: Path) -> None:
    run(target)
    before = recipe_file(cache).stat()
    with target.start("cat") as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write("ready\n")
        program.stdin.flush()
        assert program.stdout.readline() == "ready\n"
        assert not any(map(has_frida, target.proxies()))
        assert fridas(target) == []
        program.communicate(timeout=60)
    assert recipe_file(cache).stat().st_ino == before.st_ino  # whoever starts Frida writes it again
    assert list(temporary.iterdir()) == []


def damage(cache: Path) -> None:
    path = recipe_file(cache)
    path.write_bytes(path.read_bytes()[:-1])


def open_to_all(cache: Path) -> None:
    recipe_file(cache).chmod(0o666)


def replace_by_link(cache: Path) -> None:
    path = recipe_file(cache)
    path.symlink_to(path.rename(cache / "elsewhere"))


@pytest.mark.parametrize("spoil", [damage, open_to_all, replace_by_link])
def test_spoilt_cache_is_replaced(target: Target, cache: Path, spoil: Callable[[Path], None]) -> None:
    run(target)
    content = recipe_file(cache).read_bytes()
    spoil(cache)
    run(target)
    path = recipe_file(cache)
    assert path.read_bytes() == content
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600


def test_no_cache_is_possible(target: Target, cache: Path) -> None:
    target.variables["XDG_CACHE_HOME"] = "/proc/self/fdinfo"
    run(target)


def throwaways(target: Target) -> set[int]:
    return set().union(*map(children, fridas(target)))


MOMENTS: dict[str, Callable[[Target], object]] = {
    "the proxy is there": Target.proxies,
    "Frida's process is there": fridas,
    "Frida is loaded": lambda target: any(map(has_frida, fridas(target))),
    "the throw-away process is there": throwaways,
    "Frida attaches to it": lambda target: any(map(is_traced, throwaways(target))),
    "the recipe is there": lambda target: list(Path(target.variables["XDG_CACHE_HOME"]).glob("mirror/recipes/[!.]*")),
}


def start_until(target: Target, cache: Path, moment: str) -> subprocess.Popen[str]:
    """A first session that has just come to a moment of its start."""
    for _ in range(TRIES):
        program = target.start("cat")
        seen: list[object] = []

        def is_there_or_past() -> bool:
            seen[:] = [MOMENTS[moment](target)]  # noqa: B023 (called here)
            return bool(seen[0] or MOMENTS["the recipe is there"](target))  # noqa: B023

        wait_until(is_there_or_past, f"this never came: {moment}")
        if seen[0]:
            return program
        with program:
            program.communicate(timeout=60)
        target.wait_alone()
        recipe_file(cache).unlink()
    raise AssertionError(f"this was never seen: {moment}")


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_proxy_leaves_nothing(target: Target, cache: Path, temporary: Path, moment: str) -> None:
    with start_until(target, cache, moment) as program:
        leaders = set(fridas(target))
        for proxy in target.proxies():
            os.kill(proxy, signal.SIGKILL)
        wait_until(lambda: not target.proxies(), "the proxy is left")
        leaders.update(fridas(target))
        program.communicate(timeout=60)
    wait_until(lambda: not fridas(target), "Frida is left")
    wait_until(lambda: not any(map(of_session, leaders)), "the throw-away process is left")
    assert running_from(temporary) == set()
    assert list(temporary.iterdir()) == []
    run(target)


@pytest.fixture
def unfit(target: Target, cache: Path) -> None:
    """A recipe that fits nowhere, so that Frida must come."""
    run(target)
    libc = bytes.fromhex(recipe_file(cache).name.partition("-")[2])
    recipe = RecipeCache().load(libc)
    assert recipe is not None
    rows = msgpack.unpackb(recipe)
    rows[0][1] = b"\x90" * len(rows[0][1])
    RecipeCache().store(libc, msgpack.Packer().pack(rows))


@pytest.mark.usefixtures("unfit")
def test_recipe_that_does_not_fit(target: Target, temporary: Path) -> None:
    done = target.run("sh", "-c", "printenv MODE; (printenv MODE)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "target\n" * 2, "")
    wait_until(lambda: not fridas(target), "Frida is left")
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("unfit")
def test_program_that_dies_while_frida_comes_is_accounted_for(target: Target) -> None:
    for _ in range(TRIES):
        with target.start("cat") as program:
            wait_until(lambda: fridas(target), "Frida does not come")
            program.kill()
            output, errors = program.communicate(timeout=60)
        assert (program.returncode, output) == (-signal.SIGKILL, "")
        if errors:
            assert errors == f"mirror: process {program.pid} ended while it was being hooked\n"
            return
    pytest.fail("Frida was always quicker")


@pytest.mark.usefixtures("unfit")
def test_frida_that_crashes_while_it_comes(target: Target) -> None:
    for _ in range(TRIES):
        with target.start("cat") as program:
            wait_until(lambda: fridas(target), "Frida does not come")
            for pid in fridas(target):
                os.kill(pid, signal.SIGKILL)
            output, errors = program.communicate("Frida was quicker", timeout=60)
        if not output:
            return assert_told_of_the_crash(program, errors)
    pytest.fail("Frida was always quicker")


def assert_told_of_the_crash(program: subprocess.Popen[str], errors: str) -> None:
    assert program.returncode == 126
    assert errors.startswith(f"mirror: process {program.pid} could not be hooked, since Frida has crashed; try again")
    assert errors.count("\n") == 1
