"""Exchanges: from many threads, after fork, with signals in the middle, and when the proxy is gone."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

import trio

from mirror.protocol.messages import OpenFile
from tests.layer.proxy import WITHIN_S, LayerProxy, open_proxy


async def test_threads_share_a_few_connections(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void *work(void *number) {
    for (int i = 0; i < 50; i++) {
        char path[32], text[32] = {0};
        long which = ((long)number + i) % 16;
        sprintf(path, "/pod/%ld", which);
        int fd = open(path, O_RDONLY);
        if (fd < 0 || read(fd, text, sizeof text) <= 0 || strcmp(text, path + 5))
            return "wrong content";
        close(fd);
    }
    return NULL;
}
int main(void) {
    pthread_t threads[16];
    for (long i = 0; i < 16; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < 16; i++) {
        void *error;
        pthread_join(threads[i], &error);
        if (error)
            puts(error);
    }
    puts("done");
}
"""
    for number in range(16):
        proxy.files[b"/pod/%d" % number] = b"%d" % number
    program = compile_c(source, "-pthread")
    proxy.hold = hold = trio.Event()

    async def wait_for_a_second() -> None:
        while "thread" not in proxy.causes():
            await proxy.next_arrival.wait()
        hold.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_a_second)
        done = await proxy.run(program)
        nursery.cancel_scope.cancel()
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert len(proxy.requests) == 16 * 50
    assert 1 <= proxy.causes().count("thread") <= 7


async def test_forked_child_has_a_connection_of_its_own(proxy: LayerProxy) -> None:
    code = """
import os
open("/pod/config").read()
for _ in range(3):
    child = os.fork()
    if child == 0:
        grandchild = os.fork()
        text = open("/pod/config").read()
        if grandchild: os.waitpid(grandchild, 0)
        os._exit(0 if text == "of the pod\\n" else 1)
    print(os.waitpid(child, 0)[1], open("/pod/config").read(), end="")
"""
    done = await proxy.python(code)
    assert done.stdout == "0 of the pod\n" * 3
    assert proxy.causes() == ["exec"] + ["fork"] * 6
    askers = [pid for pid, message in proxy.requests if isinstance(message, OpenFile)]
    assert askers.count(proxy.arrivals[0].pid) == 4
    assert {askers.count(arrival.pid) for arrival in proxy.arrivals[1:]} == {1}


async def test_vfork_child_asks_by_itself(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void) {
    char text[64] = {0};
    char *const argv[] = {"cat", NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/pod/config", O_RDONLY, 0);
    for (int i = 0; i < 5; i++) {
        pid_t child;
        posix_spawn(&child, "/bin/cat", &actions, NULL, argv, NULL);
        waitpid(child, NULL, 0);
    }
    int fd = open("/pod/config", O_RDONLY);
    write(1, text, (size_t)read(fd, text, sizeof text));
}
"""
    done = await proxy.run(compile_c(source))
    assert (done.stdout, done.stderr) == ("of the pod\n" * 6, "")


async def test_threads_that_end_in_an_exchange_leave_no_connection_taken(
    proxy: LayerProxy, compile_c: Callable[..., str]
) -> None:
    source = r"""
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>
static sem_t begun;
static void handle(int number) {
    (void)number;
    pthread_exit(NULL);
}
static void *work(void *none) {
    int fd = open("/pod/config", O_RDONLY);
    sem_post(&begun);
    for (;; fd = open("/pod/config", O_RDONLY))
        close(fd);
    return none;
}
int main(void) {
    struct sigaction action = {.sa_handler = handle};
    sigaction(SIGUSR1, &action, NULL);
    sem_init(&begun, 0, 0);
    for (int i = 0; i < 40; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, NULL);
        sem_wait(&begun);
        usleep(1000 + 100 * i);
        pthread_kill(thread, SIGUSR1);
        pthread_join(thread, NULL);
    }
    puts(open("/pod/config", O_RDONLY) < 0 ? "failed" : "done");
}
"""
    done = await proxy.run(compile_c(source, "-pthread"))
    assert (done.stdout, done.stderr) == ("done\n", "")


async def test_descriptors_closed_behind_libcs_back(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
static long by_instruction(long number, long a, long b) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}
int main(void) {
    char text[64];
    int pair[2];
    for (int fd = 3; fd < 1024; fd++)
        by_instruction(SYS_close, fd, 0);
    puts(open("/pod/config", O_RDONLY) == 3 ? "found" : "lost");
    /* Another socket at the numbers of our connection. */
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    for (int fd = 900; fd < 1024; fd++)
        by_instruction(SYS_dup2, pair[0], fd);
    puts(open("/pod/config", O_RDONLY) == 6 ? "found" : "lost");
    fflush(stdout);
    if (fork() == 0) {
        puts(open("/pod/config", O_RDONLY) == 7 && fcntl(1000, F_GETFD) >= 0 ? "found" : "lost");
        return 0;
    }
    wait(NULL);
    puts(recv(pair[1], text, sizeof text, MSG_DONTWAIT) < 0 ? "untouched" : "written to");
}
"""
    done = await proxy.run(compile_c(source))
    assert (done.stdout, done.stderr) == ("found\nfound\nfound\nuntouched\n", "")


async def test_descriptors_used_up(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    source = r"""
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static pthread_barrier_t together;
static void *work(void *none) {
    struct stat status;
    pthread_barrier_wait(&together);
    for (int i = 0; i < 100; i++)
        if (stat("/pod/config", &status) != 0)
            return "failed";
    return none;
}
int main(void) {
    pthread_t threads[16];
    struct stat status;
    while (open("/dev/null", O_RDONLY) >= 0)
        ;
    int fd = open("/pod/config", O_RDONLY);
    puts(fd < 0 && errno == EMFILE ? "too many" : "wrong");
    pthread_barrier_init(&together, NULL, 16);
    for (int i = 0; i < 16; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 16; i++) {
        void *error;
        pthread_join(threads[i], &error);
        if (error != NULL)
            puts(error);
    }
    fflush(stdout);
    if (fork() == 0)
        return puts(stat("/pod/config", &status) == 0 ? "found" : "failed") < 0;
    wait(NULL);
    puts("done");
}
"""
    done = await proxy.run(compile_c(source, "-pthread"))
    assert (done.stdout, done.stderr) == ("too many\nfound\ndone\n", "")


SIGNALS = r"""
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *how;
static sigjmp_buf back;
static volatile int handled;

static int read_file(const char *path, char *text) {
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        return -errno;
    ssize_t size = read(fd, text, 63);
    text[size] = 0;
    close(fd);
    return (int)size;
}

static void handle(int number) {
    (void)number;
    char text[64];
    handled++;
    if (!strcmp(how, "open") && (read_file("/pod/other", text) < 0 || strcmp(text, "other\n")))
        write(1, "wrong in handler\n", 17);
    if (!strcmp(how, "fork")) {
        if (fork() == 0) {
            read_file("/pod/other", text);
            _exit(0);
        }
        wait(NULL);
    }
    if (!strcmp(how, "jump"))
        siglongjmp(back, 1);
}

int main(int argc, char **argv) {
    how = argv[1];
    char text[64] = "";
    int failed = 0;
    struct sigaction action = {.sa_handler = handle};
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536};
    if (argc > 2) {
        sigaltstack(&stack, NULL);
        action.sa_flags = SA_ONSTACK;
    }
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    struct itimerval timer = {{0, 0}, {0, 0}};
    for (volatile int i = 0; i < 300 || !handled; i++) {
        if (sigsetjmp(back, 1))
            continue;
        /* One signal each time, at all moments of an exchange. A timer that went on by itself could be quicker than
           the handler is on a busy machine, and then nothing else would ever run. */
        timer.it_value.tv_usec = 1 + i * 37 % 1500;
        setitimer(ITIMER_REAL, &timer, NULL);
        int size = read_file("/pod/config", text);
        failed += size != 11 || strcmp(text, "of the pod\n");
    }
    timer = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &timer, NULL);
    failed += read_file("/pod/config", text) != 11;
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    printf("failed %d, handled %s, masked %d\n", failed, handled ? "some" : "none", sigismember(&mask, SIGALRM));
}
"""


async def check_signals(proxy: LayerProxy, program: str, *arguments: str) -> None:
    proxy.files[b"/pod/other"] = b"other\n"
    done = await proxy.run(program, *arguments)
    assert (done.stdout, done.stderr) == ("failed 0, handled some, masked 0\n", "")


async def test_signals_during_exchanges(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check_signals(proxy, compile_c(SIGNALS), "nothing")


async def test_handler_that_opens_a_remote_file(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check_signals(proxy, compile_c(SIGNALS), "open")


async def test_handler_on_a_stack_of_its_own(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check_signals(proxy, compile_c(SIGNALS), "open", "stack")


async def test_handler_that_jumps_out_of_an_exchange(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check_signals(proxy, compile_c(SIGNALS), "jump")


async def test_handler_that_forks_in_an_exchange(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    await check_signals(proxy, compile_c(SIGNALS), "fork")


async def test_interrupt_ends_a_program_that_waits_for_an_answer(proxy: LayerProxy) -> None:
    proxy.hold = trio.Event()
    async with proxy.start("cat", "/pod/config") as program:
        with trio.fail_after(WITHIN_S):
            await proxy.asked.wait()
            program.process.send_signal(signal.SIGINT)
            assert await program.process.wait() == -signal.SIGINT
    proxy.hold.set()


async def test_lost_proxy_is_told_once_and_nothing_becomes_local() -> None:
    code = """
import errno, os, sys
print(open("/pod/config").read(), end="", flush=True)
sys.stdin.read()
for _ in range(3):
    try: open("/pod/config")
    except OSError as error: print(errno.errorcode[error.errno], flush=True)
os.execv("/bin/echo", ["echo", "ran"])
"""
    async with AsyncExitStack() as stack:
        async with open_proxy() as proxy:
            proxy.files[b"/pod/config"] = b"of the pod\n"
            program = await stack.enter_async_context(proxy.start(sys.executable, "-S", "-c", code))
            with trio.fail_after(WITHIN_S):
                assert await program.line() == "of the pod\n"
        with trio.fail_after(WITHIN_S):
            output, errors = await program.rest()
    assert program.process.returncode == 125
    assert output == "EIO\n" * 3
    told = errors.splitlines()
    assert len(told) == 2
    assert told[0].startswith("mirror: the session is lost")
    assert told[1].startswith("mirror: the session's proxy is not there")


async def test_large_answer(proxy: LayerProxy) -> None:
    proxy.reason = "x" * 300_000
    code = "import os\ntry: os.stat('/pod/none')\nexcept FileNotFoundError: print(open('/pod/config').read(), end='')"
    done = await proxy.python(code)
    assert (done.stdout, done.stderr) == ("of the pod\n", "")


async def test_reason_is_told(proxy: LayerProxy) -> None:
    proxy.reason = "the file is on fire; put it out"
    done = await proxy.python("import os\ntry: os.stat('/pod/none')\nexcept FileNotFoundError: print('none')")
    assert (done.stdout, done.stderr) == ("none\n", "mirror: the file is on fire; put it out\n")
