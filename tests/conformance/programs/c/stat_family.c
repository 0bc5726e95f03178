/* Every call that tells a file's attributes, for files of every kind; and that they agree with each other. */
#include "program.h"

#include <sys/sysmacros.h>

/* Reading changes the time of the last access, so that is shown for a file only that nothing reads. */
static void show(const char *what, int result, const struct stat *status, bool accessed)
{
    if (result != 0) {
        printf("%s: %s\n", what, strerrorname_np(errno));
        return;
    }
    printf("%s: dev %ju ino %ju mode %o links %ju uid %u gid %u rdev %ju size %jd block %jd blocks %jd m %jd.%09ld c %d",
           what, (uintmax_t)status->st_dev, (uintmax_t)status->st_ino, status->st_mode, (uintmax_t)status->st_nlink,
           status->st_uid, status->st_gid, (uintmax_t)status->st_rdev, (intmax_t)status->st_size,
           (intmax_t)status->st_blksize, (intmax_t)status->st_blocks, (intmax_t)status->st_mtim.tv_sec,
           status->st_mtim.tv_nsec, status->st_ctim.tv_sec > status->st_mtim.tv_sec);
    if (accessed)
        printf(" a %jd.%09ld", (intmax_t)status->st_atim.tv_sec, status->st_atim.tv_nsec);
    printf("\n");
}

static void all(const char *path)
{
    bool accessed = strcmp(path, "/data/old.txt") == 0;
    struct stat status = {0};
    printf("%s\n", path);
    show("  stat", stat(path, &status), &status, accessed);
    show("  lstat", lstat(path, &status), &status, accessed);
    show("  fstatat", fstatat(AT_FDCWD, path, &status, AT_SYMLINK_NOFOLLOW), &status, accessed);
    struct stat64 wide;
    int result = stat64(path, &wide);
    printf("  stat64: %d %jd\n", result, result == 0 ? (intmax_t)wide.st_size : 0);
    struct statx extended = {0};
    result = statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS | STATX_BTIME, &extended);
    if (result == 0)
        printf("  statx: mask %x mode %o ino %ju size %ju dev %u:%u m %jd.%09u b %d attributes %jx of %jx\n",
               extended.stx_mask, extended.stx_mode, (uintmax_t)extended.stx_ino, (uintmax_t)extended.stx_size,
               extended.stx_dev_major, extended.stx_dev_minor, (intmax_t)extended.stx_mtime.tv_sec,
               extended.stx_mtime.tv_nsec, extended.stx_btime.tv_sec > 1000000000, (uintmax_t)extended.stx_attributes,
               (uintmax_t)extended.stx_attributes_mask);
    else
        printf("  statx: %s\n", strerrorname_np(errno));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const paths[] = {
        "/data/hello.txt", "/data/hard.txt",       "/data/empty",         "/data/old.txt",     "/data/huge.bin",
        "/data/large.bin", "/data",                "/data/bare",          "/data/fifo",        "/data/socket",
        "/data/hundred",   "/data/links/relative", "/data/links/absolute", "/data/links/loop", "/data/links/dangling",
        "/data/missing",   "/data/links/over-root", "/data/permissions/file-4755", "/app/config/orders.ini",
        "/data/../data//./hello.txt", "/data/hundred/", "/data/hello.txt/", "/data/permissions/directory-0000/inner.txt",
    };
    for (size_t index = 0; index < sizeof paths / sizeof *paths; index++)
        all(paths[index]);
    struct stat opened, named;
    int fd = open("/data/large.bin", O_RDONLY);
    show("fstat", fstat(fd, &opened), &opened, false);
    stat("/data/large.bin", &named);
    printf("fstat and stat agree: %d %d %d\n", opened.st_dev == named.st_dev, opened.st_ino == named.st_ino,
           opened.st_size == named.st_size);
    show("fstatat of a descriptor", fstatat(fd, "", &opened, AT_EMPTY_PATH), &opened, false);
    struct statx extended = {0};
    say(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE | STATX_INO, &extended), "statx of a descriptor");
    printf("  ino %ju size %ju\n", (uintmax_t)extended.stx_ino, (uintmax_t)extended.stx_size);
    int copy = dup(fd);
    show("fstat of a dup", fstat(copy, &opened), &opened, false);
    close(fd);
    close(copy);
    int directory = open("/data", O_RDONLY | O_DIRECTORY);
    show("fstat of a directory", fstat(directory, &opened), &opened, false);
    show("fstatat below it", fstatat(directory, "links/relative", &opened, 0), &opened, false);
    show("fstatat of a link", fstatat(directory, "links/relative", &opened, AT_SYMLINK_NOFOLLOW), &opened, false);
    show("fstatat above it", fstatat(directory, "../app", &opened, 0), &opened, false);
    show("fstatat of nothing", fstatat(directory, "missing", &opened, 0), &opened, false);
    show("fstatat with an unknown flag", fstatat(directory, "hello.txt", &opened, 1 << 30), &opened, false);
    close(directory);
    show("fstat of a closed one", fstat(directory, &opened), &opened, false);
    return 0;
}
