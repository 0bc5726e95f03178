/* What the files of the file family share: the logic behind the hooks, callable from more than one door (a libc
 * function, its older variants, syscall(2)). Each returns a result, -errno, or BYPASS, and runs inside the guard. */
#ifndef MIRROR_FILE_H
#define MIRROR_FILE_H

#include <sys/stat.h>
#include <sys/statfs.h>

#include "identity.h"
#include "layer.h"
#include "paths.h"

struct statx;

/* file_request.c: one question to the target each; 0 or more, or -errno. */
int64_t request_open(const struct place *place, int flags, unsigned mode, struct identity *opened);
int64_t request_stat(const struct place *place, bool follow, struct target_stat *stat);
int64_t request_access(const struct place *place, int mode, int flags);
/* The link's content or the resolved path in `out`, not terminated; its length, cut to `size`. */
int64_t request_link(const struct place *place, char *out, size_t size);
int64_t request_resolved(const struct place *place, char *out, size_t size);
int64_t request_statfs(const struct place *place, struct statfs *out);

/* Makes an identity's path a place to ask about. */
void place_of(const struct identity *identity, struct place *place);

/* file_open.c. `flags` and `mode` as open(2). */
int64_t file_open(int dirfd, const char *path, int flags, unsigned mode);
/* A descriptor for what is in the target, with the flags that were asked for. */
int64_t file_open_remote(const struct place *place, int flags, unsigned mode);

/* file_stat.c. These never bypass what begins in a directory or descriptor of ours. */
int64_t file_stat(int dirfd, const char *path, int flags, struct stat *out);
int64_t file_statx(int dirfd, const char *path, int flags, unsigned mask, struct statx *out);

/* file_access.c, file_link.c, file_system.c */
int64_t file_access(int dirfd, const char *path, int mode, int flags);
int64_t file_readlink(int dirfd, const char *path, char *out, size_t size);
int64_t file_statfs(const char *path, struct statfs *out);
int64_t file_fstatfs(int fd, struct statfs *out);

/* cwd.c */
void cwd_started(void);
int64_t file_chdir(const char *path);
int64_t file_fchdir(int fd);
int64_t file_getcwd(char *buffer, size_t size);

/* directory.c */
int64_t directory_getdents(int fd, void *buffer, size_t size);

#endif
