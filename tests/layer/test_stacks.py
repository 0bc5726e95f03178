"""Hooks on stacks that are as small as libc allows: they may not need much more than the functions they replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.layer.proxy import LayerProxy

SOURCE = r"""
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *path;
static int failed;

static void expect(int result) {
    failed = failed || result < 0;
}
static void use_files(void) {
    struct stat status;
    char text[16];
    int fd = open(path, O_RDONLY);
    expect(fd);
    expect(read(fd, text, sizeof text) > 0 ? 0 : -1);
    expect(fstat(fd, &status));
    close(fd);
    expect(stat(path, &status));
    expect(lstat(path, &status));
    access(path, R_OK);
    readlink(path, text, sizeof text);
    mkdir(path, 0700);
    rename(path, path);
    free(realpath(path, NULL));
    closedir(opendir("."));
}
static void *in_thread(void *none) {
    use_files();
    return none;
}
static void in_handler(int number) {
    int fd = open(path, O_RDONLY);
    failed = fd < 0 || number != SIGUSR1;
}

/* A handler's stack of SIGSTKSZ as it was always, with nothing below it. */
static void handle(void) {
    enum { ROOM = 1 << 16, SIZE = 8192 };
    char *memory = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    stack_t stack = {.ss_sp = memory + ROOM - SIZE, .ss_size = SIZE};
    struct sigaction action = {.sa_handler = in_handler, .sa_flags = SA_ONSTACK};
    mprotect(stack.ss_sp, SIZE, PROT_READ | PROT_WRITE);
    if (sigaltstack(&stack, NULL) != 0 || sigaction(SIGUSR1, &action, NULL) != 0 || raise(SIGUSR1) != 0)
        abort();
}

static void *in_first(void *none) {
    open(path, O_RDONLY);
    return none;
}

static void run(void *(*work)(void *)) {
    pthread_attr_t small;
    pthread_t thread;
    pthread_attr_init(&small);
    pthread_attr_setguardsize(&small, 1 << 16);
    if (pthread_attr_setstacksize(&small, 16384) != 0 || pthread_create(&thread, &small, work, NULL) != 0)
        abort();
    pthread_join(thread, NULL);
}

int main(int count, char **arguments) {
    path = arguments[2];
    if (strcmp(arguments[1], "handler") == 0) {
        handle();
    } else if (strcmp(arguments[1], "forked") == 0) { /* makes the connection of the child there */
        if (fork() != 0)
            return 0;
        run(in_first);
    }
    if (strcmp(arguments[1], "thread") == 0)
        run(in_thread);
    puts(failed ? "failed" : "done");
    return count != 3;
}
"""


@pytest.mark.parametrize("path", ["/pod/config", "here", "./here", "/bin/sh", "/bin/../bin/sh"])
async def test_thread_with_the_smallest_stack(
    proxy: LayerProxy, compile_c: Callable[..., str], tmp_path: Path, path: str
) -> None:
    (tmp_path / "here").write_text("of this machine")
    done = await proxy.run(compile_c(SOURCE, "-pthread"), "thread", path, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


async def test_first_exchange_after_fork_on_the_smallest_stack(
    proxy: LayerProxy, compile_c: Callable[..., str]
) -> None:
    done = await proxy.run(compile_c(SOURCE, "-pthread"), "forked", "/pod/config")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("path", ["/bin/sh", "/etc/hosts"])
async def test_handler_on_a_small_stack_opens_a_file_of_this_machine(
    proxy: LayerProxy, compile_c: Callable[..., str], path: str
) -> None:
    done = await proxy.run(compile_c(SOURCE, "-pthread"), "handler", path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
