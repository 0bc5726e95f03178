"""The proxy learns that the last process of the session is dead, however it died."""

from __future__ import annotations

import os
import signal
import sys

import trio

from tests.layer.proxy import WITHIN_S, LayerProxy


async def test_lifeline_ends_with_the_process(proxy: LayerProxy) -> None:
    await proxy.run("true")
    port = proxy.arrivals[0].lifeline_port
    assert port != 0
    with trio.fail_after(WITHIN_S):
        await proxy.lifelines[port].wait()


async def test_lifeline_outlives_whatever_a_daemon_does(proxy: LayerProxy) -> None:
    code = """
import os, resource, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
sys.stdout.write(f"{os.getpid()}\\n")
sys.stdout.flush()
os.closerange(0, 65536)
os.read(os.open(sys.argv[1], os.O_RDONLY), 1)
"""
    fifo = f"/tmp/mirror-test-{os.getpid()}-{trio.current_time()}"
    os.mkfifo(fifo)
    try:
        done = await proxy.python(code, fifo)
        daemon = int(done.stdout)
        writing = await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY)
        port = proxy.arrivals[0].lifeline_port
        assert not proxy.lifelines[port].is_set()
        os.kill(daemon, signal.SIGKILL)
        os.close(writing)
        with trio.fail_after(WITHIN_S):
            await proxy.lifelines[port].wait()
    finally:
        os.unlink(fifo)


async def test_killing_everything_is_noticed(proxy: LayerProxy) -> None:
    code = """
import os, subprocess, sys
children = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
forked = os.fork()
if forked == 0:
    sys.stdin.read()
    os._exit(0)
print(os.getpid(), forked, *[child.pid for child in children], flush=True)
sys.stdin.read()
"""
    async with proxy.start(sys.executable, "-S", "-c", code) as program:
        with trio.fail_after(WITHIN_S):
            pids = (await program.line()).split()
            while proxy.hooked().count("sleep") < 3:
                await proxy.next_arrival.wait()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            assert len(proxy.arrivals) == 4
            for arrival in proxy.arrivals:
                await proxy.lifelines[arrival.lifeline_port].wait()


async def test_no_lifeline_in_another_network_namespace(proxy: LayerProxy) -> None:
    done = await proxy.run("true", env=proxy.environment(MIRROR_LIFELINE="1"))
    assert done.returncode == 0
    assert proxy.arrivals[0].lifeline_port == 0
