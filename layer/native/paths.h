/* What a path argument means: where it is looked up, and by which absolute name. Shared by the file family. */
#ifndef MIRROR_PATHS_H
#define MIRROR_PATHS_H

#include <limits.h>

#include "layer.h"

enum {
    PATH_LOCAL = 0,  /* call the original with the caller's own arguments */
    PATH_MOVED = 1,  /* call the original with AT_FDCWD and `place.path`: the caller's arguments begin in the target */
    PATH_REMOTE = 2, /* ask for `place.path` in the target */
};

/* An absolute path. `path` points to the caller's own string where that serves, else to `buffer`. */
struct place {
    const char *path;
    size_t length;
    char buffer[PATH_MAX];
};

/* Where a relative path begins: a directory's absolute, physical path, here or in the target. */
struct base {
    bool remote;
    size_t length;
    char *path; /* PATH_MAX bytes of the asker's */
};

/* PATH_*, or a negative errno with which the call must fail: ENOENT and EROFS by rule, ENAMETOOLONG.
 * `place` is valid for PATH_MOVED and PATH_REMOTE, and as long as `path` is. No system call for an absolute path;
 * arguments that the kernel refuses (NULL, empty, a bad `dirfd`) are PATH_LOCAL, so that the kernel does it. */
int path_resolve(int dirfd, const char *path, enum access access, struct place *place);
/* The same for questions on attributes, where `..` of a directory of the target is the target's affair even if it is
 * the root, which is local by rule: it is an entry of a listing that came from there. */
int path_resolve_attributes(int dirfd, const char *path, struct place *place);

/* NULL, the numbers next to it and those that no user address has: the kernel says EFAULT where we would crash. Other
 * addresses that are not mapped are not noticed; that would cost a system call. */
static inline bool is_bad_pointer(const void *pointer) {
    return (intptr_t)pointer < 4096;
}

/* Whether `path` is absolute and lexically normal; its length in `length` if so. */
bool path_is_normal(const char *path, size_t *length);
/* Writes the lexically normal form of an absolute path: no `.`, `..`, `//`, no trailing slash but in "/". Returns
 * its length. `out` has room for the text's length + 1 bytes and may be the text itself. */
size_t path_normalise(const char *path, size_t length, char *out);

/* Whether it is absolute, normal (but for a slash at its end) and of this machine: what can be said without room for a place. */
bool path_is_local(const char *path, enum access access);

/* base.c: the directory behind a descriptor, or the working directory for AT_FDCWD. False: not known, or no directory;
 * then a relative path is the kernel's affair. */
bool base_of(int dirfd, struct base *base);

/* cwd.c: the working directory as the program sees it, without a system call where it is known. */
bool cwd_read(struct base *base);
/* The process's working directory may have changed: looked up again when it is needed next. */
void cwd_forget(void);

#endif
