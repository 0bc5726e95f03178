/* readlink(2) and realpath(3). The names that /proc has for our descriptors and for a working directory of the target
 * say what a program in the target would read there. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include "file.h"

/* How the kernel names an object that has no name: a memfd, or a removed directory. */
static bool is_nameless(const char *text, size_t length) {
    static const char memfd[] = "/memfd:";
    static const char deleted[] = " (deleted)";
    const size_t end = sizeof deleted - 1;
    return (length >= sizeof memfd - 1 && memcmp(text, memfd, sizeof memfd - 1) == 0) ||
           (length >= end && memcmp(text + length - end, deleted, end) == 0);
}

/* A link in /proc to an object of ours: its path in the target. BYPASS: something else. */
OWN_FRAME static int64_t link_correct(int dirfd, const char *path, char *out, size_t size) {
    struct stat local;
    if (raw_syscall(SYS_newfstatat, dirfd, path, &local, 0) != 0 || !identity_is_likely(&local))
        return BYPASS;
    struct identity identity;
    if (!identity_find(&local, -1, &identity))
        return BYPASS;
    size_t length = identity.length < size ? identity.length : size;
    memcpy(out, identity.path, length);
    return (int64_t)length;
}

/* An empty path: the link behind a descriptor made with O_PATH | O_NOFOLLOW. */
OWN_FRAME static int64_t descriptor_readlink(int fd, char *out, size_t size) {
    struct identity identity;
    if (fd < 0 || !identity_of(fd, &identity))
        return BYPASS;
    if (!S_ISLNK(identity.stat.mode))
        return -ENOENT;
    struct place place;
    place_of(&identity, &place);
    return request_link(&place, out, size);
}

/* What begins in the target. BYPASS: ask the kernel with the caller's own arguments. */
OWN_FRAME static int64_t link_begin(int dirfd, const char *path, char *out, size_t size) {
    if (size == 0 || size > INT_MAX || is_bad_pointer(path) || is_bad_pointer(out))
        return BYPASS; /* the kernel says EINVAL or EFAULT */
    if (path[0] == '\0')
        return descriptor_readlink(dirfd, out, size);
    struct place place;
    int resolved = path_resolve(dirfd, path, ACCESS_READ, &place);
    if (resolved == PATH_REMOTE)
        return request_link(&place, out, size);
    if (resolved == PATH_MOVED)
        return raw_syscall(SYS_readlinkat, AT_FDCWD, place.path, out, size);
    return resolved == PATH_LOCAL ? BYPASS : resolved;
}

OWN_FRAME static int64_t link_local(int dirfd, const char *path, char *out, size_t size) {
    if (is_bad_pointer(out)) /* of which the kernel would say so */
        return raw_syscall(SYS_readlinkat, dirfd, path, out, size);
    char content[PATH_MAX]; /* what is corrected must not be seen behind a shorter answer */
    int64_t result = raw_syscall(SYS_readlinkat, dirfd, path, content, size < sizeof content ? size : sizeof content);
    if (result <= 0)
        return result;
    if (is_nameless(content, (size_t)result)) {
        int64_t corrected = link_correct(dirfd, path, out, size);
        if (corrected != BYPASS)
            return corrected;
    }
    memcpy(out, content, (size_t)result);
    return result;
}

int64_t file_readlink(int dirfd, const char *path, char *out, size_t size) {
    int64_t result = path_is_local(path, ACCESS_READ) ? BYPASS : link_begin(dirfd, path, out, size);
    return result == BYPASS ? link_local(dirfd, path, out, size) : result;
}

static ssize_t link_result(int64_t result) {
    if (result >= 0)
        return (ssize_t)result;
    errno = (int)-result;
    return -1;
}

static ssize_t link_hook(int dirfd, const char *path, char *out, size_t size) {
    struct guard guard;
    if (!guard_enter(&guard))
        return link_result(raw_syscall(SYS_readlinkat, dirfd, path, out, size));
    return (ssize_t)hook_result(&guard, file_readlink(dirfd, path, out, size));
}

ssize_t hooked_readlink(const char *path, char *out, size_t size) {
    return link_hook(AT_FDCWD, path, out, size);
}

ssize_t hooked_readlinkat(int dirfd, const char *path, char *out, size_t size) {
    return link_hook(dirfd, path, out, size);
}

/* --- realpath --------------------------------------------------------------------------------------------- */

/* `*out` as realpath(3)'s second argument: allocated where null. */
OWN_FRAME static int64_t realpath_ask(const struct place *place, char **out) {
    char found[PATH_MAX];
    int64_t length = request_resolved(place, found, sizeof found - 1);
    if (length < 0)
        return length;
    found[length] = '\0';
    if (!*out)
        *out = malloc((size_t)length + 1);
    if (!*out)
        return -ENOMEM;
    memcpy(*out, found, (size_t)length + 1);
    return 0;
}

/* BYPASS: call the original, by way of realpath_moved if
 * `moved`. */
OWN_FRAME static int64_t realpath_begin(const char *path, char **out, bool *moved) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_READ, &place);
    *moved = resolved == PATH_MOVED;
    if (resolved == PATH_LOCAL || resolved == PATH_MOVED)
        return BYPASS;
    return resolved < 0 ? resolved : realpath_ask(&place, out);
}

OWN_FRAME static char *realpath_moved(const char *path, char *out) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_READ, &place);
    return real_realpath(resolved == PATH_MOVED ? place.path : path, out);
}

char *hooked_realpath(const char *path, char *out) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_realpath(path, out);
    bool moved = false;
    int64_t result = realpath_begin(path, &out, &moved);
    if (result == BYPASS) {
        guard_leave(&guard);
        return moved ? realpath_moved(path, out) : real_realpath(path, out);
    }
    return hook_result(&guard, result) < 0 ? NULL : out;
}
