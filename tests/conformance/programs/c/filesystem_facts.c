/* statfs and statvfs, without what other programs change meanwhile. */
#include "program.h"

#include <sys/statvfs.h>
#include <sys/vfs.h>

static void both(const char *path)
{
    struct statfs facts = {0};
    int result = statfs(path, &facts);
    printf("%s: statfs %s kind %jx block %jd names %jd fragment %jd flags %jx\n", path,
           result == 0 ? "works" : strerrorname_np(errno), (intmax_t)facts.f_type, (intmax_t)facts.f_bsize,
           (intmax_t)facts.f_namelen, (intmax_t)facts.f_frsize, (intmax_t)facts.f_flags);
    struct statvfs portable = {0};
    result = statvfs(path, &portable);
    printf("  statvfs %s block %lu fragment %lu names %lu flags %lx size %d\n",
           result == 0 ? "works" : strerrorname_np(errno), portable.f_bsize, portable.f_frsize, portable.f_namemax,
           portable.f_flag, portable.f_blocks > 0);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    both("/data");
    both("/data/hello.txt");
    both("/data/links/relative");
    both("/app/config");
    both("/data/missing");
    both("/data/hello.txt/x");
    both("/data/links/loop");
    int fd = open("/data/hello.txt", O_RDONLY);
    struct statfs facts = {0};
    SAY(fstatfs(fd, &facts));
    printf("fstatfs kind %jx block %jd\n", (intmax_t)facts.f_type, (intmax_t)facts.f_bsize);
    close(fd);
    fd = open("/data", O_RDONLY | O_DIRECTORY);
    SAY(fstatfs(fd, &facts));
    printf("fstatfs kind %jx block %jd\n", (intmax_t)facts.f_type, (intmax_t)facts.f_bsize);
    close(fd);
    SAY(pathconf("/data", _PC_NAME_MAX));
    SAY(fstatfs(-1, &facts));
    return 0;
}
