/* The program's descriptors have the numbers that they would have without mirror, and closing all of them harms nothing. */
#include "program.h"

#include <sys/eventfd.h>
#include <sys/resource.h>

static void whats_open(void)
{
    printf("open below 64:");
    for (int fd = 0; fd < 64; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf(" %d", fd);
    printf("\n");
}

static void use(void)
{
    char content[8] = "";
    int fd = (int)SAY(open("/data/hello.txt", O_RDONLY));
    SAY(read(fd, content, 5));
    SAY(close(fd));
    SAY(access("/data/lines.csv", R_OK));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    whats_open();
    int first = (int)SAY(open("/data/hello.txt", O_RDONLY));
    int second = (int)SAY(open("/data/kilobyte.bin", O_RDONLY));
    SAY(open("/dev/null", O_RDONLY));
    SAY(close(first));
    SAY(open("/data/empty", O_RDONLY));
    SAY(dup(second));
    SAY(dup2(second, 20));
    SAY(dup2(second, second));
    SAY(dup3(second, 21, O_CLOEXEC));
    SAY(dup3(second, second, 0));
    SAY(fcntl(second, F_DUPFD, 30));
    SAY(fcntl(second, F_DUPFD_CLOEXEC, 30));
    int ends[2];
    SAY(pipe(ends));
    printf("pipe %d %d\n", ends[0], ends[1]);
    SAY(socket(AF_INET, SOCK_STREAM, 0));
    SAY(socket(AF_UNIX, SOCK_DGRAM, 0));
    SAY(epoll_create1(0));
    SAY(eventfd(0, 0));
    FILE *file = fopen("/data/hello.txt", "r");
    printf("fopen %d\n", fileno(file));
    DIR *directory = opendir("/data");
    printf("opendir %d\n", dirfd(directory));
    char path[] = "/tmp/conformance-XXXXXX";
    SAY(mkstemp(path));
    unlink(path);
    whats_open();
    SAY(close_range(3, ~0u, 0));
    whats_open();
    use();
    SAY(open("/data/empty", O_RDONLY));
    closefrom(3);
    whats_open();
    use();
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    int closed = 0;
    for (int fd = 3; fd < 1024; fd++)
        closed += close(fd) == 0;
    printf("close of every number closed %d\n", closed);
    use();
    SAY(dup2(0, 900));
    for (int fd = 3; fd < 1024; fd++)
        dup2(0, fd);
    SAY(close_range(3, ~0u, 0));
    use();
    cat_in_child("/data/hello.txt");
    SAY(close_range(3, ~0u, CLOSE_RANGE_CLOEXEC));
    cat_in_child("/data/hello.txt");
    whats_open();
    return 0;
}
