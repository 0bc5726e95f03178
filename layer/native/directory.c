/* Directory streams and getdents64.
 *
 * A stream of a directory of the target is libc's own, made of the proxy's placeholder, so that dirfd and closedir are
 * right by themselves; what readdir says comes from a listing that is kept beside it, found by the stream's address.
 * scandir, glob, ftw, nftw and fts call these functions. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"
#include "listing.h"

/* Lies at the beginning of its listing's mapping. */
struct stream {
    struct listing listing;
    uint64_t dev;
    uint64_t ino;
    size_t offset;
};

/* Open streams by address. A slot is searched for within a window after its hash, so that removal leaves no gap to
 * mind; there are no locks, since a stream is opened and closed while no other thread may use it. */
enum { SLOTS = 4096, WINDOW = 64 };
#define CLAIMED ((DIR *)1)
static _Atomic(DIR *) keys[SLOTS];
static struct stream *values[SLOTS];
static atomic_uint stream_count;

static unsigned slot_of(DIR *dir, unsigned step) {
    return (unsigned)((((uintptr_t)dir >> 4) * 0x9e3779b97f4a7c15U >> 40) + step) % SLOTS;
}

static int stream_slot(DIR *dir) {
    if (!dir || atomic_load_explicit(&stream_count, memory_order_relaxed) == 0)
        return -1;
    for (unsigned step = 0; step < WINDOW; step++) {
        unsigned slot = slot_of(dir, step);
        if (atomic_load_explicit(&keys[slot], memory_order_acquire) == dir)
            return (int)slot;
    }
    return -1;
}

static struct stream *stream_find(DIR *dir) {
    int slot = stream_slot(dir);
    return slot < 0 ? NULL : values[slot];
}

static bool stream_add(DIR *dir, struct stream *stream) {
    for (unsigned step = 0; step < WINDOW; step++) {
        unsigned slot = slot_of(dir, step);
        DIR *expected = NULL;
        if (atomic_compare_exchange_strong(&keys[slot], &expected, CLAIMED)) {
            values[slot] = stream;
            atomic_store_explicit(&keys[slot], dir, memory_order_release);
            atomic_fetch_add(&stream_count, 1);
            return true;
        }
    }
    return false;
}

static struct stream *stream_take(DIR *dir) {
    int slot = stream_slot(dir);
    if (slot < 0)
        return NULL;
    struct stream *stream = values[slot];
    atomic_store_explicit(&keys[slot], NULL, memory_order_release);
    atomic_fetch_sub(&stream_count, 1);
    return stream;
}

static void stream_free(struct stream *stream) {
    struct listing listing = stream->listing; /* it is in what is freed */
    listing_free(&listing);
}

static int64_t stream_fetch(uint64_t dev, uint64_t ino, struct stream **stream) {
    struct listing listing;
    int64_t result = listing_fetch(dev, ino, sizeof(struct stream), &listing);
    if (result < 0)
        return result;
    *stream = listing.mapping;
    (*stream)->listing = listing;
    (*stream)->dev = dev;
    (*stream)->ino = ino;
    return 0;
}

/* --- opening ---------------------------------------------------------------------------------------------- */

/* Makes a stream of a placeholder's descriptor. The descriptor is the caller's still if that fails. */
static int64_t stream_open(int fd, const struct stat *local, DIR **dir) {
    struct stream *stream;
    int64_t result = stream_fetch(local->st_dev, local->st_ino, &stream);
    if (result < 0)
        return result;
    *dir = real_fdopendir(fd);
    if (!*dir) {
        result = -errno;
    } else if (!stream_add(*dir, stream)) {
        /* Thousands are open. The stream would be the placeholder's, and empty. */
        *dir = NULL;
        result = -EMFILE;
    }
    if (result < 0)
        stream_free(stream);
    return result;
}

OWN_FRAME static int64_t directory_open(const char *path, DIR **dir) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_READ, &place);
    if (resolved == PATH_MOVED) {
        *dir = real_opendir(place.path);
        return *dir ? 0 : -errno;
    }
    if (resolved != PATH_REMOTE)
        return resolved == PATH_LOCAL ? BYPASS : resolved;
    int64_t fd = file_open_remote(&place, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    struct stat local;
    int64_t result = raw_syscall(SYS_fstat, fd, &local);
    if (result == 0)
        result = stream_open((int)fd, &local, dir);
    if (result < 0)
        raw_syscall(SYS_close, fd);
    return result;
}

static int64_t directory_fdopen(int fd, DIR **dir) {
    struct stat local;
    if (raw_syscall(SYS_fstat, fd, &local) != 0 || !S_ISDIR(local.st_mode) || !identity_find(&local, fd, NULL))
        return BYPASS;
    return stream_open(fd, &local, dir);
}

DIR *hooked_opendir(const char *path) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_opendir(path);
    DIR *dir = NULL;
    int64_t result = directory_open(path, &dir);
    if (result == BYPASS) {
        guard_leave(&guard);
        return real_opendir(path);
    }
    return hook_result(&guard, result) < 0 ? NULL : dir;
}

DIR *hooked_fdopendir(int fd) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_fdopendir(fd);
    DIR *dir = NULL;
    int64_t result = directory_fdopen(fd, &dir);
    if (result == BYPASS) {
        guard_leave(&guard);
        return real_fdopendir(fd);
    }
    return hook_result(&guard, result) < 0 ? NULL : dir;
}

int hooked_closedir(DIR *dir) {
    struct stream *stream = stream_take(dir);
    if (stream)
        stream_free(stream);
    return real_closedir(dir);
}

/* --- reading ---------------------------------------------------------------------------------------------- */

static struct dirent *stream_next(struct stream *stream) {
    if (stream->offset >= stream->listing.size)
        return NULL;
    struct dirent *entry = (struct dirent *)(void *)(stream->listing.records + stream->offset);
    stream->offset += entry->d_reclen;
    return entry;
}

struct dirent *hooked_readdir(DIR *dir) {
    struct stream *stream = stream_find(dir);
    return stream ? stream_next(stream) : real_readdir(dir);
}

int hooked_readdir_r(DIR *dir, struct dirent *entry, struct dirent **result) {
    struct stream *stream = stream_find(dir);
    if (!stream)
        return real_readdir_r(dir, entry, result);
    struct dirent *next = stream_next(stream);
    if (next)
        memcpy(entry, next, next->d_reclen);
    *result = next ? entry : NULL;
    return 0;
}

long hooked_telldir(DIR *dir) {
    struct stream *stream = stream_find(dir);
    return stream ? (long)stream->offset : real_telldir(dir);
}

/* Only what telldir gave is a position; anything else is undefined, and ends the stream here. */
void hooked_seekdir(DIR *dir, long position) {
    struct stream *stream = stream_find(dir);
    if (!stream) {
        real_seekdir(dir, position);
        return;
    }
    size_t offset = 0;
    while (offset < stream->listing.size && offset < (size_t)position) {
        const struct dirent *entry = (const struct dirent *)(const void *)(stream->listing.records + offset);
        offset += entry->d_reclen;
    }
    stream->offset = offset;
}

/* POSIX: the stream shows the directory as a new opendir would. */
void hooked_rewinddir(DIR *dir) {
    int slot = stream_slot(dir);
    if (slot < 0) {
        real_rewinddir(dir);
        return;
    }
    struct stream *old = values[slot];
    old->offset = 0;
    struct guard guard;
    if (!guard_enter(&guard))
        return;
    struct stream *fresh;
    if (stream_fetch(old->dev, old->ino, &fresh) == 0) {
        values[slot] = fresh;
        stream_free(old);
    }
    guard_leave(&guard);
}

/* --- getdents64 ------------------------------------------------------------------------------------------- */

/* The position is the placeholder's own, so that it is shared by duplicates of the descriptor and reset by lseek. It
 * counts entries. */
static int64_t getdents_copy(const struct listing *listing, int fd, uint8_t *buffer, size_t size) {
    int64_t position = raw_syscall(SYS_lseek, fd, 0, SEEK_CUR);
    if (position < 0)
        return position;
    int64_t index = 0;
    size_t used = 0;
    bool full = false;
    for (size_t offset = 0; offset < listing->size && !full; index++) {
        const struct dirent *record = (const struct dirent *)(const void *)(listing->records + offset);
        offset += record->d_reclen;
        if (index < position)
            continue;
        full = used + record->d_reclen > size;
        if (full)
            continue;
        memcpy(buffer + used, record, record->d_reclen);
        int64_t next = index + 1;
        memcpy(buffer + used + offsetof(struct dirent, d_off), &next, sizeof next);
        used += record->d_reclen;
        position = next;
    }
    if (full && used == 0)
        return -EINVAL; /* not even one fits */
    int64_t moved = raw_syscall(SYS_lseek, fd, position, SEEK_SET);
    return moved < 0 ? moved : (int64_t)used;
}

int64_t directory_getdents(int fd, void *buffer, size_t size) {
    struct stat local;
    if (raw_syscall(SYS_fstat, fd, &local) != 0 || !S_ISDIR(local.st_mode) || !identity_find(&local, fd, NULL))
        return BYPASS;
    struct listing listing;
    int64_t result = listing_fetch(local.st_dev, local.st_ino, 0, &listing);
    if (result < 0)
        return result;
    result = getdents_copy(&listing, fd, buffer, size);
    listing_free(&listing);
    return result;
}

ssize_t hooked_getdents64(int fd, void *buffer, size_t size) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_getdents64(fd, buffer, size);
    int64_t result = directory_getdents(fd, buffer, size);
    if (result != BYPASS)
        return (ssize_t)hook_result(&guard, result);
    guard_leave(&guard);
    return real_getdents64(fd, buffer, size);
}
