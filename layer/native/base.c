/* Where a path relative to a descriptor begins.
 *
 * A directory of this machine is known by the link in /proc, whose reading costs ten times an fstat; so the answers are
 * kept, by number of the descriptor, and hold as long as fstat says that it is the same directory. Like the table in
 * `identity.c`, this one is written and read without locks. */
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>

#include "identity.h"
#include "paths.h"

enum { ENTRIES = 64, ENTRY_PATH_BYTES = 256 };

struct entry {
    atomic_uint sequence; /* odd while the entry is being written */
    int fd;
    uint64_t dev;
    uint64_t ino;
    size_t length;
    char path[ENTRY_PATH_BYTES];
};

static struct entry entries[ENTRIES];

static bool entry_read(int fd, const struct stat *local, struct base *base) {
    struct entry *entry = &entries[fd % ENTRIES];
    unsigned before = atomic_load_explicit(&entry->sequence, memory_order_acquire);
    size_t length = entry->length;
    if (before % 2 || length == 0 || length >= ENTRY_PATH_BYTES || entry->fd != fd || entry->dev != local->st_dev ||
        entry->ino != local->st_ino)
        return false;
    base->length = length;
    memcpy(base->path, entry->path, length);
    base->path[length] = '\0';
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&entry->sequence, memory_order_relaxed) == before;
}

static void entry_write(int fd, const struct stat *local, const struct base *base) {
    struct entry *entry = &entries[fd % ENTRIES];
    unsigned before = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    if (base->length >= ENTRY_PATH_BYTES || before % 2 ||
        !atomic_compare_exchange_strong(&entry->sequence, &before, before + 1))
        return;
    atomic_thread_fence(memory_order_release);
    entry->fd = fd;
    entry->dev = local->st_dev;
    entry->ino = local->st_ino;
    entry->length = base->length;
    memcpy(entry->path, base->path, base->length);
    atomic_store_explicit(&entry->sequence, before + 2, memory_order_release);
}

/* "/proc/self/fd/" and the number. */
static void link_name(int fd, char name[32]) {
    static const char prefix[] = "/proc/self/fd/";
    char digits[12];
    size_t count = 0;
    for (unsigned rest = (unsigned)fd; rest > 0 || count == 0; rest /= 10)
        digits[count++] = (char)('0' + rest % 10);
    memcpy(name, prefix, sizeof prefix - 1);
    char *out = name + sizeof prefix - 1;
    while (count > 0)
        *out++ = digits[--count];
    *out = '\0';
}

static bool local_base(int fd, const struct stat *local, struct base *base) {
    base->remote = false;
    if (entry_read(fd, local, base))
        return true;
    char name[32];
    link_name(fd, name);
    int64_t length = raw_syscall(SYS_readlinkat, AT_FDCWD, name, base->path, PATH_MAX - 1);
    if (length <= 0 || base->path[0] != '/')
        return false;
    base->length = (size_t)length;
    base->path[length] = '\0';
    entry_write(fd, local, base);
    return true;
}

OWN_FRAME static bool remote_base(int fd, const struct stat *local, struct base *base) {
    struct identity identity;
    if (!identity_find(local, fd, &identity))
        return false;
    base->remote = true;
    base->length = identity.length;
    memcpy(base->path, identity.path, identity.length + 1);
    return true;
}

bool base_of(int dirfd, struct base *base) {
    if (dirfd == AT_FDCWD)
        return cwd_read(base);
    struct stat local;
    if (dirfd < 0 || raw_syscall(SYS_fstat, dirfd, &local) != 0 || !S_ISDIR(local.st_mode))
        return false;
    if (identity_is_likely(&local) && remote_base(dirfd, &local, base))
        return true;
    return local_base(dirfd, &local, base);
}
