/* The doors to a file beside the usual ones: system calls by number, what older binaries call, names in /proc, calls
 * that a descriptor cannot do, extended attributes, directory streams and their positions. */
#include "program.h"

#include <dlfcn.h>
#include <fts.h>
#include <ftw.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define TEXT(call) printf("%s: %s\n", #call, text(call))

static const char *text(const char *result)
{
    return result ? result : strerrorname_np(errno);
}

static void by_number(void)
{
    char buffer[4096] = "";
    struct stat status = {0};
    struct statx extended = {0};
    struct open_how how = {.flags = O_RDONLY};
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/data/hello.txt", O_RDONLY);
    SAY(syscall(SYS_fstat, fd, &status));
    printf("size %jd ino %ju\n", (intmax_t)status.st_size, (uintmax_t)status.st_ino);
    SAY(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &extended));
    printf("size %ju ino %ju\n", (uintmax_t)extended.stx_size, (uintmax_t)extended.stx_ino);
    SAY(syscall(SYS_read, fd, buffer, 10));
    close(fd);
    fd = (int)syscall(SYS_openat2, AT_FDCWD, "/data/hello.txt", &how, sizeof how);
    printf("openat2 %d\n", fd >= 0);
    close(fd);
    SAY(syscall(SYS_openat, AT_FDCWD, "/data/missing", O_RDONLY));
    SAY(syscall(SYS_newfstatat, AT_FDCWD, "/data/links/dangling", &status, 0));
    SAY(syscall(SYS_newfstatat, AT_FDCWD, "/data/links/dangling", &status, AT_SYMLINK_NOFOLLOW));
    SAY(syscall(SYS_readlinkat, AT_FDCWD, "/data/links/relative", buffer, 5));
    SAY(syscall(SYS_faccessat, AT_FDCWD, "/data/hello.txt", R_OK));
    SAY(syscall(SYS_chdir, "/data/hundred"));
    SAY(syscall(SYS_getcwd, buffer, sizeof buffer));
    printf("%s\n", buffer);
    struct statfs system;
    SAY(syscall(SYS_statfs, ".", &system));
}

static void by_older_names(void)
{
    struct stat status = {0};
    int (*xstat)(int, const char *, struct stat *) = (int (*)(int, const char *, struct stat *))dlsym(RTLD_DEFAULT, "__xstat");
    int (*lxstat)(int, const char *, struct stat *) = (int (*)(int, const char *, struct stat *))dlsym(RTLD_DEFAULT, "__lxstat64");
    int (*fxstat)(int, int, struct stat *) = (int (*)(int, int, struct stat *))dlsym(RTLD_DEFAULT, "__fxstat");
    if (!xstat || !lxstat || !fxstat)
        return;
#ifdef __x86_64__
    const int version = 1;
#else
    const int version = 0;
#endif
    SAY(xstat(version, "/data/links/relative", &status));
    printf("mode %o\n", status.st_mode);
    SAY(lxstat(version, "/data/links/relative", &status));
    printf("mode %o\n", status.st_mode);
    int fd = open("/data/old.txt", O_RDONLY);
    SAY(fxstat(version, fd, &status));
    printf("mode %o time %jd\n", status.st_mode, (intmax_t)status.st_mtime);
    SAY(xstat(version, "/data/missing", &status));
    SAY(xstat(99, "/data/hello.txt", &status));
    close(fd);
}

static void by_name_in_proc(void)
{
    char name[64], buffer[256];
    struct stat opened, named;
    int fd = open("/data/links/relative", O_RDONLY), again, path = open("/data/hello.txt", O_PATH);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    memset(buffer, 0, sizeof buffer);
    SAY(readlink(name, buffer, sizeof buffer) > 0);
    printf("%s\n", buffer);
    TEXT(realpath(name, buffer));
    fstat(fd, &opened);
    SAY(stat(name, &named));
    printf("same: %d\n", opened.st_dev == named.st_dev && opened.st_ino == named.st_ino);
    SAY(read(fd, buffer, 3));
    again = open(name, O_RDONLY);
    SAY(lseek(again, 0, SEEK_CUR));
    SAY(read(path, buffer, 3));
    snprintf(name, sizeof name, "/proc/self/fd/%d", path);
    int reopened = open(name, O_RDONLY);
    SAY(read(reopened, buffer, 3));
    SAY(fchmod(path, 0644));
    close(fd);
    close(again);
    close(path);
    close(reopened);
    fd = open("/data/links/relative", O_PATH | O_NOFOLLOW);
    SAY(fstat(fd, &opened));
    printf("link: %d\n", S_ISLNK(opened.st_mode));
    memset(buffer, 0, sizeof buffer);
    SAY(readlinkat(fd, "", buffer, sizeof buffer) > 0);
    printf("%s\n", buffer);
    close(fd);
}

static void on_a_descriptor(void)
{
    char buffer[16];
    int fd = open("/data/hello.txt", O_RDONLY);
    struct flock lock = {.l_type = F_RDLCK};
    SAY(write(fd, "x", 1));
    SAY(ftruncate(fd, 0));
    SAY(flock(fd, LOCK_SH));
    SAY(fcntl(fd, F_SETLK, &lock));
    SAY(fsync(fd));
    SAY(posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL));
    SAY(lseek(fd, 0, SEEK_DATA));
    SAY(getdents64(fd, buffer, sizeof buffer));
    SAY(fchdir(fd));
    SAY(openat(fd, "x", O_RDONLY));
    SAY(fgetxattr(fd, "user.none", buffer, sizeof buffer));
    SAY(getxattr("/data/hello.txt", "user.none", buffer, sizeof buffer));
    SAY(lgetxattr("/data/missing", "user.none", buffer, sizeof buffer));
    SAY(getxattr("/data/links/dangling", "user.none", buffer, sizeof buffer));
    close(fd);
}

static void positions(void)
{
    char names[2][256];
    int count = 0, fd = open("/data/hundred", O_RDONLY | O_DIRECTORY);
    static char buffer[2048];
    for (ssize_t size; (size = getdents64(fd, buffer, sizeof buffer)) > 0;)
        for (ssize_t at = 0; at < size; at += ((struct dirent *)(void *)(buffer + at))->d_reclen)
            count++;
    printf("getdents64 %d\n", count);
    SAY(getdents64(fd, buffer, sizeof buffer));
    SAY(lseek(fd, 0, SEEK_SET));
    SAY(getdents64(fd, buffer, 8));
    SAY(getdents64(fd, buffer, sizeof buffer) > 0);
    lseek(fd, 0, SEEK_SET);
    DIR *dir = fdopendir(fd);
    for (int index = 0; index < 10; index++)
        readdir(dir);
    long here = telldir(dir);
    for (int turn = 0; turn < 2; turn++) {
        snprintf(names[turn], sizeof names[turn], "%s", readdir(dir)->d_name);
        readdir(dir);
        seekdir(dir, here);
    }
    printf("seekdir: same %d\n", strcmp(names[0], names[1]) == 0);
    rewinddir(dir);
    for (count = 0; readdir(dir);)
        count++;
    printf("rewinddir %d, dirfd %d\n", count, dirfd(dir) == fd);
    closedir(dir);
    SAY(fcntl(fd, F_GETFD));
}

static int visit(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    (void)status;
    char cwd[4096];
    printf("  %s %d level %d base %s here %d in %s\n", path, kind, place->level, path + place->base,
           access(path + place->base, F_OK) == 0, getcwd(cwd, sizeof cwd));
    return 0;
}

static int old_visit(const char *path, const struct stat *status, int kind)
{
    printf("  %s %d %d\n", path, kind, S_ISDIR(status->st_mode) != 0);
    return 0;
}

static void walks(void)
{
    char buffer[4096], *roots[] = {"/data/deep", "/data/links/to-directory", NULL};
    SAY(chdir("/data/deep"));
    SAY(nftw("/data/deep", visit, 2, FTW_PHYS | FTW_CHDIR));
    SAY(nftw(".", visit, 2, FTW_PHYS | FTW_CHDIR | FTW_DEPTH));
    SAY(ftw("../deep", old_visit, 5));
    TEXT(getcwd(buffer, sizeof buffer));
    FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW, NULL);
    int entries = 0, agreeing = 0;
    for (FTSENT *entry; walk && (entry = fts_read(walk)); entries++)
        agreeing += access(entry->fts_accpath, F_OK) == 0;
    printf("fts that changes directory: %d entries, %d found\n", entries, agreeing);
    fts_close(walk);
    TEXT(getcwd(buffer, sizeof buffer));
    TEXT(getwd(buffer));
    char *allocated = get_current_dir_name();
    TEXT(allocated);
    free(allocated);
    allocated = canonicalize_file_name("../links/relative");
    TEXT(allocated);
    free(allocated);
    TEXT(getcwd(buffer, 3));
    SAY(chdir("/"));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    unsetenv("PWD");
    by_number();
    by_older_names();
    by_name_in_proc();
    on_a_descriptor();
    positions();
    walks();
    return 0;
}
