/* nftw(3), ftw(3) and scandirat(3) for what begins in the target.
 *
 * glibc's open subdirectories by a system call of their own, relative to a descriptor, that no hook can reach. So
 * these walks are made here, of calls that are hooked, and behave as glibc's manual says of its own. They run outside
 * the guard: the program's callback does, after all. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "file.h"

/* glibc's, with its values; musl has no such flag. */
#ifndef FTW_ACTIONRETVAL
enum { FTW_ACTIONRETVAL = 16, FTW_SKIP_SUBTREE = 2, FTW_SKIP_SIBLINGS = 3 };
#endif

/* A directory that has been walked. */
struct walked {
    dev_t dev;
    ino_t ino;
};

struct walk {
    mirror_nftw_visit visit;
    int (*old_visit)(const char *, const struct stat *, int); /* of ftw, instead of `visit` */
    int flags;
    dev_t device; /* of the beginning, for FTW_MOUNT */
    void *walked; /* where links are followed: a tree (tsearch) of struct walked, each to be visited once only */
    char *path;   /* of the file that is being looked at, grown as needed */
    size_t room;
};

/* `parent`: with FTW_CHDIR, a descriptor of the directory that the file is in. */
static int tree_walk_directory(struct walk *walk, size_t length, const struct stat *status, int parent, int base,
                               int level);

/* Puts a name after the first `length` bytes of the path. */
static bool path_append(struct walk *walk, size_t length, const char *name) {
    size_t needed = length + strlen(name) + 2;
    if (needed > walk->room) {
        char *grown = realloc(walk->path, 2 * needed);
        if (!grown)
            return false;
        walk->path = grown;
        walk->room = 2 * needed;
    }
    if (length > 0 && walk->path[length - 1] != '/')
        walk->path[length++] = '/';
    strcpy(walk->path + length, name);
    return true;
}

static int visit(const struct walk *walk, const struct stat *status, int kind, int base, int level) {
    if (walk->visit) {
        struct FTW where = {.base = base, .level = level};
        return walk->visit(walk->path, status, kind, &where);
    }
    static const int old_kinds[] = {[FTW_F] = FTW_F,   [FTW_D] = FTW_D,  [FTW_DNR] = FTW_DNR, [FTW_NS] = FTW_NS,
                                    [FTW_SL] = FTW_NS, [FTW_DP] = FTW_D, [FTW_SLN] = FTW_NS};
    return walk->old_visit(walk->path, status, old_kinds[kind]);
}

/* By the name that holds in the working directory: with FTW_CHDIR that is the one the file is in. */
static const char *path_here(const struct walk *walk, int base) {
    return walk->flags & FTW_CHDIR ? walk->path + base : walk->path;
}

/* FTW_*; -1 with errno where the walk cannot go on. */
static int look(const struct walk *walk, const char *name, struct stat *status) {
    memset(status, 0, sizeof *status);
    if ((walk->flags & FTW_PHYS ? lstat(name, status) : stat(name, status)) == 0)
        return S_ISDIR(status->st_mode) ? FTW_D : S_ISLNK(status->st_mode) ? FTW_SL : FTW_F;
    if (errno != EACCES && errno != ENOENT)
        return -1;
    if (walk->flags & FTW_PHYS)
        return FTW_NS;
    return lstat(name, status) == 0 && S_ISLNK(status->st_mode) ? FTW_SLN : FTW_NS;
}

static int walked_compare(const void *one, const void *other) {
    const struct walked *a = one;
    const struct walked *b = other;
    if (a->ino != b->ino)
        return a->ino < b->ino ? -1 : 1;
    return a->dev == b->dev ? 0 : a->dev < b->dev ? -1 : 1;
}

/* 1 if the directory has not been walked yet, and remembers it; -1 if there is no memory. */
static int walk_once(struct walk *walk, const struct stat *status) {
    struct walked key = {.dev = status->st_dev, .ino = status->st_ino};
    if (tfind(&key, &walk->walked, walked_compare))
        return 0;
    struct walked *kept = malloc(sizeof *kept);
    if (!kept)
        return -1;
    *kept = key;
    if (tsearch(kept, &walk->walked, walked_compare))
        return 1;
    free(kept);
    return -1;
}

/* Visits the file that the path names. 0 to go on, else what the callback said, or -1. */
static int tree_walk_entry(struct walk *walk, size_t length, int parent, int base, int level) {
    struct stat status;
    int kind = look(walk, path_here(walk, base), &status);
    if (kind < 0)
        return -1;
    if ((walk->flags & FTW_MOUNT) && kind != FTW_NS && status.st_dev != walk->device)
        return 0;
    int result = 0;
    if (kind != FTW_D)
        result = visit(walk, &status, kind, base, level);
    else if ((walk->flags & FTW_PHYS) || (result = walk_once(walk, &status)) > 0)
        result = tree_walk_directory(walk, length, &status, parent, base, level);
    if ((walk->flags & FTW_ACTIONRETVAL) && result == FTW_SKIP_SUBTREE)
        return 0;
    return result;
}

static int tree_walk_entries(struct walk *walk, DIR *dir, size_t length, int level) {
    struct dirent *entry;
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (!path_append(walk, length, entry->d_name))
            return -1;
        size_t end = strlen(walk->path);
        int result = tree_walk_entry(walk, end, dirfd(dir), (int)(end - strlen(entry->d_name)), level);
        if (result != 0)
            return result;
    }
    return 0;
}

static int tree_walk_directory(struct walk *walk, size_t length, const struct stat *status, int parent, int base,
                               int level) {
    DIR *dir = opendir(path_here(walk, base));
    if (!dir)
        return errno == EACCES ? visit(walk, status, FTW_DNR, base, level) : -1;
    int result = walk->flags & FTW_DEPTH ? 0 : visit(walk, status, FTW_D, base, level);
    if (result == 0 && (walk->flags & FTW_CHDIR))
        result = fchdir(dirfd(dir));
    if (result == 0)
        result = tree_walk_entries(walk, dir, length, level + 1);
    int number = errno;
    closedir(dir);
    errno = number;
    walk->path[length] = '\0';
    if ((walk->flags & FTW_ACTIONRETVAL) && result == FTW_SKIP_SIBLINGS)
        result = 0;
    if (result == 0 && (walk->flags & FTW_DEPTH))
        result = visit(walk, status, FTW_DP, base, level); /* still in it, with FTW_CHDIR, as glibc does */
    if (result == 0 && (walk->flags & FTW_CHDIR))
        result = fchdir(parent);
    return result;
}

/* Into the directory that the beginning is in. */
static int enter_parent(const struct walk *walk, size_t base) {
    if (base == 0)
        return 0;
    char *parent = strndup(walk->path, base);
    if (!parent)
        return -1;
    int result = chdir(parent);
    free(parent);
    return result;
}

static int tree_walk_from(struct walk *walk, size_t length) {
    size_t base = length;
    while (base > 0 && walk->path[base - 1] != '/')
        base--;
    if (length == 1)
        base = 0; /* "/" */
    if ((walk->flags & FTW_CHDIR) && enter_parent(walk, base) != 0)
        return -1;
    struct stat status;
    int kind = look(walk, path_here(walk, (int)base), &status);
    if (kind < 0)
        return -1;
    if (kind == FTW_NS) {
        errno = ENOENT;
        return -1;
    }
    walk->device = status.st_dev;
    int parent = walk->flags & FTW_CHDIR ? open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if ((walk->flags & FTW_CHDIR) && parent < 0)
        return -1;
    int result = tree_walk_entry(walk, length, parent, (int)base, 0);
    int number = errno;
    if (parent >= 0)
        close(parent);
    errno = number;
    return (walk->flags & FTW_ACTIONRETVAL) && result == FTW_SKIP_SIBLINGS ? 0 : result;
}

static int tree_walk(const char *path, struct walk *walk) {
    if (!path_append(walk, 0, path))
        return -1;
    size_t length = strlen(walk->path);
    while (length > 1 && walk->path[length - 1] == '/')
        walk->path[--length] = '\0';
    int came_from = walk->flags & FTW_CHDIR ? open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    int result = (walk->flags & FTW_CHDIR) && came_from < 0 ? -1 : tree_walk_from(walk, length);
    int number = errno;
    if (came_from >= 0) {
        if (fchdir(came_from) != 0)
            result = -1;
        close(came_from);
    }
    free(walk->path);
    tdestroy(walk->walked, free);
    errno = number;
    return result;
}

/* --- hooks ------------------------------------------------------------------------------------------------ */

/* Whether the walk is ours to make. */
static bool begins_remote(int dirfd, const char *path) {
    struct guard guard;
    if (!guard_enter(&guard))
        return false;
    struct place place;
    bool remote = path_resolve(dirfd, path, ACCESS_READ, &place) != PATH_LOCAL;
    guard_leave(&guard);
    return remote;
}

int hooked_nftw(const char *path, mirror_nftw_visit visit, int descriptors, int flags) {
    const int known = FTW_PHYS | FTW_MOUNT | FTW_CHDIR | FTW_DEPTH | FTW_ACTIONRETVAL;
    if ((flags & ~known) || !begins_remote(AT_FDCWD, path))
        return real_nftw(path, visit, descriptors, flags);
    struct walk walk = {.visit = visit, .flags = flags};
    return tree_walk(path, &walk);
}

int hooked_ftw(const char *path, int (*visit)(const char *, const struct stat *, int), int descriptors) {
    if (!begins_remote(AT_FDCWD, path))
        return real_ftw(path, visit, descriptors);
    struct walk walk = {.old_visit = visit};
    return tree_walk(path, &walk);
}

struct names {
    struct dirent **entries;
    size_t count;
    size_t room;
};

static bool names_add(struct names *names, const struct dirent *entry) {
    if (names->count == names->room) {
        size_t room = names->room ? 2 * names->room : 16;
        struct dirent **grown = realloc(names->entries, room * sizeof *grown);
        if (!grown)
            return false;
        names->entries = grown;
        names->room = room;
    }
    struct dirent *copy = malloc(entry->d_reclen);
    if (!copy)
        return false;
    memcpy(copy, entry, entry->d_reclen);
    names->entries[names->count++] = copy;
    return true;
}

int hooked_scandirat(int dirfd, const char *path, struct dirent ***list, int (*filter)(const struct dirent *),
                     int (*compare)(const struct dirent **, const struct dirent **)) {
    if (!begins_remote(dirfd, path))
        return real_scandirat(dirfd, path, list, filter, compare);
    int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    struct names names = {0};
    bool complete = true;
    struct dirent *entry;
    while (complete && (entry = readdir(dir)))
        complete = (filter && !filter(entry)) || names_add(&names, entry);
    closedir(dir);
    if (!complete) {
        while (names.count > 0)
            free(names.entries[--names.count]);
        free(names.entries);
        errno = ENOMEM;
        return -1;
    }
    if (compare && names.count > 0)
        qsort(names.entries, names.count, sizeof *names.entries, (int (*)(const void *, const void *))compare);
    *list = names.entries;
    return (int)names.count;
}
