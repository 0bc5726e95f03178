"""One look at a C library serves every process of every session; where it does not fit, Frida comes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
import pytest

from mirror.cli.inject import InjectFailed, Injector, recipes
from mirror.cli.inject.frida_process import FridaProcess, Report
from tests.layer.proxy import LayerProxy, open_proxy


@dataclass
class Frida:
    """What Frida was asked to do."""

    probes: int = 0
    attached: list[int] = field(default_factory=list)


@pytest.fixture
def frida(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Frida:
    """Counts, while nothing is known from before."""
    seen = Frida()
    inject, probe = FridaProcess.inject, FridaProcess.probe

    def count_attached(self: FridaProcess, pid: int) -> Report:
        seen.attached.append(pid)
        return inject(self, pid)

    def count_probes(self: FridaProcess) -> Report:
        seen.probes += 1
        return probe(self)

    monkeypatch.setattr(FridaProcess, "inject", count_attached)
    monkeypatch.setattr(FridaProcess, "probe", count_probes)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return seen


@pytest.fixture
async def proxy(frida: Frida) -> AsyncIterator[LayerProxy]:
    async with open_proxy() as running:
        running.files[b"/pod/config"] = b"of the pod\n"
        yield running


async def run_twice(proxy: LayerProxy) -> list[int]:
    for _ in range(2):
        done = await proxy.run("cat", "/pod/config")
        assert (done.returncode, done.stdout, done.stderr) == (0, "of the pod\n", "")
    return [arrival.pid for arrival in proxy.arrivals]


def known(proxy: LayerProxy) -> dict[bytes, bytes]:
    return proxy.injector._recipes


async def test_warmed_up_no_program_sees_frida(proxy: LayerProxy, frida: Frida) -> None:
    await proxy.injector.warm_up()
    await run_twice(proxy)
    assert frida == Frida(probes=1)


async def test_unknown_library_is_looked_at_elsewhere(proxy: LayerProxy, frida: Frida) -> None:
    await run_twice(proxy)
    assert frida == Frida(probes=1)


async def test_later_session_starts_no_frida(proxy: LayerProxy, frida: Frida) -> None:
    await run_twice(proxy)
    proxy.injector = Injector()
    await proxy.injector.warm_up()
    await run_twice(proxy)
    assert frida == Frida(probes=1)


async def test_damaged_cache_is_made_anew(proxy: LayerProxy, frida: Frida, tmp_path: Path) -> None:
    await run_twice(proxy)
    (file,) = tmp_path.glob("mirror/recipes/*")
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    proxy.injector = Injector()
    await proxy.injector.warm_up()
    await run_twice(proxy)
    assert frida == Frida(probes=2)
    assert file.read_bytes() == content


async def test_look_that_fails_is_repeated(proxy: LayerProxy, frida: Frida, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = FridaProcess.probe

    def crash(self: FridaProcess) -> Report:
        if frida.probes < recipes.PROBES - 1:
            os.kill(self.pid, signal.SIGKILL)
        return probe(self)

    monkeypatch.setattr(FridaProcess, "probe", crash)
    await run_twice(proxy)
    assert frida == Frida(probes=recipes.PROBES)


async def test_where_no_look_is_possible_programs_are_left_to_frida(
    proxy: LayerProxy, frida: Frida, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recipes, "PROBES", 0)
    programs = await run_twice(proxy)
    assert frida == Frida(attached=programs)
    assert list(tmp_path.iterdir()) == []  # what Frida sees in a program is for nobody else


async def test_recipe_that_does_not_fit_changes_nothing(proxy: LayerProxy, frida: Frida) -> None:
    await proxy.injector.warm_up()
    for libc, recipe in known(proxy).items():
        rows = msgpack.unpackb(recipe)
        rows[3][1] = b"\x90" * len(rows[3][1])
        known(proxy)[libc] = msgpack.Packer().pack(rows)
    programs = await run_twice(proxy)
    assert programs[0] == programs[1]
    assert frida.attached == programs[1::2]


@pytest.mark.parametrize("recipe", [b"\xc1", b"\x90", b"\x91\x94\xa4open", b"\xdd\xff\xff\xff\xff", b"x" * 3000])
async def test_nonsense_is_not_applied(proxy: LayerProxy, frida: Frida, recipe: bytes) -> None:
    await proxy.injector.warm_up()
    for libc in known(proxy):
        known(proxy)[libc] = recipe
    programs = await run_twice(proxy)
    assert frida.attached == programs[1::2]


class Stubborn(Injector):
    async def hook(self, pid: int, libc: bytes) -> bytes:
        return b"\x90"


async def test_program_without_hooks_does_not_run(proxy: LayerProxy) -> None:
    proxy.injector = Stubborn()
    done = await proxy.run("echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("mirror: the proxy's answer was not understood")


async def test_library_without_recipe_is_left_to_frida(proxy: LayerProxy, frida: Frida) -> None:
    await proxy.injector.warm_up()
    for libc in known(proxy):
        known(proxy)[libc] = b""
    programs = await run_twice(proxy)
    assert frida.attached == programs


async def test_process_that_is_gone(frida: Frida) -> None:
    injector = Injector()
    with pytest.raises(InjectFailed, match="ended while it was being hooked"):
        await injector.hook(2**22 + 1, b"")
    injector.close()


async def test_frida_that_crashed_is_started_again(proxy: LayerProxy, frida: Frida) -> None:
    proxy.recipes = False
    await run_twice(proxy)
    process = proxy.injector._frida
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    await run_twice(proxy)
    assert len(frida.attached) == 4
