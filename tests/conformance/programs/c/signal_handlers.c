/* Handlers that open files while the program does, jumps out of a handler, and calls that a signal interrupts. */
#include "program.h"

#include <setjmp.h>
#include <sys/time.h>

enum { ENOUGH = 40 };
static volatile int handled, mistakes;
static sigjmp_buf place;
static const struct itimerval never;

static void look(int number)
{
    (void)number;
    int saved = errno;
    char content[8] = "";
    int fd = open("/data/hello.txt", O_RDONLY);
    if (fd < 0 || read(fd, content, 5) != 5 || memcmp(content, "Hello", 5) != 0)
        mistakes++;
    close(fd);
    /* From here: on a busy machine the next signal may wait before the program has run at all. */
    if (++handled == ENOUGH)
        setitimer(ITIMER_REAL, &never, NULL);
    errno = saved;
}

static void jump(int number)
{
    (void)number;
    siglongjmp(place, 1);
}

static void nothing(int number)
{
    (void)number;
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct sigaction action = {.sa_handler = look, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 2000}, {0, 2000}};
    setitimer(ITIMER_REAL, &often, NULL);
    int wrong = 0, rounds = 0;
    while (handled < ENOUGH) {
        char path[64];
        snprintf(path, sizeof path, "/data/hundred/%03d.txt", rounds++ % 100);
        struct stat status;
        int fd = open(path, O_RDONLY);
        wrong += fd < 0 || fstat(fd, &status) != 0;
        close(fd);
    }
    printf("handled %d, wrong in the program %d, in the handler %d\n", handled >= ENOUGH, wrong, mistakes);

    if (gettid() != getpid())
        return 0; /* the timer's signals go to the first thread */
    action.sa_handler = jump;
    sigaction(SIGALRM, &action, NULL);
    volatile int jumps = 0;
    if (sigsetjmp(place, 1))
        jumps++;
    if (jumps < 20) {
        struct itimerval once = {{0, 0}, {0, 1500}};
        setitimer(ITIMER_REAL, &once, NULL);
        for (int round = 0;; round++) {
            struct stat status;
            stat(round % 2 ? "/data/hello.txt" : "/data/missing", &status);
        }
    }
    printf("jumped %d\n", jumps);
    SAY(access("/data/hello.txt", R_OK));

    action.sa_handler = nothing;
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, NULL);
    /* Again and again: the first may come before the call has begun. */
    struct itimerval soon = {{0, 30000}, {0, 30000}};
    int fd = dial(STOREFRONT, PORT_SILENT);
    printf("connected %d\n", fd >= 0);
    setitimer(ITIMER_REAL, &soon, NULL);
    char byte;
    SAY(read(fd, &byte, 1));
    setitimer(ITIMER_REAL, &never, NULL);
    close(fd);

    sigset_t before, after;
    sigemptyset(&before);
    sigaddset(&before, SIGUSR1);
    sigprocmask(SIG_SETMASK, &before, NULL);
    open("/data/hello.txt", O_RDONLY);
    sigprocmask(SIG_SETMASK, NULL, &after);
    printf("mask kept: %d %d\n", sigismember(&after, SIGUSR1), sigismember(&after, SIGUSR2));
    return 0;
}
