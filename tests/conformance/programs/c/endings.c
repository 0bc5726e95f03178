/* How a process ends is its own affair: statuses, signals, _exit, abort, atexit handlers. */
#include "program.h"

static void at_exit(void)
{
    printf("at exit: access %d\n", access("/data/hello.txt", R_OK));
    fflush(stdout);
}

static void end(int way)
{
    switch (way) {
    case 0: exit(0);
    case 1: exit(1);
    case 2: exit(255);
    case 3: _exit(42);
    case 4: kill(getpid(), SIGTERM); break;
    case 5: kill(getpid(), SIGKILL); break;
    case 6: signal(SIGPIPE, SIG_DFL); raise(SIGPIPE); break;
    case 7: atexit(at_exit); exit(3);
    case 8: quick_exit(9);
    case 9: execl("/bin/sh", "sh", "-c", "exit 17", (char *)NULL); break;
    case 10: execl("/bin/sh", "sh", "-c", "kill -USR1 $$", (char *)NULL); break;
    case 11: execl("/data/missing", "missing", (char *)NULL); _exit(errno == ENOENT ? 61 : 62);
    case 12: signal(SIGINT, SIG_IGN); raise(SIGINT); _exit(12);
    }
    _exit(99);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int way = 0; way <= 12; way++) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0)
            end(way);
        int status = 0;
        pid_t waited = waitpid(child, &status, 0);
        printf("way %d: own child %d, exited %d with %d, signal %d\n", way, waited == child, WIFEXITED(status),
               WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    }
    SAY(wait(NULL));
    return 37;
}
