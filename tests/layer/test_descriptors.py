"""The program gets the descriptor numbers it would have had, and cannot close or see through ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.layer.proxy import LayerProxy


async def test_numbers_are_those_without_mirror(proxy: LayerProxy) -> None:
    code = "import os; print([os.open(path, 0) for path in ('/dev/null', '/pod/config', '/dev/null')])"
    assert (await proxy.python(code)).stdout == "[3, 4, 5]\n"


async def test_numbers_in_a_child_are_those_without_mirror(proxy: LayerProxy) -> None:
    done = await proxy.run("sh", "-c", "exec 3</pod/config; sed 's/^/3:/' <&3; sh -c 'ls /proc/self/fd'")
    assert done.stdout.split("\n")[0] == "3:of the pod"
    low = [int(number) for number in done.stdout.split()[3:] if int(number) < 900]
    assert low == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "close_all",
    [
        "os.closerange(3, 65536)",
        "[close(fd) for fd in range(3, 1100)]",
        "[close(int(fd)) for fd in os.listdir('/proc/self/fd') if int(fd) > 2]",
        "libc.close_range(3, 0xffffffff, 0)",
        "libc.close_range(3, 0xffffffff, 4); ",
        "libc.closefrom(3)",
        "[os.dup2(0, fd) for fd in range(3, 1100) if not is_ours(fd)]; libc.closefrom(3)",
        "libc.syscall(436, 3, 0xffffffff, 0)",
        "[libc.syscall(3, fd) for fd in range(3, 1100)]",
    ],
)
async def test_closing_everything_harms_nothing(proxy: LayerProxy, close_all: str) -> None:
    code = f"""
import ctypes, errno, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def close(fd):
    try: os.close(fd)
    except OSError as error: assert error.errno == errno.EBADF
def is_ours(fd):
    try: os.dup2(0, fd)
    except OSError as error: return error.errno == errno.EBADF
    return False
before = open("/pod/config").read()
{close_all}
child = subprocess.run(["cat", "/pod/config"], capture_output=True, text=True).stdout
print(before == open("/pod/config").read() == child)
"""
    done = await proxy.python(code)
    assert (done.stdout, done.stderr) == ("True\n", "")


async def test_everything_between_ours_is_closed(proxy: LayerProxy) -> None:
    code = """
import os, resource
open("/pod/config").close()
ours = {int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 3}
mine = {fd for fd in range(900, 1024) if fd not in ours and os.dup2(0, fd) == fd}
os.closerange(3, 2000)
left = {int(fd) for fd in os.listdir("/proc/self/fd")}
print(len(ours), len(mine & left), ours <= left)
"""
    done = await proxy.python(code)
    count, left, kept = done.stdout.split()
    assert 1 <= int(count) < 32
    assert (left, kept) == ("0", "True")


async def test_ours_look_closed(proxy: LayerProxy) -> None:
    code = """
import errno, os
ours = max(int(fd) for fd in os.listdir("/proc/self/fd"))
for call in (lambda: os.close(ours), lambda: os.dup2(ours, 7), lambda: os.dup2(0, ours)):
    try: call()
    except OSError as error: print(errno.errorcode[error.errno])
print(open("/pod/config").read(), end="")
"""
    assert (await proxy.python(code)).stdout.split("\n")[:4] == ["EBADF", "EBADF", "EBADF", "of the pod"]


@pytest.mark.parametrize("limit", [20, 64, 256, 1024, 4096])
async def test_small_and_large_limits(proxy: LayerProxy, limit: int) -> None:
    done = await proxy.run("sh", "-c", f"ulimit -n {limit}; exec cat /pod/config /pod/config")
    assert (done.stdout, done.stderr) == ("of the pod\n" * 2, "")


async def test_no_descriptor_of_ours_reaches_another_program(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <fcntl.h>
#include <stdio.h>
int main(void) {
    for (int fd = 3; fd < 20000; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("%d ", fd);
    puts("end");
}
"""
    program = compile_c(source, "-static", "-target", "x86_64-linux-musl")
    done = await proxy.python(f"open('/pod/config').read(); import os; os.execv({program!r}, ['x'])")
    assert done.stdout == "end\n"
