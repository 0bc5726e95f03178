/* statfs(2) and fstatfs(2). statvfs and fstatvfs of glibc end in these; musl's do not. */
#include <fcntl.h>
#include <sys/syscall.h>

#include "file.h"

int64_t file_statfs(const char *path, struct statfs *out) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_READ, &place);
    if (resolved == PATH_REMOTE)
        return request_statfs(&place, out);
    if (resolved == PATH_MOVED)
        return raw_syscall(SYS_statfs, place.path, out);
    return resolved == PATH_LOCAL ? BYPASS : resolved;
}

int64_t file_fstatfs(int fd, struct statfs *out) {
    struct identity identity;
    if (fd < 0 || !identity_of(fd, &identity))
        return BYPASS;
    struct place place;
    place_of(&identity, &place);
    return request_statfs(&place, out);
}

int hooked_statfs(const char *path, struct statfs *out) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_statfs(path, out);
    int64_t result = file_statfs(path, out);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_statfs(path, out);
}

int hooked_fstatfs(int fd, struct statfs *out) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_fstatfs(fd, out);
    int64_t result = file_fstatfs(fd, out);
    if (result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    return real_fstatfs(fd, out);
}
