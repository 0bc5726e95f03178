/* open(2) and its kin. fopen, freopen, mkstemp, dlopen and the like come here through libc's own call of open. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

#include "file.h"

static bool is_write(int flags) {
    if (flags & O_PATH)
        return false;
    return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE;
}

static bool takes_mode(int flags) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

OWN_FRAME int64_t file_open_remote(const struct place *place, int flags, unsigned mode) {
    if (is_write(flags))
        return -EROFS; /* a session that may write is asked for, but there is no way to do it */
    struct identity opened;
    int64_t fd = request_open(place, flags, mode, &opened);
    if (fd < 0)
        return fd;
    identity_remember((int)fd, &opened);
    if (!(flags & O_CLOEXEC))
        raw_syscall(SYS_fcntl, fd, F_SETFD, 0);
    return fd;
}

/* A descriptor made with O_PATH holds no content, so opening it once more by its name in /proc asks the target.
 * `number`: the text after the slash that follows `fd`. */
OWN_FRAME static int64_t reopen(const char *number, int flags, unsigned mode) {
    int fd = 0;
    if (*number == '\0')
        return BYPASS;
    for (; *number; number++) {
        if (*number < '0' || *number > '9' || fd > 99999999)
            return BYPASS;
        fd = fd * 10 + (*number - '0');
    }
    int64_t status = raw_syscall(SYS_fcntl, fd, F_GETFL, 0);
    if (status < 0 || !(status & O_PATH))
        return BYPASS;
    struct identity identity;
    if (!identity_of(fd, &identity) || S_ISLNK(identity.stat.mode))
        return BYPASS;
    struct place place;
    place_of(&identity, &place);
    return file_open_remote(&place, flags & ~O_NOFOLLOW, mode);
}

static int64_t open_local(const char *path, int flags, unsigned mode) {
    if (!is_bad_pointer(path) && strncmp(path, "/proc/self/fd/", 14) == 0)
        return reopen(path + 14, flags, mode);
    return BYPASS;
}

OWN_FRAME static int64_t open_resolved(int dirfd, const char *path, int flags, unsigned mode, enum access access) {
    struct place place;
    switch (path_resolve(dirfd, path, access, &place)) {
    case PATH_LOCAL:
        return open_local(path, flags, mode);
    case PATH_MOVED:
        return raw_syscall(SYS_openat, AT_FDCWD, place.path, flags, mode);
    case PATH_REMOTE:
        return file_open_remote(&place, flags, mode);
    case -EROFS:
        return -EROFS;
    case -ENAMETOOLONG:
        return -ENAMETOOLONG;
    default:
        return -ENOENT;
    }
}

/* A handler for crashes, on a stack of its own, opens a file of this machine: that must take little. */
int64_t file_open(int dirfd, const char *path, int flags, unsigned mode) {
    enum access access = is_write(flags) ? ACCESS_WRITE : ACCESS_READ;
    return path_is_local(path, access) ? open_local(path, flags, mode)
                                       : open_resolved(dirfd, path, flags, mode, access);
}

#define OPEN_HOOK(name, parameters, dirfd, ...)               \
    int hooked_##name parameters {                            \
        unsigned mode = 0;                                    \
        if (takes_mode(flags)) {                              \
            va_list more;                                     \
            va_start(more, flags);                            \
            mode = va_arg(more, unsigned);                    \
            va_end(more);                                     \
        }                                                     \
        struct guard guard;                                   \
        if (!guard_enter(&guard))                             \
            return real_##name(__VA_ARGS__, flags, mode);     \
        int64_t result = file_open(dirfd, path, flags, mode); \
        if (result != BYPASS)                                 \
            return (int)hook_result(&guard, result);          \
        guard_leave(&guard);                                  \
        return real_##name(__VA_ARGS__, flags, mode);         \
    }

OPEN_HOOK(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN_HOOK(openat, (int dirfd, const char *path, int flags, ...), dirfd, dirfd, path)
/* Of glibc alone: opendir, and fopen with "c", open in a way that is no cancellation point. */
OPEN_HOOK(__open64_nocancel, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN_HOOK(__openat64_nocancel, (int dirfd, const char *path, int flags, ...), dirfd, dirfd, path)

int hooked_creat(const char *path, mode_t mode) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_creat(path, mode);
    int64_t result = file_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_creat(path, mode);
}
