/* The file calls that programs make by number through syscall(2): Node's statx, those of language runtimes that
 * are older than libc's wrapper. Also the family's start. */
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "file.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_faccessat2
#define SYS_faccessat2 439
#endif

void file_started(void) {
    identity_started();
    cwd_started();
}

/* RESOLVE_* bounds what the kernel's walk may cross: no such walk is made here, so what begins in the target and is so
 * bounded is refused as by a kernel that does not know the bound. */
static int64_t syscall_openat2(int dirfd, const char *path, const struct open_how *how, size_t size) {
    if (!how || size < sizeof *how)
        return BYPASS;
    int64_t result = file_open(dirfd, path, (int)how->flags, (unsigned)how->mode);
    if (result >= 0 && how->resolve) {
        raw_syscall(SYS_close, result);
        return -EINVAL;
    }
    return result;
}

#define TEXT(i) ((const char *)arguments[i])
#define OUT(i)  ((void *)arguments[i])
#define INT(i)  ((int)arguments[i])

#ifdef SYS_open /* calls that newer machines never had */
static int64_t syscall_without_directory(long number, const long arguments[6]) {
    switch (number) {
    case SYS_open:
        return file_open(AT_FDCWD, TEXT(0), INT(1), (unsigned)arguments[2]);
    case SYS_creat:
        return file_open(AT_FDCWD, TEXT(0), O_CREAT | O_WRONLY | O_TRUNC, (unsigned)arguments[1]);
    case SYS_stat:
        return file_stat(AT_FDCWD, TEXT(0), 0, OUT(1));
    case SYS_lstat:
        return file_stat(AT_FDCWD, TEXT(0), AT_SYMLINK_NOFOLLOW, OUT(1));
    case SYS_access:
        return file_access(AT_FDCWD, TEXT(0), INT(1), 0);
    case SYS_readlink:
        return file_readlink(AT_FDCWD, TEXT(0), OUT(1), (size_t)arguments[2]);
    default:
        return BYPASS;
    }
}
#else
static int64_t syscall_without_directory(long number, const long arguments[6]) {
    (void)number;
    (void)arguments;
    return BYPASS;
}
#endif

int64_t file_syscall(long number, const long arguments[6]) {
    switch (number) {
    case SYS_openat:
        return file_open(INT(0), TEXT(1), INT(2), (unsigned)arguments[3]);
    case SYS_openat2:
        return syscall_openat2(INT(0), TEXT(1), OUT(2), (size_t)arguments[3]);
    case SYS_fstat:
        return INT(0) < 0 ? -EBADF : file_stat(INT(0), "", AT_EMPTY_PATH, OUT(1));
    case SYS_newfstatat:
        return file_stat(INT(0), TEXT(1), INT(3), OUT(2));
    case SYS_statx:
        return file_statx(INT(0), TEXT(1), INT(2), (unsigned)arguments[3], OUT(4));
    case SYS_faccessat:
        return file_access(INT(0), TEXT(1), INT(2), 0);
    case SYS_faccessat2:
        return file_access(INT(0), TEXT(1), INT(2), INT(3));
    case SYS_readlinkat:
        return file_readlink(INT(0), TEXT(1), OUT(2), (size_t)arguments[3]);
    case SYS_statfs:
        return file_statfs(TEXT(0), OUT(1));
    case SYS_fstatfs:
        return file_fstatfs(INT(0), OUT(1));
    case SYS_getdents64:
        return directory_getdents(INT(0), OUT(1), (size_t)arguments[2]);
    case SYS_chdir:
        return file_chdir(TEXT(0));
    case SYS_fchdir:
        return file_fchdir(INT(0));
    case SYS_getcwd:
        return file_getcwd(OUT(0), (size_t)arguments[1]);
    default:
        return syscall_without_directory(number, arguments);
    }
}
