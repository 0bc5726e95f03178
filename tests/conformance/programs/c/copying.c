/* Calls that copy between descriptors inside the kernel: sendfile, splice, copy_file_range. */
#include "program.h"

#include <sys/sendfile.h>

static void drain(int fd, const char *what)
{
    char buffer[65536];
    ssize_t count = read(fd, buffer, sizeof buffer);
    printf("%s: %zd %016jx\n", what, count, (uintmax_t)hash(0, buffer, (size_t)count));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int pipes[2];
    if (pipe(pipes) != 0)
        return 1;
    int fd = open("/data/large.bin", O_RDONLY);
    SAY(sendfile(pipes[1], fd, NULL, 1000));
    drain(pipes[0], "sendfile");
    off_t offset = 2999000;
    SAY(sendfile(pipes[1], fd, &offset, 5000));
    drain(pipes[0], "sendfile at the end");
    printf("offset %jd, own %jd\n", (intmax_t)offset, (intmax_t)lseek(fd, 0, SEEK_CUR));
    SAY(splice(fd, NULL, pipes[1], NULL, 3000, 0));
    drain(pipes[0], "splice");
    SAY(sendfile(fd, fd, NULL, 10));
    int sockets[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sockets);
    SAY(sendfile(sockets[0], fd, NULL, 777));
    drain(sockets[1], "sendfile to a socket");
    char path[] = "/tmp/conformance-XXXXXX";
    int copy = mkstemp(path);
    lseek(fd, 0, SEEK_SET);
    ssize_t count;
    while ((count = sendfile(copy, fd, NULL, 1 << 20)) > 0)
        ;
    SAY(lseek(copy, 0, SEEK_END));
    char *memory = mmap(NULL, 3000000, PROT_READ, MAP_SHARED, copy, 0);
    printf("the copy %016jx\n", (uintmax_t)hash(0, memory, 3000000));
    SAY(unlink(path));
    return 0;
}
