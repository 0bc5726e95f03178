/* stat(2), statx(2) and all that libc has made of them.
 *
 * What is local is asked of the kernel directly: libc's stat, lstat and fstat end in fstatat, which is hooked too, and
 * would be decided twice. The kernel's answer tells whether the thing is an object of ours (`identity`). Local calls are
 * made outside the guard, so that a signal handler that runs as they return finds the hooks at work. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "file.h"

/* linux/stat.h, which cannot be included beside musl's sys/stat.h. */
#ifndef STATX__RESERVED
#define STATX__RESERVED 0x80000000U
#endif

/* The descriptor itself is meant: an empty path with AT_EMPTY_PATH (since Linux 6.11 also NULL). */
static bool means_descriptor(const char *path, int flags) {
    return (flags & AT_EMPTY_PATH) && (!path || (!is_bad_pointer(path) && path[0] == '\0'));
}

/* What begins in the target. BYPASS: ask the kernel with the caller's own arguments. */
static int64_t stat_resolved(int dirfd, const char *path, int flags, struct place *place, struct target_stat *stat) {
    const int known = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH | AT_STATX_SYNC_TYPE;
    if (means_descriptor(path, flags) || (flags & ~known))
        return BYPASS; /* the kernel says EINVAL */
    int resolved = path_resolve_attributes(dirfd, path, place);
    if (resolved == PATH_REMOTE)
        return request_stat(place, !(flags & AT_SYMLINK_NOFOLLOW), stat);
    return resolved == PATH_LOCAL ? BYPASS : resolved;
}

/* --- struct stat ------------------------------------------------------------------------------------------ */

OWN_FRAME static int64_t stat_begin(int dirfd, const char *path, int flags, struct stat *out) {
    struct place place;
    struct target_stat stat;
    int64_t result = stat_resolved(dirfd, path, flags, &place, &stat);
    if (result == PATH_MOVED)
        return raw_syscall(SYS_newfstatat, AT_FDCWD, place.path, out, flags);
    if (result == 0 && is_bad_pointer(out))
        return -EFAULT;
    if (result == 0)
        target_stat_to_stat(&stat, out);
    return result;
}

/* Replaces what the kernel said about an object of ours by what it stands for. */
OWN_FRAME static void stat_correct(struct stat *out, int fd) {
    struct identity identity;
    if (identity_find(out, fd, &identity))
        target_stat_to_stat(&identity.stat, out);
}

static int64_t stat_local(int dirfd, const char *path, int flags, struct stat *out) {
    if (means_descriptor(path, flags) && dirfd >= 0)
        return raw_syscall(SYS_fstat, dirfd, out);
    return raw_syscall(SYS_newfstatat, dirfd, path, out, flags);
}

int64_t file_stat(int dirfd, const char *path, int flags, struct stat *out) {
    int64_t result = stat_begin(dirfd, path, flags, out);
    if (result != BYPASS)
        return result;
    result = stat_local(dirfd, path, flags, out);
    if (result == 0 && identity_is_likely(out))
        stat_correct(out, means_descriptor(path, flags) ? dirfd : -1);
    return result;
}

static int stat_result(int64_t result) {
    if (result >= 0)
        return 0;
    errno = (int)-result;
    return -1;
}

static int stat_hook(int dirfd, const char *path, int flags, struct stat *out) {
    struct guard guard;
    if (!means_descriptor(path, flags)) {
        if (!guard_enter(&guard))
            return stat_result(stat_local(dirfd, path, flags, out));
        int64_t result = stat_begin(dirfd, path, flags, out);
        guard_leave(&guard);
        if (result != BYPASS)
            return stat_result(result);
    }
    int64_t result = stat_local(dirfd, path, flags, out);
    if (result == 0 && identity_is_likely(out) && guard_enter(&guard)) {
        stat_correct(out, means_descriptor(path, flags) ? dirfd : -1);
        guard_leave(&guard);
    }
    return stat_result(result);
}

int hooked_stat(const char *path, struct stat *out) {
    return stat_hook(AT_FDCWD, path, 0, out);
}

int hooked_lstat(const char *path, struct stat *out) {
    return stat_hook(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, out);
}

int hooked_fstat(int fd, struct stat *out) {
    if (fd < 0)
        return stat_result(-EBADF); /* AT_FDCWD among them */
    return stat_hook(fd, "", AT_EMPTY_PATH, out);
}

int hooked_fstatat(int dirfd, const char *path, struct stat *out, int flags) {
    return stat_hook(dirfd, path, flags, out);
}

/* What programs linked with glibc before 2.33 call. `version` names the layout of struct stat: there is one, which
 * has gone by two numbers on x86-64. */
static bool is_known(int version) {
#if defined(__x86_64__)
    return version == 0 || version == 1;
#else
    return version == 0;
#endif
}

int hooked___xstat(int version, const char *path, struct stat *out) {
    return is_known(version) ? stat_hook(AT_FDCWD, path, 0, out) : real___xstat(version, path, out);
}

int hooked___lxstat(int version, const char *path, struct stat *out) {
    return is_known(version) ? stat_hook(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, out) : real___lxstat(version, path, out);
}

int hooked___fxstat(int version, int fd, struct stat *out) {
    return is_known(version) ? hooked_fstat(fd, out) : real___fxstat(version, fd, out);
}

int hooked___fxstatat(int version, int dirfd, const char *path, struct stat *out, int flags) {
    return is_known(version) ? stat_hook(dirfd, path, flags, out) : real___fxstatat(version, dirfd, path, out, flags);
}

/* --- struct statx ----------------------------------------------------------------------------------------- */

OWN_FRAME static int64_t statx_begin(int dirfd, const char *path, int flags, unsigned mask, struct statx *out) {
    if ((mask & STATX__RESERVED) || (flags & AT_STATX_SYNC_TYPE) == AT_STATX_SYNC_TYPE)
        return BYPASS; /* EINVAL */
    struct place place;
    struct target_stat stat;
    int64_t result = stat_resolved(dirfd, path, flags, &place, &stat);
    if (result == PATH_MOVED)
        return raw_syscall(SYS_statx, AT_FDCWD, place.path, flags, mask, out);
    if (result == 0 && is_bad_pointer(out))
        return -EFAULT;
    if (result == 0)
        target_stat_to_statx(&stat, mask, out);
    return result;
}

static bool statx_is_likely(const struct statx *out, struct stat *local) {
    local->st_dev = makedev(out->stx_dev_major, out->stx_dev_minor);
    local->st_ino = out->stx_ino;
    local->st_mode = out->stx_mode;
    local->st_nlink = out->stx_nlink;
    return identity_is_likely(local);
}

OWN_FRAME static void statx_correct(const struct stat *local, int fd, unsigned mask, struct statx *out) {
    struct identity identity;
    if (identity_find(local, fd, &identity))
        target_stat_to_statx(&identity.stat, mask, out);
}

int64_t file_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *out) {
    int64_t result = statx_begin(dirfd, path, flags, mask, out);
    if (result != BYPASS)
        return result;
    result = raw_syscall(SYS_statx, dirfd, path, flags, mask, out);
    struct stat local;
    if (result == 0 && statx_is_likely(out, &local))
        statx_correct(&local, means_descriptor(path, flags) ? dirfd : -1, mask, out);
    return result;
}

/* The original is called for what is local: where the kernel lacks statx, glibc makes it of stat. */
int hooked_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *out) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_statx(dirfd, path, flags, mask, out);
    int64_t result = statx_begin(dirfd, path, flags, mask, out);
    guard_leave(&guard);
    if (result != BYPASS)
        return stat_result(result);
    int failed = real_statx(dirfd, path, flags, mask, out);
    struct stat local;
    if (failed == 0 && statx_is_likely(out, &local) && guard_enter(&guard)) {
        statx_correct(&local, means_descriptor(path, flags) ? dirfd : -1, mask, out);
        guard_leave(&guard);
    }
    return failed;
}
