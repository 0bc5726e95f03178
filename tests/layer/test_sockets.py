"""The table of bound ports, when signals and forks come in the middle."""

from __future__ import annotations

from collections.abc import Callable

from tests.layer.proxy import LayerProxy

SOURCE = r"""
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ENOUGH = 20000 };
static int fd;
static volatile int handled;
static const struct itimerval never;

static int ask(void) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &size);
}
static void handle(int number) {
    handled += number == SIGALRM && ask() == 0;
    if (handled >= ENOUGH) /* from here: on a busy machine the next signal may be there before the program goes on */
        setitimer(ITIMER_REAL, &never, NULL);
}
static void *ask_for_ever(void *none) {
    for (;;)
        ask();
    return none;
}
int main(int count, char **arguments) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || count != 2)
        return 1;
    if (strcmp(arguments[1], "signals") == 0) {
        struct sigaction action = {.sa_handler = handle};
        struct itimerval often = {{0, 50}, {0, 50}};
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &often, NULL);
        while (handled < ENOUGH)
            ask();
    } else {
        pthread_t thread;
        pthread_create(&thread, NULL, ask_for_ever, NULL);
        pthread_create(&thread, NULL, ask_for_ever, NULL);
        for (int i = 0; i < 500; i++) {
            pid_t child = fork();
            if (child == 0) {
                alarm(60);
                _exit(ask());
            }
            int status;
            waitpid(child, &status, 0);
            if (status != 0)
                return puts("the child hangs");
        }
    }
    puts("done");
}
"""


async def test_handler_that_asks_for_an_address(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    proxy.incoming = True
    done = await proxy.run(compile_c(SOURCE, "-pthread"), "signals")
    assert (done.stdout, done.stderr) == ("done\n", "")


async def test_child_that_asks_for_an_address(proxy: LayerProxy, compile_c: Callable[..., str]) -> None:
    proxy.incoming = True
    done = await proxy.run(compile_c(SOURCE, "-pthread"), "forks")
    assert (done.stdout, done.stderr) == ("done\n", "")
