/* Single operations, whose cost is counted or timed: OPERATION [TIMES]. Prints nothing but the figures asked for.
 * Ends with TOO_SLOW if what was to be within one lease was not. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LEASE_NS = 900000000, TOO_SLOW = 75 }; /* a little less than the lease; EX_TEMPFAIL of sysexits.h */

static int read_file(const char *path)
{
    char buffer[4096];
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status) != 0)
        return 1;
    off_t size = 0;
    for (ssize_t count; (count = read(fd, buffer, sizeof buffer)) > 0;)
        size += count;
    return close(fd) != 0 || size != status.st_size;
}

static int list(const char *path)
{
    DIR *directory = opendir(path);
    int count = 0;
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char name[512];
        struct stat status;
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        count += lstat(name, &status) == 0;
    }
    return !directory || closedir(directory) != 0 || count != 102;
}

static int look_up(const char *name)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (getaddrinfo(name, "80", &hints, &found) != 0)
        return 1;
    freeaddrinfo(found);
    return 0;
}

static int dial(const char *text, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, text, &address.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    return connect(fd, (struct sockaddr *)&address, sizeof address) != 0 || close(fd) != 0;
}

static double now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* The best of many rounds, for each call, of open and close of a file of this machine. */
static int time_local(const char *path)
{
    enum { CALLS = 200, ROUNDS = 200 };
    static int fds[CALLS];
    double best_open = 1e12, best_close = 1e12, best_stat = 1e12;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now_ns();
        for (int call = 0; call < CALLS; call++)
            fds[call] = open(path, O_RDONLY);
        double opened = now_ns();
        for (int call = 0; call < CALLS; call++)
            close(fds[call]);
        double closed = now_ns();
        struct stat status;
        for (int call = 0; call < CALLS; call++)
            stat(path, &status);
        double stated = now_ns();
        best_open = opened - begin < best_open ? opened - begin : best_open;
        best_close = closed - opened < best_close ? closed - opened : best_close;
        best_stat = stated - closed < best_stat ? stated - closed : best_stat;
    }
    printf("%.0f %.0f %.0f\n", best_open / CALLS, best_close / CALLS, best_stat / CALLS);
    return 0;
}

/* Milliseconds for each of some children that do nothing. */
static int time_children(int count)
{
    double begin = now_ns();
    for (int index = 0; index < count; index++) {
        pid_t child = fork();
        if (child == 0) {
            execl("/bin/true", "true", (char *)NULL);
            _exit(1);
        }
        int status = 0;
        if (waitpid(child, &status, 0) != child || status != 0)
            return 1;
    }
    printf("%.1f\n", (now_ns() - begin) / 1e6 / count);
    return 0;
}

int main(int argc, char **argv)
{
    const char *operation = argc > 1 ? argv[1] : "";
    int times = argc > 2 ? atoi(argv[2]) : 1, failed = 0;
    if (strcmp(operation, "local") == 0)
        return time_local(argv[2]);
    if (strcmp(operation, "children") == 0)
        return time_children(times);
    double begin = now_ns();
    while (times-- > 0) {
        if (strcmp(operation, "read") == 0)
            failed |= read_file("/data/kilobyte.bin");
        else if (strcmp(operation, "stat") == 0)
            failed |= stat("/data/hello.txt", &(struct stat){0}) != 0;
        else if (strcmp(operation, "missing") == 0)
            failed |= access("/data/missing", F_OK) == 0;
        else if (strcmp(operation, "list") == 0)
            failed |= list("/data/hundred");
        else if (strcmp(operation, "realpath") == 0)
            failed |= realpath("/data/links/to-link", (char[4096]){0}) == NULL;
        else if (strcmp(operation, "names") == 0)
            failed |= look_up("inventory");
        else if (strcmp(operation, "connect") == 0)
            failed |= dial(getenv("SCENE_INVENTORY"), 7);
        else
            failed |= strcmp(operation, "nothing") != 0;
    }
    return failed == 0 && now_ns() - begin > LEASE_NS ? TOO_SLOW : failed;
}
