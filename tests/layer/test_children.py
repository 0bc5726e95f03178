"""Every way of starting a program is followed, and the program cannot tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from tests.layer.proxy import LayerProxy

CONTENT = "of the pod\n"


async def test_first_program_is_hooked(proxy: LayerProxy) -> None:
    done = await proxy.run("cat", "/pod/config")
    assert (done.returncode, done.stdout, done.stderr) == (0, CONTENT, "")
    assert proxy.hooked() == ["cat"]


@pytest.mark.parametrize(
    "start",
    [
        "os.system('cat /pod/config')",
        "print(end=os.popen('cat /pod/config').read())",
        "subprocess.run(['cat', '/pod/config'])",
        "subprocess.run(['cat', '/pod/config'], close_fds=False)",
        "subprocess.run(['cat', '/pod/config'], start_new_session=True)",
        "subprocess.run(['cat', '/pod/config'], preexec_fn=lambda: None)",
        "subprocess.run(['/bin/cat', '/pod/config'], env={})",
        "subprocess.run(['/bin/cat', '/pod/config'], env={}, close_fds=False)",
        "os.waitpid(os.posix_spawn('/bin/cat', ['cat', '/pod/config'], {}), 0)",
        "os.waitpid(os.posix_spawnp('cat', ['cat', '/pod/config'], os.environ), 0)",
        "os.waitpid(os.spawnvp(os.P_NOWAIT, 'cat', ['cat', '/pod/config']), 0)",
        "os.execvp('cat', ['cat', '/pod/config'])",
        "os.execve('/bin/cat', ['cat', '/pod/config'], {})",
        "os.execve(os.open('/bin/cat', os.O_RDONLY), ['cat', '/pod/config'], {})",
        "os.fork() or os.execv('/bin/cat', ['cat', '/pod/config']); os.wait()",
        "os.fork() or (os.setsid(), os.execv('/bin/cat', ['cat', '/pod/config'])); os.wait()",
        "subprocess.run(['env', '-i', 'cat', '/pod/config'])",
        "subprocess.run(['xargs', 'cat'], input=b'/pod/config')",
        "subprocess.run(['sh', '-c', 'exec cat /pod/config'])",
        "subprocess.run(['bash', '-c', '(cat) < /pod/config'])",
        "subprocess.run(['nice', 'timeout', '99', 'setsid', '-w', 'cat', '/pod/config'])",
    ],
)
async def test_child_of_every_kind_is_hooked(proxy: LayerProxy, start: str) -> None:
    done = await proxy.python(f"import os, subprocess; {start}")
    assert (done.returncode, done.stdout, done.stderr) == (0, CONTENT, "")


SPAWN = r"""
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

static char *const argv[] = {"cat", "/pod/config", NULL};
static char *const empty[] = {NULL};

int main(int argc, char **arguments) {
    const char *how = arguments[1];
    int times = argc > 2 ? atoi(arguments[2]) : 1;
    for (int i = 0; i < times; i++) {
        pid_t child = 0;
        if (!strcmp(how, "vfork")) {
            child = vfork();
            if (child == 0) {
                execve("/bin/cat", argv, empty);
                _exit(9);
            }
        } else if (!strcmp(how, "vfork+execlp")) {
            child = vfork();
            if (child == 0) {
                execlp("cat", "cat", "/pod/config", NULL);
                _exit(9);
            }
        } else if (!strcmp(how, "spawn")) {
            if (posix_spawnp(&child, "cat", NULL, NULL, argv, empty))
                return 8;
        } else if (!strcmp(how, "syscall")) {
            child = fork();
            if (child == 0) {
                syscall(SYS_execve, "/bin/cat", argv, empty);
                _exit(9);
            }
        } else if (!strcmp(how, "syscall execveat")) {
            child = fork();
            if (child == 0) {
                syscall(SYS_execveat, AT_FDCWD, "/bin/cat", argv, empty, 0);
                _exit(9);
            }
        } else if (!strcmp(how, "execveat")) {
            child = fork();
            if (child == 0) {
                execveat(open("/bin/cat", O_PATH | O_CLOEXEC), "", argv, empty, AT_EMPTY_PATH);
                _exit(9);
            }
        } else if (!strcmp(how, "fexecve")) {
            child = fork();
            if (child == 0) {
                fexecve(open("/bin/cat", O_RDONLY | O_CLOEXEC), argv, empty);
                _exit(9);
            }
        } else if (!strcmp(how, "raw clone")) {
            child = (pid_t)syscall(SYS_clone, 17 /* SIGCHLD */, 0, 0, 0, 0);
            if (child == 0) {
                execve("/bin/cat", argv, empty);
                _exit(9);
            }
        }
        int status = 0;
        if (waitpid(child, &status, 0) != child || status)
            return 7;
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    "how",
    ["vfork", "vfork+execlp", "spawn", "syscall", "syscall execveat", "execveat", "fexecve", "raw clone"],
)
async def test_child_of_a_c_program_is_hooked(proxy: LayerProxy, compile_c: Callable[..., str], how: str) -> None:
    program = compile_c(SPAWN)
    done = await proxy.run(program, how, "4")
    assert (done.returncode, done.stdout, done.stderr) == (0, CONTENT * 4, "")
    assert proxy.hooked()[1:] == ["cat"] * 4


async def test_sixteen_children_at_once(proxy: LayerProxy) -> None:
    code = """
import subprocess
children = [subprocess.Popen(["cat", "/pod/config"]) for _ in range(16)]
print([child.wait() for child in children])
"""
    done = await proxy.python(code)
    assert done.stdout.count(CONTENT) == 16
    assert str([0] * 16) in done.stdout
    assert done.stderr == ""
    assert proxy.hooked().count("cat") == 16


async def test_depth_of_three(proxy: LayerProxy) -> None:
    done = await proxy.run("sh", "-c", "env -i /bin/sh -c \"bash -c 'cat /pod/config; exit 3'\"; exit $?")
    assert (done.returncode, done.stdout, done.stderr) == (3, CONTENT, "")


async def test_program_has_no_child_that_it_did_not_make(proxy: LayerProxy) -> None:
    done = await proxy.python("import os\ntry: os.wait()\nexcept ChildProcessError: print('none')")
    assert done.stdout == "none\n"


async def test_only_the_programs_own_thread_is_left(proxy: LayerProxy) -> None:
    done = await proxy.python("import os; print(len(os.listdir('/proc/self/task')))")
    assert done.stdout == "1\n"


async def test_environment_is_what_the_program_would_have(proxy: LayerProxy) -> None:
    show = "import os; print({k: v for k, v in os.environ.items() if k.startswith(('LD_', 'MIRROR_'))})"
    assert (await proxy.python(show)).stdout == "{}\n"
    mine = proxy.environment(MIRROR_OF_MINE="1")
    mine["LD_PRELOAD"] += ":libm.so.6"
    done = await proxy.python(f"import os; os.execv({sys.executable!r}, ['python', '-S', '-c', {show!r}])", env=mine)
    assert done.stdout == "{'LD_PRELOAD': 'libm.so.6', 'MIRROR_OF_MINE': '1'}\n" or eval(done.stdout) == {
        "LD_PRELOAD": "libm.so.6",
        "MIRROR_OF_MINE": "1",
    }


async def test_childs_own_preload_is_kept(proxy: LayerProxy) -> None:
    code = "import os; os.execve('/usr/bin/env', ['env'], {'LD_PRELOAD': 'libm.so.6', 'A': 'b'})"
    done = await proxy.python(code)
    assert sorted(done.stdout.splitlines()) == ["A=b", "LD_PRELOAD=libm.so.6"]
    assert proxy.hooked()[-1] == "env"


async def test_exit_status_and_signal_are_the_programs_own(proxy: LayerProxy) -> None:
    assert (await proxy.run("sh", "-c", "exit 41")).returncode == 41
    assert (await proxy.run("sh", "-c", "kill -TERM $$")).returncode == -15


async def test_failed_exec_has_its_errno(proxy: LayerProxy) -> None:
    code = """
import errno, os
for program in ("/nowhere/program", "/etc/passwd", "/"):
    for _ in range(3):
        try: os.execve(program, ["x"], {})
        except OSError as error: print(errno.errorcode[error.errno])
"""
    done = await proxy.python(code)
    assert done.stdout.split() == ["ENOENT"] * 3 + ["EACCES"] * 6


async def test_many_vforked_children_leave_no_memory_behind(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static long mapped(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    fscanf(file, "%ld", &pages);
    fclose(file);
    return pages;
}
int main(void) {
    static char *const argv[] = {"busybox", "true", NULL}, *const empty[] = {NULL};
    long before = 0;
    for (int i = 0; i < 40; i++) {
        if (i == 4)
            before = mapped();
        pid_t child = vfork();
        if (child == 0) {
            execve("/proc/self/fd/9", argv, empty); /* fails */
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    printf("%ld\n", mapped() - before);
}
"""
    done = await proxy.run(compile_c(source))
    assert done.stdout == "0\n"


async def test_refused_process_does_not_run(proxy: LayerProxy) -> None:
    proxy.refuse = "the moon is in the wrong phase; wait"
    done = await proxy.run("echo", "I ran")
    assert (done.returncode, done.stdout) == (126, "")
    assert done.stderr == "mirror: the moon is in the wrong phase; wait\n"


async def test_without_a_proxy_nothing_runs(proxy: LayerProxy) -> None:
    done = await proxy.run("echo", "I ran", env=proxy.environment(MIRROR_SOCKET="mirror-test-nobody"))
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("mirror: the session's proxy is not there")
    assert done.stderr.count("\n") == 1


async def test_proxy_found_under_the_second_address(proxy: LayerProxy) -> None:
    done = await proxy.run("cat", "/pod/config", env=proxy.environment(MIRROR_SOCKET=f"/nowhere/socket,{proxy.name}"))
    assert done.stdout == CONTENT


async def test_outside_a_session_the_library_does_nothing(proxy: LayerProxy) -> None:
    environment = {key: value for key, value in proxy.environment().items() if not key.startswith("MIRROR_")}
    done = await proxy.run("cat", "/pod/config", env=environment)
    assert done.returncode == 1
    assert proxy.arrivals == []
    assert os.path.basename(environment["LD_PRELOAD"]) == "libmirror_layer.so"
