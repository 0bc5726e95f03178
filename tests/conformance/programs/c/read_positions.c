/* Every way to read and to move: each is a kernel matter once the descriptor is real. */
#include "program.h"

static void show(const char *what, const char *data, ssize_t count)
{
    printf("%s: %zd %016jx\n", what, count, (uintmax_t)hash(0, data, count > 0 ? (size_t)count : 0));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    char buffer[4096];
    int fd = open("/data/kilobyte.bin", O_RDONLY);
    show("read", buffer, read(fd, buffer, 100));
    show("pread", buffer, pread(fd, buffer, 100, 1000));
    show("pread beyond", buffer, pread(fd, buffer, 100, 5000));
    SAY(pread(fd, buffer, 1, -1));
    SAY(lseek(fd, 0, SEEK_CUR));
    SAY(lseek(fd, -24, SEEK_END));
    show("read the end", buffer, read(fd, buffer, sizeof buffer));
    show("read after the end", buffer, read(fd, buffer, sizeof buffer));
    SAY(lseek(fd, -1, SEEK_SET));
    SAY(lseek(fd, 4000, SEEK_SET));
    show("read far beyond", buffer, read(fd, buffer, 10));
    SAY(lseek(fd, 10, SEEK_SET));
    struct iovec parts[2] = {{buffer, 3}, {buffer + 3, 7}};
    show("readv", buffer, readv(fd, parts, 2));
    show("preadv", buffer, preadv(fd, parts, 2, 500));
    show("preadv2", buffer, preadv2(fd, parts, 2, 600, 0));
    int twin = dup(fd);
    int other = open("/data/kilobyte.bin", O_RDONLY);
    printf("offsets %jd %jd %jd\n", (intmax_t)lseek(fd, 0, SEEK_CUR), (intmax_t)lseek(twin, 0, SEEK_CUR),
           (intmax_t)lseek(other, 0, SEEK_CUR));
    show("read by the twin", buffer, read(twin, buffer, 11));
    printf("offsets %jd %jd %jd\n", (intmax_t)lseek(fd, 0, SEEK_CUR), (intmax_t)lseek(twin, 0, SEEK_CUR),
           (intmax_t)lseek(other, 0, SEEK_CUR));
    SAY(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    SAY(close(fd));
    show("twin lives", buffer, read(twin, buffer, 5));
    SAY(close(twin));
    SAY(close(twin));
    SAY(close(other));
    fd = open("/data/empty", O_RDONLY);
    show("empty", buffer, read(fd, buffer, 10));
    SAY(lseek(fd, 0, SEEK_END));
    close(fd);
    return 0;
}
