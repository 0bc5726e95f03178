/* open and openat with every flag that matters for reading, and what fcntl and write say of the result. */
#include "program.h"

static void describe(int fd)
{
    if (fd < 0)
        return;
    int flags = fcntl(fd, F_GETFL);
    printf("  access %d append %d nonblock %d path %d directory %d cloexec %d\n", flags & O_ACCMODE,
           !!(flags & O_APPEND), !!(flags & O_NONBLOCK), !!(flags & O_PATH), !!(flags & O_DIRECTORY),
           fcntl(fd, F_GETFD) & FD_CLOEXEC);
    char buffer[8] = "";
    say(read(fd, buffer, 5), "  read");
    say(write(fd, "x", 1), "  write");
    say(ftruncate(fd, 0), "  ftruncate");
    say(close(fd), "  close");
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    describe((int)SAY(open("/data/hello.txt", O_RDONLY)));
    describe((int)SAY(open("/data/hello.txt", O_RDONLY | O_CLOEXEC)));
    describe((int)SAY(open("/data/hello.txt", O_RDONLY | O_NOCTTY | O_NONBLOCK)));
    describe((int)SAY(open("/data/links/relative", O_RDONLY)));
    describe((int)SAY(open("/data/links/relative", O_RDONLY | O_NOFOLLOW)));
    describe((int)SAY(open("/data/hello.txt", O_RDONLY | O_DIRECTORY)));
    describe((int)SAY(open("/data", O_RDONLY)));
    describe((int)SAY(open("/data", O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
    describe((int)SAY(open64("/data/kilobyte.bin", O_RDONLY)));
    describe((int)SAY(openat(AT_FDCWD, "/data/hello.txt", O_RDONLY)));
    describe((int)SAY(openat(-1, "/data/hello.txt", O_RDONLY)));
    describe((int)SAY(openat(-1, "data/hello.txt", O_RDONLY)));
    int directory = (int)SAY(open("/data", O_RDONLY | O_DIRECTORY));
    describe((int)SAY(openat(directory, "hello.txt", O_RDONLY)));
    describe((int)SAY(openat(directory, "links/to-directory/007.txt", O_RDONLY)));
    describe((int)SAY(openat(directory, "../app/config/orders.ini", O_RDONLY)));
    describe((int)SAY(openat(directory, "missing", O_RDONLY)));
    describe((int)SAY(openat(directory, "", O_RDONLY)));
    describe((int)SAY(openat64(directory, "empty", O_RDONLY)));
    close(directory);
    int file = (int)SAY(open("/data/hello.txt", O_RDONLY));
    describe((int)SAY(openat(file, "hello.txt", O_RDONLY)));
    close(file);
    return 0;
}
