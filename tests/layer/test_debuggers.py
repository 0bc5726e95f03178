"""Programs under a debugger or tracer are hooked like others; stopping them harms nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
import trio

from tests.layer.proxy import WITHIN_S, LayerProxy

needs_gdb = pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
both_ways = pytest.mark.parametrize("recipes", [True, False], ids=["recipe", "frida"])

ATTEMPTS = 4
"""Under a debugger Frida works without ptrace(2), and then it is not reliable: on a machine with fifteen processes for
two processors, once in 180 times the program was killed in malloc, which Frida changes to get in (17.26)."""
FRIDA_FAILED = re.compile(r"signal SIG(SEGV|TRAP|ILL|BUS)\b|Segmentation fault|Trace/breakpoint trap|Frida")


async def run_with_frida(proxy: LayerProxy, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a program; again, where Frida itself failed or the program was killed by it."""
    for _ in range(ATTEMPTS - 1):
        done = await proxy.run(*command)
        if done.returncode >= 0 and not FRIDA_FAILED.search(done.stdout + done.stderr):
            return done
    return await proxy.run(*command)


@both_ways
async def test_plain(proxy: LayerProxy, recipes: bool) -> None:
    proxy.recipes = recipes
    done = await proxy.run("sh", "-c", "cat /pod/config; (cat /pod/config)")
    assert (done.stdout, done.stderr) == ("of the pod\n" * 2, "")


@needs_gdb
@both_ways
async def test_gdb_run(proxy: LayerProxy, recipes: bool) -> None:
    proxy.recipes = recipes
    run = run_with_frida if not recipes else LayerProxy.run
    done = await run(proxy, "gdb", "-nx", "-q", "-batch", "-ex", "run", "--args", "cat", "/pod/config")
    assert "of the pod\n" in done.stdout
    assert "exited normally" in done.stdout


@needs_gdb
async def test_gdb_breakpoint_in_a_hooked_function(proxy: LayerProxy) -> None:
    commands = ["-ex", "set breakpoint pending on", "-ex", "break open", "-ex", "run", "-ex", "bt 1", "-ex", "delete"]
    command = ["gdb", "-nx", "-q", "-batch", *commands, "-ex", "continue", "--args", "cat", "/pod/config"]
    done = await run_with_frida(proxy, *command)
    assert "Breakpoint 1" in done.stdout
    assert "of the pod\n" in done.stdout


@needs_strace
@both_ways
async def test_strace(proxy: LayerProxy, recipes: bool) -> None:
    proxy.recipes = recipes
    run = run_with_frida if not recipes else LayerProxy.run
    done = await run(proxy, "strace", "-f", "-o", "/dev/null", "sh", "-c", "cat /pod/config; exit 4")
    assert (done.returncode, done.stdout) == (4, "of the pod\n")


async def test_stop_and_continue(proxy: LayerProxy) -> None:
    code = """
import os, signal, sys
descriptors = [os.open("/dev/null", os.O_RDWR) for _ in range(40)]
reading, writing = os.pipe()
os.write(writing, b"kept")
for _ in range(5):
    os.kill(os.getpid(), signal.SIGSTOP)
print(os.read(reading, 9), len(os.listdir("/proc/self/task")), open("/pod/config").read().strip(), flush=True)
sys.stdin.read()
"""
    async with proxy.start(sys.executable, "-S", "-c", code) as program:
        with trio.fail_after(WITHIN_S):
            for _ in range(5):
                await trio.to_thread.run_sync(os.waitid, os.P_PID, program.process.pid, os.WSTOPPED)
                program.process.send_signal(signal.SIGCONT)
            assert await program.line() == "b'kept' 1 of the pod\n"
            assert await program.rest() == ("", "")
    assert program.process.returncode == 0
