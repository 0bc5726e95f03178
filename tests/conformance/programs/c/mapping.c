/* mmap of remote files: private, shared, partial, beyond the end, and what protections it allows. */
#include "program.h"

static void map(int fd, size_t size, int protection, int flags, off_t offset, const char *what)
{
    void *memory = mmap(NULL, size, protection, flags, fd, offset);
    if (memory == MAP_FAILED) {
        printf("%s: %s\n", what, strerrorname_np(errno));
        return;
    }
    printf("%s: %016jx\n", what, (uintmax_t)hash(0, memory, size));
    munmap(memory, size);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int fd = open("/data/large.bin", O_RDONLY);
    struct stat status;
    fstat(fd, &status);
    size_t size = (size_t)status.st_size;
    map(fd, size, PROT_READ, MAP_PRIVATE, 0, "all, private");
    map(fd, size, PROT_READ, MAP_SHARED, 0, "all, shared");
    map(fd, 8192, PROT_READ, MAP_PRIVATE, 40960, "a part");
    map(fd, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0, "private and writable");
    map(fd, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, 0, "shared and writable");
    map(fd, 8192, PROT_READ, MAP_PRIVATE, 1, "not aligned");
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    memory[0] = 'X';
    char first = 0;
    pread(fd, &first, 1, 0);
    printf("a private write shows in memory %d, in the file %d\n", memory[0], first);
    close(fd);
    printf("after close %016jx\n", (uintmax_t)hash(0, memory + 1, 4095));
    fd = open("/data/hello.txt", O_RDONLY);
    memory = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    printf("%.20s then %d\n", memory, memory[30]);
    fd = open("/data/empty", O_RDONLY);
    SAY((long)(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED));
    close(fd);
    return 0;
}
