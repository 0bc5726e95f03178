/* access(2): the target's kernel answers, with the credentials of the target's process. */
#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"

OWN_FRAME static int64_t descriptor_access(int fd, int mode, int flags) {
    struct identity identity;
    if (!identity_of(fd, &identity))
        return BYPASS;
    struct place place;
    place_of(&identity, &place);
    return request_access(&place, mode, flags);
}

OWN_FRAME static int64_t access_resolved(int dirfd, const char *path, int mode, int flags) {
    struct place place;
    int resolved = path_resolve_attributes(dirfd, path, &place);
    if (resolved == PATH_REMOTE)
        return request_access(&place, mode, flags & ~AT_EMPTY_PATH);
    if (resolved == PATH_MOVED && flags == 0)
        return raw_syscall(SYS_faccessat, AT_FDCWD, place.path, mode);
    if (resolved == PATH_MOVED)
        return real_faccessat(AT_FDCWD, place.path, mode, flags) == 0 ? 0 : -errno;
    return resolved == PATH_LOCAL ? BYPASS : resolved;
}

int64_t file_access(int dirfd, const char *path, int mode, int flags) {
    if ((mode & ~(R_OK | W_OK | X_OK)) || (flags & ~(AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)))
        return BYPASS; /* the kernel says EINVAL */
    if ((flags & AT_EMPTY_PATH) && !is_bad_pointer(path) && path[0] == '\0')
        return descriptor_access(dirfd, mode, flags & ~AT_EMPTY_PATH);
    return path_is_local(path, ACCESS_READ) ? BYPASS : access_resolved(dirfd, path, mode, flags);
}

int hooked_access(const char *path, int mode) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_access(path, mode);
    int64_t result = file_access(AT_FDCWD, path, mode, 0);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_access(path, mode);
}

int hooked_faccessat(int dirfd, const char *path, int mode, int flags) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_faccessat(dirfd, path, mode, flags);
    int64_t result = file_access(dirfd, path, mode, flags);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_faccessat(dirfd, path, mode, flags);
}

/* Also called euidaccess. */
int hooked_eaccess(const char *path, int mode) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_eaccess(path, mode);
    int64_t result = file_access(AT_FDCWD, path, mode, AT_EACCESS);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_eaccess(path, mode);
}
