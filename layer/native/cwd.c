/* The working directory, as the program sees it.
 *
 * Relative paths are decided like absolute ones, so the working directory must be known at the price of a copy. It is
 * asked of the kernel once and kept until chdir or fchdir. A directory of the target is entered by fchdir to the
 * proxy's placeholder for it; the kernel then knows no path for it, but its numbers say what it stands for, also after
 * exec, where nothing but the kernel's own working directory is left. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "file.h"
#include "identity.h"
#include "paths.h"

/* A copy of the answer, under a sequence number that is odd while it is being written. */
static struct {
    atomic_uint sequence;
    atomic_uint generation; /* of the working directory; the copy is of `known` */
    unsigned known;
    bool remote;
    size_t length;
    char path[PATH_MAX];
} cache;

/* The process whose working directory the cache is about, on a page that the kernel clears in forked children. A child
 * made by vfork shares our memory but not our working directory: there the page is full and names another process. */
static _Atomic int32_t *owner;
/* Set once any such child has changed its directory: before that, whoever runs here is in the owner's. */
static atomic_bool may_be_foreign;

void cwd_started(void) {
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return;
    if (raw_syscall(SYS_madvise, page, 4096, MADV_WIPEONFORK) == 0) {
        owner = page;
        *owner = (int32_t)raw_syscall(SYS_getpid);
    }
}

/* Whether the calling process is the one whose directory is cached. Adopts the cache in a forked child. */
static bool is_owner(bool thorough) {
    if (!owner)
        return false;
    int32_t pid = *owner;
    if (pid == 0) { /* forked: another thread of the parent may have been in the middle of writing */
        atomic_store(&cache.sequence, 0);
        atomic_fetch_add(&cache.generation, 1);
        atomic_store(&may_be_foreign, false);
        *owner = (int32_t)raw_syscall(SYS_getpid);
        return true;
    }
    if (!thorough && !atomic_load_explicit(&may_be_foreign, memory_order_relaxed))
        return true;
    return pid == (int32_t)raw_syscall(SYS_getpid);
}

void cwd_forget(void) {
    if (is_owner(true))
        atomic_fetch_add(&cache.generation, 1);
    else
        atomic_store(&may_be_foreign, true);
}

static bool cache_read(struct base *base, unsigned generation) {
    unsigned before = atomic_load_explicit(&cache.sequence, memory_order_acquire);
    if (before % 2 || before == 0 || cache.known != generation)
        return false;
    size_t length = cache.length;
    if (length >= PATH_MAX)
        return false;
    base->remote = cache.remote;
    base->length = length;
    memcpy(base->path, cache.path, length);
    base->path[length] = '\0';
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&cache.sequence, memory_order_relaxed) == before;
}

static void cache_write(const struct base *base, unsigned generation) {
    unsigned before = atomic_load_explicit(&cache.sequence, memory_order_relaxed);
    if (before % 2 || !atomic_compare_exchange_strong(&cache.sequence, &before, before + 1))
        return;
    atomic_thread_fence(memory_order_release);
    cache.known = generation;
    cache.remote = base->remote;
    cache.length = base->length;
    memcpy(cache.path, base->path, base->length);
    atomic_store_explicit(&cache.sequence, before + 2, memory_order_release);
}

OWN_FRAME static bool cwd_identify(struct base *base) {
    struct identity identity;
    if (!identity_of(AT_FDCWD, &identity))
        return false; /* a directory of this machine that has been removed */
    base->remote = true;
    base->length = identity.length;
    memcpy(base->path, identity.path, identity.length + 1);
    return true;
}

/* Asks the kernel, and the proxy where the kernel knows no path. */
static bool cwd_ask(struct base *base) {
    int64_t size = raw_syscall(SYS_getcwd, base->path, PATH_MAX);
    if (size > 0 && base->path[0] == '/') {
        base->remote = false;
        base->length = (size_t)size - 1;
        return true;
    }
    /* Else "(unreachable)", or too long: relative paths are the kernel's affair. */
    return size == -ENOENT && cwd_identify(base);
}

bool cwd_read(struct base *base) {
    bool cached = is_owner(false);
    unsigned generation = atomic_load(&cache.generation);
    if (cached && cache_read(base, generation))
        return true;
    if (!cwd_ask(base))
        return false;
    if (cached)
        cache_write(base, generation);
    return true;
}

/* --- chdir, fchdir ---------------------------------------------------------------------------------------- */

/* Search permission, not read permission, is what chdir needs: `/.` makes the target's kernel check it. */
static int64_t chdir_remote(struct place *place) {
    if (place->length + 3 > sizeof place->buffer)
        return -ENAMETOOLONG;
    if (place->path != place->buffer)
        memcpy(place->buffer, place->path, place->length);
    memcpy(place->buffer + place->length, "/.", 3);
    place->path = place->buffer;
    place->length += 2;
    int64_t fd = file_open_remote(place, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    int64_t result = raw_syscall(SYS_fchdir, fd);
    raw_syscall(SYS_close, fd);
    return result;
}

int64_t file_chdir(const char *path) {
    struct place place;
    int resolved = path_resolve(AT_FDCWD, path, ACCESS_READ, &place);
    if (resolved < 0)
        return resolved;
    int64_t result;
    if (resolved == PATH_REMOTE)
        result = chdir_remote(&place);
    else
        result = raw_syscall(SYS_chdir, resolved == PATH_MOVED ? place.path : path);
    if (result >= 0)
        cwd_forget();
    return result;
}

int64_t file_fchdir(int fd) {
    int64_t result = raw_syscall(SYS_fchdir, fd);
    if (result >= 0)
        cwd_forget();
    return result;
}

int hooked_chdir(const char *path) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_chdir(path);
    return (int)hook_result(&guard, file_chdir(path));
}

int hooked_fchdir(int fd) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_fchdir(fd);
    return (int)hook_result(&guard, file_fchdir(fd));
}

/* --- getcwd ----------------------------------------------------------------------------------------------- */

/* BYPASS unless the directory is the target's: then its length with the NUL, as the system call says. */
int64_t file_getcwd(char *buffer, size_t size) {
    char path[PATH_MAX];
    struct base base = {.path = path};
    if (!cwd_read(&base) || !base.remote)
        return BYPASS;
    if (base.length + 1 > size)
        return -ERANGE;
    memcpy(buffer, base.path, base.length + 1);
    return (int64_t)base.length + 1;
}

/* getcwd(3), where getwd and get_current_dir_name end too: a null buffer is allocated, of `size` bytes or of the path's own length. */
static int64_t getcwd_allocated(char **buffer, size_t size) {
    char path[PATH_MAX];
    struct base base = {.path = path};
    if (!cwd_read(&base) || !base.remote)
        return BYPASS;
    if (size == 0 && *buffer)
        return -EINVAL;
    if (size != 0 && base.length + 1 > size)
        return -ERANGE;
    if (!*buffer)
        *buffer = malloc(size ? size : base.length + 1);
    if (!*buffer)
        return -ENOMEM;
    memcpy(*buffer, base.path, base.length + 1);
    return 0;
}

char *hooked_getcwd(char *buffer, size_t size) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_getcwd(buffer, size);
    int64_t result = getcwd_allocated(&buffer, size);
    if (result == BYPASS) {
        guard_leave(&guard);
        return real_getcwd(buffer, size);
    }
    return hook_result(&guard, result) < 0 ? NULL : buffer;
}
