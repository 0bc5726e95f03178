"""Programs that cannot be followed run without mirror, and the user is told in one sentence."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layer.proxy import LayerProxy

HELLO = '#include <stdio.h>\n#include <stdlib.h>\nint main(void) { puts(getenv("WHO")); return 6; }\n'
PREFIX = "mirror: "
SUFFIX = ": it runs without mirror, with the files and the network of this machine\n"


async def check(proxy: LayerProxy, program: str, reason: str | None) -> None:
    done = await proxy.run("sh", "-c", f"WHO=me {program}; exit $?")
    expected = "" if reason is None else f"{PREFIX}{program}{reason}{SUFFIX}"
    assert (done.returncode, done.stdout, done.stderr) == (6, "me\n", expected)


async def test_static_program(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check(proxy, compile_c(HELLO, "-static", "-target", "x86_64-linux-musl"), " is statically linked")


async def test_static_position_independent_program(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    program = compile_c(HELLO, "-static-pie", "-fPIE", "-target", "x86_64-linux-musl")
    await check(proxy, program, " is statically linked")


def write_32_bit_program(path: Path) -> None:
    """Prints `me` and exits with 6, without any library."""
    start, text = 0x8048000, b"me\n"
    code = bytes.fromhex("b804000000bb01000000b9") + struct.pack("<I", start + 84 + 34)
    code += bytes.fromhex("ba03000000cd80b801000000bb06000000cd80")
    size = 84 + len(code) + len(text)
    header = b"\x7fELF\1\1\1".ljust(16, b"\0")
    header += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, start + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<IIIIIIII", 1, 0, start, start, size, size, 5, 4096)
    path.write_bytes(header + segment + code + text)
    path.chmod(0o755)


async def test_program_of_32_bit(proxy: LayerProxy, tmp_path: Path) -> None:
    program = tmp_path / "program"
    write_32_bit_program(program)
    try:
        subprocess.run([program], check=False, stdout=subprocess.DEVNULL)
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs")
    await check(proxy, str(program), " is not a 64-bit program")


async def test_children_of_a_static_program_are_followed(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = '#include <unistd.h>\nint main(void) { execl("/bin/cat", "cat", "/pod/config", NULL); }\n'
    program = compile_c(source, "-static", "-target", "x86_64-linux-musl")
    done = await proxy.run("sh", "-c", f"{program}; true")
    assert done.stdout == "of the pod\n"


async def test_program_with_another_c_library(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    program = compile_c(HELLO, "-target", "x86_64-linux-musl", "-dynamic")
    done = await proxy.run("sh", "-c", f"WHO=me {program}; true")  # runs only where musl is installed
    assert done.stderr.startswith(f"{PREFIX}{program} uses another C library{SUFFIX}")


async def test_script_of_a_followed_interpreter(proxy: LayerProxy, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#! /bin/sh -e\necho $WHO; exit 6\n")
    script.chmod(0o755)
    await check(proxy, str(script), None)
    assert proxy.hooked() == ["dash", "dash"] or len(proxy.hooked()) == 2


async def test_script_of_a_static_interpreter(proxy: LayerProxy, compile_c: Callable[..., str], tmp_path: Path) -> None:
    interpreter = compile_c(HELLO, "-static", "-target", "x86_64-linux-musl")
    script = tmp_path / "script"
    script.write_text(f"#!{interpreter}\n")
    script.chmod(0o755)
    await check(proxy, str(script), " is statically linked")


async def test_script_without_interpreter_line(proxy: LayerProxy, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("cat /pod/config\n")
    script.chmod(0o755)
    done = await proxy.run("sh", "-c", f"{script}; true")
    assert (done.stdout, done.stderr) == ("of the pod\n", "")


async def test_dynamic_linker_as_a_program(proxy: LayerProxy) -> None:
    done = await proxy.run("sh", "-c", "/lib64/ld-linux-x86-64.so.2 /bin/cat /pod/config; true")
    assert (done.stdout, done.stderr) == ("of the pod\n", "")


GO_NOTE = """
static const struct { int name_size, size, type; char name[4], id[4]; } note
    __attribute__((section(".note.go.buildid"), used, aligned(4))) = {4, 4, 4, "Go", "abc"};
"""


async def test_program_with_a_go_build_id(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check(proxy, compile_c(GO_NOTE + HELLO), " is a Go program, which makes its system calls itself")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a set-user-id program of another user: sudo make test")
async def test_set_user_id_program(proxy: LayerProxy, compile_c: Callable[..., str], tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy(compile_c(HELLO), program)
    os.chown(program, 65534, 65534)
    program.chmod(0o4755)
    await check(proxy, str(program), " gets privileges when it starts")


async def test_program_that_may_only_be_executed(proxy: LayerProxy, tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/cat", program)
    program.chmod(0o111)
    done = await proxy.run("sh", "-c", f"{program} /pod/config; true")
    assert (done.stdout, done.stderr) == ("of the pod\n", "")


async def test_search_in_path_warns_once(proxy: LayerProxy, compile_c: Callable[..., str], tmp_path: Path) -> None:
    program = tmp_path / "hello"
    shutil.copy(compile_c(HELLO, "-static", "-target", "x86_64-linux-musl"), program)
    path = f"/nowhere:/etc:{tmp_path}:{os.environ['PATH']}"
    code = "import os; os.execvpe('hello', ['hello'], {'WHO': 'me', 'PATH': os.environ['PATH']})"
    done = await proxy.run(sys.executable, "-S", "-c", code, env=proxy.environment(PATH=path))
    assert (done.returncode, done.stdout) == (6, "me\n")
    assert done.stderr == f"{PREFIX}{program} is statically linked{SUFFIX}"
