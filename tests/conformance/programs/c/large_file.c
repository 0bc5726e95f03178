/* A file of several megabytes, by every way of reading, gives the same bytes; one beyond all limits does not hang. */
#include "program.h"

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static char buffer[1 << 16];
    int fd = open("/data/large.bin", O_RDONLY);
    uint64_t sum = 0, total = 0;
    for (ssize_t count; (count = read(fd, buffer, 4000)) > 0; total += (uint64_t)count)
        sum = hash(sum, buffer, (size_t)count);
    printf("read %ju %016jx\n", (uintmax_t)total, (uintmax_t)sum);
    char *memory = mmap(NULL, total, PROT_READ, MAP_PRIVATE, fd, 0);
    printf("mapped %016jx\n", (uintmax_t)hash(0, memory, total));
    FILE *file = fopen("/data/large.bin", "r");
    sum = total = 0;
    for (size_t count; (count = fread(buffer, 1, sizeof buffer, file)) > 0; total += count)
        sum = hash(sum, buffer, count);
    printf("fread %ju %016jx\n", (uintmax_t)total, (uintmax_t)sum);
    for (int part = 0; part < 5; part++) {
        ssize_t count = pread(fd, buffer, 1000, part * 700000 + 13);
        printf("pread %d %zd %016jx\n", part, count, (uintmax_t)hash(0, buffer, (size_t)count));
    }
    struct stat status;
    SAY(stat("/data/huge.bin", &status));
    printf("huge %jd\n", (intmax_t)status.st_size);
    return 0;
}
