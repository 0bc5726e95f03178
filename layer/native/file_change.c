/* Calls that change a file by its path or descriptor. By rule they go to this machine, so all there is to do is to
 * make relative paths that begin in a directory of the target absolute, and to refuse what would change the target. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"

static int change_resolve(int dirfd, const char *path, struct place *place) {
    int resolved = path_resolve(dirfd, path, ACCESS_WRITE, place);
    return resolved == PATH_REMOTE ? -EROFS : resolved;
}

/* `moved` is what to do where the path begins in the target and leads to this machine, as a raw system call on
 * place.path. */
#define CHANGE_HOOK(name, parameters, arguments, dirfd, path, moved)            \
    int hooked_##name parameters {                                              \
        struct guard guard;                                                     \
        if (!guard_enter(&guard))                                               \
            return real_##name arguments;                                       \
        struct place place;                                                     \
        int resolved = change_resolve(dirfd, path, &place);                     \
        if (resolved != PATH_LOCAL)                                             \
            return (int)hook_result(&guard, resolved < 0 ? resolved : (moved)); \
        guard_leave(&guard);                                                    \
        return real_##name arguments;                                           \
    }

CHANGE_HOOK(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path,
            raw_syscall(SYS_mkdirat, AT_FDCWD, place.path, mode))
CHANGE_HOOK(mkdirat, (int dirfd, const char *path, mode_t mode), (dirfd, path, mode), dirfd, path,
            raw_syscall(SYS_mkdirat, AT_FDCWD, place.path, mode))
CHANGE_HOOK(rmdir, (const char *path), (path), AT_FDCWD, path,
            raw_syscall(SYS_unlinkat, AT_FDCWD, place.path, AT_REMOVEDIR))
CHANGE_HOOK(unlink, (const char *path), (path), AT_FDCWD, path, raw_syscall(SYS_unlinkat, AT_FDCWD, place.path, 0))
CHANGE_HOOK(unlinkat, (int dirfd, const char *path, int flags), (dirfd, path, flags), dirfd, path,
            raw_syscall(SYS_unlinkat, AT_FDCWD, place.path, flags))
CHANGE_HOOK(symlink, (const char *content, const char *path), (content, path), AT_FDCWD, path,
            raw_syscall(SYS_symlinkat, content, AT_FDCWD, place.path))
CHANGE_HOOK(symlinkat, (const char *content, int dirfd, const char *path), (content, dirfd, path), dirfd, path,
            raw_syscall(SYS_symlinkat, content, AT_FDCWD, place.path))
CHANGE_HOOK(chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path,
            raw_syscall(SYS_fchmodat, AT_FDCWD, place.path, mode))
CHANGE_HOOK(fchmodat, (int dirfd, const char *path, mode_t mode, int flags), (dirfd, path, mode, flags), dirfd, path,
            raw_syscall(SYS_fchmodat, AT_FDCWD, place.path, mode))
CHANGE_HOOK(chown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid), AT_FDCWD, path,
            raw_syscall(SYS_fchownat, AT_FDCWD, place.path, uid, gid, 0))
CHANGE_HOOK(lchown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid), AT_FDCWD, path,
            raw_syscall(SYS_fchownat, AT_FDCWD, place.path, uid, gid, AT_SYMLINK_NOFOLLOW))
CHANGE_HOOK(fchownat, (int dirfd, const char *path, uid_t uid, gid_t gid, int flags), (dirfd, path, uid, gid, flags),
            dirfd, path, raw_syscall(SYS_fchownat, AT_FDCWD, place.path, uid, gid, flags))
CHANGE_HOOK(truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path,
            raw_syscall(SYS_truncate, place.path, size))
CHANGE_HOOK(utimes, (const char *path, const struct timeval times[2]), (path, times), AT_FDCWD, path,
            real_utimes(place.path, times) == 0 ? 0 : -errno)

/* --- two paths -------------------------------------------------------------------------------------------- */

struct change {
    int dirfd;
    const char *path;
    struct place place;
};

/* Resolves one end. Where it is moved, `change` says where to. */
static int change_end(struct change *change) {
    int resolved = change_resolve(change->dirfd, change->path, &change->place);
    if (resolved == PATH_MOVED) {
        change->dirfd = AT_FDCWD;
        change->path = change->place.path;
    }
    return resolved;
}

OWN_FRAME static int change_one(int dirfd, const char *path) {
    struct place place;
    return change_resolve(dirfd, path, &place);
}

/* PATH_LOCAL where both can stay as they are, which is nearly always: known without room for two places. */
static int change_neither(int from_dir, const char *from, int to_dir, const char *to) {
    int first = change_one(from_dir, from);
    int second = first < 0 ? first : change_one(to_dir, to);
    return second < 0 ? second : first | second;
}

/* PATH_LOCAL where both are as the caller gave them. */
static int change_both(struct change *from, struct change *to) {
    int first = change_end(from);
    int second = first < 0 ? first : change_end(to);
    return second < 0 ? second : first | second;
}

OWN_FRAME static int64_t rename_moved(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    struct change source = {.dirfd = from_dir, .path = from};
    struct change goal = {.dirfd = to_dir, .path = to};
    int resolved = change_both(&source, &goal);
    if (resolved <= PATH_LOCAL)
        return resolved < 0 ? resolved : BYPASS;
    return raw_syscall(SYS_renameat2, source.dirfd, source.path, goal.dirfd, goal.path, flags);
}

static int64_t change_rename(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    int resolved = change_neither(from_dir, from, to_dir, to);
    if (resolved <= PATH_LOCAL)
        return resolved < 0 ? resolved : BYPASS;
    return rename_moved(from_dir, from, to_dir, to, flags);
}

OWN_FRAME static int64_t link_moved(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    struct change source = {.dirfd = from_dir, .path = from};
    struct change goal = {.dirfd = to_dir, .path = to};
    int resolved = change_both(&source, &goal);
    if (resolved <= PATH_LOCAL)
        return resolved < 0 ? resolved : BYPASS;
    return raw_syscall(SYS_linkat, source.dirfd, source.path, goal.dirfd, goal.path, flags);
}

static int64_t change_link(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    int resolved = change_neither(from_dir, from, to_dir, to);
    if (resolved <= PATH_LOCAL)
        return resolved < 0 ? resolved : BYPASS;
    return link_moved(from_dir, from, to_dir, to, flags);
}

#define HOOK_BYPASSING(name, parameters, arguments, logic) \
    int hooked_##name parameters {                         \
        struct guard guard;                                \
        if (!guard_enter(&guard))                          \
            return real_##name arguments;                  \
        int64_t result = logic;                            \
        if (result != BYPASS)                              \
            return (int)hook_result(&guard, result);       \
        guard_leave(&guard);                               \
        return real_##name arguments;                      \
    }

HOOK_BYPASSING(rename, (const char *from, const char *to), (from, to), change_rename(AT_FDCWD, from, AT_FDCWD, to, 0))
HOOK_BYPASSING(renameat, (int from_dir, const char *from, int to_dir, const char *to), (from_dir, from, to_dir, to),
               change_rename(from_dir, from, to_dir, to, 0))
HOOK_BYPASSING(renameat2, (int from_dir, const char *from, int to_dir, const char *to, unsigned flags),
               (from_dir, from, to_dir, to, flags), change_rename(from_dir, from, to_dir, to, flags))
HOOK_BYPASSING(link, (const char *from, const char *to), (from, to), change_link(AT_FDCWD, from, AT_FDCWD, to, 0))
HOOK_BYPASSING(linkat, (int from_dir, const char *from, int to_dir, const char *to, int flags),
               (from_dir, from, to_dir, to, flags), change_link(from_dir, from, to_dir, to, flags))

/* --- descriptors ------------------------------------------------------------------------------------------ */

/* The kernel would let the owner of a memfd change its mode, owner and times; the target's file has not changed then.
 * A file system that is mounted read-only answers EROFS. */
static int64_t change_descriptor(int fd) {
    if (fd < 0 || !identity_of(fd, NULL))
        return BYPASS;
    return raw_syscall(SYS_fcntl, fd, F_GETFL, 0) & O_PATH ? -EBADF : -EROFS;
}

/* Without a path it is the descriptor's times that are meant. */
static int64_t change_times(int dirfd, const char *path, const struct timespec *times, int flags) {
    if (!path)
        return change_descriptor(dirfd);
    struct place place;
    int resolved = change_resolve(dirfd, path, &place);
    if (resolved == PATH_MOVED)
        return raw_syscall(SYS_utimensat, AT_FDCWD, place.path, times, flags);
    return resolved < 0 ? resolved : BYPASS;
}

HOOK_BYPASSING(utimensat, (int dirfd, const char *path, const struct timespec times[2], int flags),
               (dirfd, path, times, flags), change_times(dirfd, path, times, flags))
HOOK_BYPASSING(futimens, (int fd, const struct timespec times[2]), (fd, times), change_descriptor(fd))
HOOK_BYPASSING(fchmod, (int fd, mode_t mode), (fd, mode), change_descriptor(fd))
HOOK_BYPASSING(fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid), change_descriptor(fd))
