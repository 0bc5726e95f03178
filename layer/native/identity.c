/* The process's table of objects of ours, by (st_dev, st_ino), and the question to the proxy where it does not know.
 *
 * The table is a cache of fixed size: entries are overwritten, never freed, and read and written without locks (a
 * sequence number that is odd while an entry is being written), so that a signal handler that leaves by siglongjmp, or a
 * fork in another thread's middle, costs at most an entry. */
#include "identity.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

enum { ENTRIES = 1024, ENTRY_PATH_BYTES = 256 };

struct entry {
    atomic_uint sequence;
    uint64_t dev;
    uint64_t ino;
    struct target_stat stat;
    size_t length;
    char path[ENTRY_PATH_BYTES];
};

static struct entry entries[ENTRIES];
static uint64_t memfd_dev;

void identity_started(void) {
    int64_t fd = raw_syscall(SYS_memfd_create, "mirror", MFD_CLOEXEC);
    if (fd < 0)
        return;
    struct stat local;
    if (raw_syscall(SYS_fstat, fd, &local) == 0)
        memfd_dev = local.st_dev;
    raw_syscall(SYS_close, fd);
}

/* Ours have no name: a file is a memfd, a directory is a removed one. */
bool identity_is_likely(const struct stat *local) {
    return local->st_nlink == 0 && (S_ISDIR(local->st_mode) || (local->st_dev == memfd_dev && S_ISREG(local->st_mode)));
}

static struct entry *entry_of(uint64_t dev, uint64_t ino) {
    return &entries[(ino ^ (ino >> 10) ^ dev) % ENTRIES];
}

static bool table_find(uint64_t dev, uint64_t ino, struct identity *wanted) {
    struct entry *entry = entry_of(dev, ino);
    unsigned before = atomic_load_explicit(&entry->sequence, memory_order_acquire);
    if (before % 2 || entry->dev != dev || entry->ino != ino || entry->length == 0)
        return false;
    size_t length = entry->length;
    if (length >= ENTRY_PATH_BYTES)
        return false;
    if (wanted) {
        wanted->stat = entry->stat;
        wanted->length = length;
        memcpy(wanted->path, entry->path, length);
        wanted->path[length] = '\0';
    }
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&entry->sequence, memory_order_relaxed) == before;
}

static void table_put(uint64_t dev, uint64_t ino, const struct identity *identity) {
    if (identity->length >= ENTRY_PATH_BYTES)
        return;
    struct entry *entry = entry_of(dev, ino);
    unsigned before = atomic_load_explicit(&entry->sequence, memory_order_relaxed);
    if (before % 2 || !atomic_compare_exchange_strong(&entry->sequence, &before, before + 1))
        return; /* another thread is writing here: let it */
    atomic_thread_fence(memory_order_release);
    entry->dev = dev;
    entry->ino = ino;
    entry->stat = identity->stat;
    entry->length = identity->length;
    memcpy(entry->path, identity->path, identity->length);
    atomic_store_explicit(&entry->sequence, before + 2, memory_order_release);
}

void identity_remember(int fd, const struct identity *identity) {
    struct stat local;
    if (raw_syscall(SYS_fstat, fd, &local) == 0)
        table_put(local.st_dev, local.st_ino, identity);
}

static bool proxy_identify(uint64_t dev, uint64_t ino, struct identity *identity) {
    struct call call;
    if (call_begin(&call, "IdentifyDescriptor", 2) != 0)
        return false;
    wire_put_uint(&call.out, dev);
    wire_put_uint(&call.out, ino);
    bool found = false;
    if (call_send(&call) == 0) {
        size_t length = 0;
        const uint8_t *path = wire_get_bytes(&call.in, &length);
        found = path && length < PATH_MAX && target_stat_read(&call.in, &identity->stat);
        if (found) {
            memcpy(identity->path, path, length);
            identity->path[length] = '\0';
            identity->length = length;
        }
    }
    call_end(&call);
    return found;
}

/* The proxy seals what it gives out in every way; other memfds seldom are. */
static bool is_sealed(int fd) {
    const int64_t all = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    int64_t seals = raw_syscall(SYS_fcntl, fd, F_GET_SEALS, 0);
    return seals < 0 || (seals & all) == all; /* a descriptor made with O_PATH cannot tell */
}

static bool identity_ask(const struct stat *local, struct identity *wanted) {
    if (!proxy_identify(local->st_dev, local->st_ino, wanted))
        return false;
    table_put(local->st_dev, local->st_ino, wanted);
    return true;
}

OWN_FRAME static bool identity_learn(const struct stat *local) {
    struct identity found;
    return identity_ask(local, &found);
}

bool identity_find(const struct stat *local, int fd, struct identity *wanted) {
    if (!identity_is_likely(local))
        return false;
    if (table_find(local->st_dev, local->st_ino, wanted))
        return true;
    if (S_ISREG(local->st_mode) && fd >= 0 && !is_sealed(fd))
        return false;
    return wanted ? identity_ask(local, wanted) : identity_learn(local);
}

bool identity_of(int fd, struct identity *wanted) {
    struct stat local;
    int64_t failed =
        fd == AT_FDCWD ? raw_syscall(SYS_newfstatat, AT_FDCWD, ".", &local, 0) : raw_syscall(SYS_fstat, fd, &local);
    return failed == 0 && identity_find(&local, fd == AT_FDCWD ? -1 : fd, wanted);
}
