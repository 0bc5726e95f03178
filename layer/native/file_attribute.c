/* Extended attributes. The target's are not asked for: what is in the target answers as a file that has none, which
 * `ls -l`, `cp -a` and their like take without a word. */
#include <errno.h>
#include <fcntl.h>
#include <sys/types.h>

#include "file.h"

/* `none`: what is said of a file that is there. */
static int64_t attribute_path(const char *path, bool follow, int64_t none) {
    struct place place;
    int resolved = path_resolve_attributes(AT_FDCWD, path, &place);
    if (resolved != PATH_REMOTE)
        return resolved < 0 ? resolved : BYPASS;
    struct target_stat stat;
    int64_t result = request_stat(&place, follow, &stat);
    return result < 0 ? result : none;
}

static int64_t attribute_change(const char *path) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_WRITE, &place);
    if (resolved == PATH_REMOTE)
        return -EROFS;
    return resolved < 0 ? resolved : BYPASS;
}

static int64_t attribute_descriptor(int fd, int64_t none) {
    return fd >= 0 && identity_of(fd, NULL) ? none : BYPASS;
}

#define ATTRIBUTE_HOOK(result_type, name, parameters, arguments, logic) \
    result_type hooked_##name parameters {                              \
        struct guard guard;                                             \
        if (!guard_enter(&guard))                                       \
            return real_##name arguments;                               \
        int64_t result = logic;                                         \
        if (result != BYPASS)                                           \
            return (result_type)hook_result(&guard, result);            \
        guard_leave(&guard);                                            \
        return real_##name arguments;                                   \
    }

ATTRIBUTE_HOOK(ssize_t, getxattr, (const char *path, const char *name, void *value, size_t size),
               (path, name, value, size), attribute_path(path, true, -ENODATA))
ATTRIBUTE_HOOK(ssize_t, lgetxattr, (const char *path, const char *name, void *value, size_t size),
               (path, name, value, size), attribute_path(path, false, -ENODATA))
ATTRIBUTE_HOOK(ssize_t, fgetxattr, (int fd, const char *name, void *value, size_t size), (fd, name, value, size),
               attribute_descriptor(fd, -ENODATA))
ATTRIBUTE_HOOK(ssize_t, listxattr, (const char *path, char *list, size_t size), (path, list, size),
               attribute_path(path, true, 0))
ATTRIBUTE_HOOK(ssize_t, llistxattr, (const char *path, char *list, size_t size), (path, list, size),
               attribute_path(path, false, 0))
ATTRIBUTE_HOOK(ssize_t, flistxattr, (int fd, char *list, size_t size), (fd, list, size), attribute_descriptor(fd, 0))
ATTRIBUTE_HOOK(int, setxattr, (const char *path, const char *name, const void *value, size_t size, int flags),
               (path, name, value, size, flags), attribute_change(path))
ATTRIBUTE_HOOK(int, lsetxattr, (const char *path, const char *name, const void *value, size_t size, int flags),
               (path, name, value, size, flags), attribute_change(path))
ATTRIBUTE_HOOK(int, fsetxattr, (int fd, const char *name, const void *value, size_t size, int flags),
               (fd, name, value, size, flags), attribute_descriptor(fd, -EROFS))
