/* From a path argument to a verdict. The decision is made on the lexically normal form; what is sent to the target
 * is the path as the program gave it, because only the target's kernel knows where `link/..` leads. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "identity.h"
#include "paths.h"

/* `component` follows a slash: is it `.` or `..` (and ends there)? */
static bool is_dots(const char *component) {
    if (component[0] != '.')
        return false;
    char after = component[1] == '.' ? component[2] : component[1];
    return after == '\0' || after == '/';
}

/* As path_is_normal, but for one slash at the end, which is not counted. */
static bool is_nearly_normal(const char *path, size_t *length) {
    if (path[0] != '/')
        return false;
    const char *at = path;
    while (*at) { /* `at` is at a slash */
        at++;
        if (*at == '/' || is_dots(at))
            return false;
        if (*at == '\0' && at - path > 1) {
            at--;
            break;
        }
        while (*at && *at != '/')
            at++;
    }
    *length = (size_t)(at - path);
    return true;
}

bool path_is_normal(const char *path, size_t *length) {
    return is_nearly_normal(path, length) && path[*length] == '\0';
}

size_t path_normalise(const char *path, size_t length, char *out) {
    const char *end = path + length;
    size_t size = 0; /* of the result so far, which never ends in a slash */
    while (path < end) {
        while (path < end && *path == '/')
            path++;
        const char *component = path;
        while (path < end && *path != '/')
            path++;
        size_t bytes = (size_t)(path - component);
        if (bytes == 0 || (bytes == 1 && component[0] == '.'))
            continue;
        if (bytes == 2 && component[0] == '.' && component[1] == '.') {
            while (size > 0 && out[--size] != '/')
                ;
            continue;
        }
        out[size] = '/'; /* not past what has been read: each component is preceded by a slash */
        memmove(out + size + 1, component, bytes);
        size += bytes + 1;
    }
    if (size == 0)
        out[size++] = '/';
    out[size] = '\0';
    return size;
}

/* Whether the path must lead to a directory: it ends in `/` or `/.` (or `/..`, which is one anyway). */
static bool ends_as_directory(const char *path, size_t length) {
    return path[length - 1] == '/' || (length > 1 && path[length - 1] == '.' && path[length - 2] == '/');
}

/* The part before the first `..` is where the kernel's walk begins: if that is in the target, so is the rest. It is
 * written to `prefix`. */
static bool begins_remote(const char *path, size_t length, char prefix[PATH_MAX]) {
    const char *at = path;
    while ((at = strstr(at, "/.."))) {
        if (at[3] == '\0' || at[3] == '/')
            break;
        at += 3;
    }
    size_t size = path_normalise(path, at ? (size_t)(at - path) : length, prefix);
    return decide_path(prefix, size, ACCESS_READ) == VERDICT_REMOTE;
}

static int verdict_result(enum verdict verdict, bool moved) {
    switch (verdict) {
    case VERDICT_REMOTE:
        return PATH_REMOTE;
    case VERDICT_ABSENT:
        return -ENOENT;
    case VERDICT_READ_ONLY:
        return -EROFS;
    case VERDICT_LOCAL:
        break;
    }
    return moved ? PATH_MOVED : PATH_LOCAL;
}

static bool ends_as_parent(const char *path, size_t length) {
    return length > 2 && memcmp(path + length - 3, "/..", 3) == 0;
}

/* What a path that is not lexically normal is decided from. */
struct odd {
    const char *path; /* absolute: the caller's own, or joined from a base in the place's buffer */
    size_t length;
    bool from_base;   /* relative to a directory */
    bool base_remote; /* which is one of the target */
    bool attributes;  /* asked by path_resolve_attributes */
};

OWN_FRAME static int resolve_odd(const struct odd *odd, enum access access, struct place *place) {
    char normal[PATH_MAX];
    size_t size = path_normalise(odd->path, odd->length, normal);
    /* Links and `..` are resolved where the walk begins; from a directory of ours there is no other way than by name. */
    bool walks_remote = odd->from_base ? odd->base_remote : begins_remote(odd->path, odd->length, place->buffer);
    int result = verdict_result(decide_path(normal, size, access), walks_remote);
    if (result == PATH_MOVED && odd->attributes && ends_as_parent(odd->path, odd->length))
        result = PATH_REMOTE;
    if (result <= PATH_LOCAL)
        return result;
    if (result == PATH_REMOTE && walks_remote) {
        if (place->buffer != odd->path)
            memcpy(place->buffer, odd->path, odd->length + 1);
        place->length = odd->length;
    } else {
        bool directory = ends_as_directory(odd->path, odd->length) && size > 1;
        memcpy(place->buffer, normal, size);
        if (directory)
            place->buffer[size++] = '/';
        place->buffer[size] = '\0';
        place->length = size;
    }
    place->path = place->buffer;
    return result;
}

static int resolve(int dirfd, const char *path, enum access access, bool attributes, struct place *place) {
    if (is_bad_pointer(path) || path[0] == '\0')
        return PATH_LOCAL;
    size_t length;
    if (path_is_normal(path, &length)) {
        place->path = path;
        place->length = length;
        return length >= PATH_MAX ? PATH_LOCAL : verdict_result(decide_path(path, length, access), false);
    }
    length = strlen(path);
    if (length >= PATH_MAX)
        return PATH_LOCAL; /* the kernel says ENAMETOOLONG */
    struct odd odd = {.path = path, .length = length, .attributes = attributes};
    if (path[0] == '/')
        return resolve_odd(&odd, access, place);

    struct base base = {.path = place->buffer};
    if (!base_of(dirfd, &base))
        return PATH_LOCAL;
    size_t start = base.length == 1 ? 0 : base.length; /* "/" and a name make "/name" */
    if (start + 1 + length >= PATH_MAX)
        return base.remote ? -ENAMETOOLONG : PATH_LOCAL;
    place->buffer[start] = '/';
    memcpy(place->buffer + start + 1, path, length + 1);
    odd.path = place->buffer;
    odd.length = start + 1 + length;
    odd.from_base = true;
    odd.base_remote = base.remote;
    return resolve_odd(&odd, access, place);
}

bool path_is_local(const char *path, enum access access) {
    size_t length;
    return !is_bad_pointer(path) && is_nearly_normal(path, &length) && length < PATH_MAX &&
           decide_path(path, length, access) == VERDICT_LOCAL;
}

int path_resolve(int dirfd, const char *path, enum access access, struct place *place) {
    return resolve(dirfd, path, access, false, place);
}

int path_resolve_attributes(int dirfd, const char *path, struct place *place) {
    return resolve(dirfd, path, ACCESS_READ, true, place);
}
