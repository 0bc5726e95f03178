/* Which descriptors and directories are the target's. Everything that the proxy gives out is an object of this
 * machine's kernel with numbers (st_dev, st_ino) of its own, and those say what it stands for: they survive dup, fork,
 * exec, reopening and passing to another process, where a table by descriptor number would go wrong. */
#ifndef MIRROR_IDENTITY_H
#define MIRROR_IDENTITY_H

#include <limits.h>
#include <sys/stat.h>

#include "layer.h"

/* `Stat` of messages.py. */
struct target_stat {
    uint64_t dev;
    uint64_t ino;
    uint32_t mode;
    uint32_t uid;
    uint32_t gid;
    bool has_btime;
    uint64_t nlink;
    uint64_t rdev;
    uint64_t size;
    uint64_t blksize;
    uint64_t blocks;
    int64_t atime_ns;
    int64_t mtime_ns;
    int64_t ctime_ns;
    int64_t btime_ns;
    uint64_t attributes;
    uint64_t attributes_mask;
    uint64_t mnt_id;
};

/* What an object of ours stands for. `path` is absolute in the target, ends with NUL. */
struct identity {
    struct target_stat stat;
    size_t length;
    char path[PATH_MAX];
};

/* Cheap test of what fstat or stat said: can this be an object of ours? False for nearly everything. */
bool identity_is_likely(const struct stat *local);
/* What the object with these numbers stands for, from the process's table or from the proxy. `fd` is a descriptor
 * of it, or -1. False: not ours. `wanted` may be NULL to learn only that. */
bool identity_find(const struct stat *local, int fd, struct identity *wanted);
/* Both at once for a descriptor (AT_FDCWD: the working directory). One fstat if it is not ours. */
bool identity_of(int fd, struct identity *wanted);
/* Remembers what the proxy has just said of a descriptor. */
void identity_remember(int fd, const struct identity *identity);

/* Learns the device of this kernel's memfds. */
void identity_started(void);

/* Reads a Stat. False if it is not one. */
bool target_stat_read(struct wire_reader *in, struct target_stat *stat);
void target_stat_to_stat(const struct target_stat *from, struct stat *to);
/* `mask` is the caller's STATX_* wish. */
struct statx;
void target_stat_to_statx(const struct target_stat *from, unsigned mask, struct statx *to);

#endif
