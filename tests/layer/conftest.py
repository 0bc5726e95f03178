"""Fixtures for tests of the layer: a running proxy, and a compiler for small programs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.layer.proxy import LayerProxy, open_proxy


@pytest.fixture
async def proxy() -> AsyncIterator[LayerProxy]:
    """A proxy that has one remote file, `/pod/config`."""
    async with open_proxy() as running:
        await running.injector.warm_up()
        running.files[b"/pod/config"] = b"of the pod\n"
        yield running


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """A function: C source and further compiler arguments to the path of a program."""
    folder = tmp_path_factory.mktemp("programs")

    def compile_program(source: str, *arguments: str) -> str:
        name = hashlib.sha256(repr((source, arguments)).encode()).hexdigest()[:16]
        program: Path = folder / name
        if not program.exists():
            code = folder / f"{name}.c"
            code.write_text(source)
            command = [
                sys.executable,
                "-m",
                "ziglang",
                "cc",
                "-D_GNU_SOURCE",
                "-O1",
                "-g",
                "-o",
                str(program),
                str(code),
            ]
            subprocess.run([*command, *arguments], check=True)
        return str(program)

    return compile_program
