/* Programs that this process execs: they get the layer and the session's variables in their environment, whatever
 * environment the program gives them, or the user is told that they run without mirror.
 *
 * The hooks run between vfork and exec too: on the parent's memory and on a stack that may have a few KiB. So nothing is
 * allocated but by mmap, no lock is taken, and nothing is asked of the proxy. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core.h"
#include "executable.h"

/* Kept for the life of the process: the program may overwrite its own environment. */
static char preload[4096];
static char socket_variable[1024] = "MIRROR_SOCKET=";
static char lifeline_variable[64] = "MIRROR_LIFELINE=";
static const char preload_name[] = "LD_PRELOAD=";

static bool append(char *text, size_t size, const char *more) {
    size_t length = strlen(text);
    if (length + strlen(more) >= size)
        return false;
    strcpy(text + length, more);
    return true;
}

bool process_start(const char *library, const char *addresses, const char *lifeline) {
    preload[0] = '\0';
    return append(preload, sizeof preload, library) && append(socket_variable, sizeof socket_variable, addresses) &&
           append(lifeline_variable, sizeof lifeline_variable, lifeline);
}

/* --- memory for an exec ------------------------------------------------------------------------------------------- */

/* A vfork child that succeeds in exec leaves its mapping in its parent, so mappings are kept and used again. A thread
 * that vforks waits for its child, and both have the same thread-local storage: an address in it is the owner's name. */
#define ARENAS     64
#define ARENA_STEP 0x10000 /* pages that are not touched cost nothing */
static struct arena {
    _Atomic(char *) owner;
    char *memory;
    size_t size_bytes;
} arenas[ARENAS];
static _Thread_local char myself;

static bool arena_claim(struct arena *arena) {
    char *nobody = NULL;
    return arena->owner == &myself ||
           (arena->owner == NULL && atomic_compare_exchange_strong(&arena->owner, &nobody, &myself));
}

static char *map(size_t size_bytes) {
    int64_t memory =
        raw_syscall(SYS_mmap, NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory < 0 && memory > -4096 ? NULL : (char *)memory;
}

/* Null: no memory. With more threads in exec at once than there are arenas, some memory is not used again. */
static char *arena_take(size_t size_bytes) {
    size_t rounded = (size_bytes + ARENA_STEP - 1) / ARENA_STEP * ARENA_STEP;
    for (int i = 0; i < ARENAS; i++) {
        struct arena *arena = &arenas[i];
        if (!arena_claim(arena))
            continue;
        if (arena->size_bytes < size_bytes) {
            if (arena->memory != NULL)
                raw_syscall(SYS_munmap, arena->memory, arena->size_bytes);
            arena->memory = map(rounded);
            arena->size_bytes = arena->memory == NULL ? 0 : rounded;
        }
        return arena->memory;
    }
    return map(rounded);
}

/* After an exec that failed. */
static void arena_give_back(void) {
    for (int i = 0; i < ARENAS; i++)
        if (arenas[i].owner == &myself)
            arenas[i].owner = NULL;
}

/* --- the environment of the next program -------------------------------------------------------------------------- */

static bool has_name(const char *variable, const char *name_and_sign) {
    return strncmp(variable, name_and_sign, strlen(name_and_sign)) == 0;
}

static bool is_replaced(const char *variable) {
    return has_name(variable, preload_name) || has_name(variable, "MIRROR_SOCKET=") ||
           has_name(variable, "MIRROR_LIFELINE=");
}

static char *copy(char *to, const char *text) {
    size_t length = strlen(text);
    memcpy(to, text, length + 1);
    return to + length;
}

/* "LD_PRELOAD=ours:theirs"; theirs may have ours in it already, from a program that hands its whole block on. */
static void put_preload(char *text, const char *theirs) {
    text = copy(copy(text, preload_name), preload);
    size_t length = strlen(preload);
    if (strncmp(theirs, preload, length) == 0 && strchr(": ", theirs[length]) != NULL)
        theirs += length + (theirs[length] != '\0');
    if (*theirs != '\0')
        copy(copy(text, ":"), theirs);
}

struct launch {
    char **envp;
    char *buffer; /* for executable_inspect */
};

/* `preloads`: whether the program can load the layer; else it gets the program's own LD_PRELOAD as it is. */
static void fill(const struct launch *launch, char *text, char *const envp[], bool preloads) {
    char **next = launch->envp;
    const char *theirs = "";
    for (size_t i = 0; envp != NULL && envp[i] != NULL; i++) {
        if (has_name(envp[i], preload_name))
            theirs = envp[i] + sizeof preload_name - 1;
        if (!is_replaced(envp[i]) || (!preloads && has_name(envp[i], preload_name)))
            *next++ = envp[i];
    }
    if (preloads) {
        *next++ = text;
        put_preload(text, theirs);
    }
    *next++ = socket_variable;
    *next++ = lifeline_variable;
    *next = NULL;
}

/* "mirror: /bin/x is statically linked, so it runs ..."; made in the buffer, which is not needed any more. */
static void warn(const struct launch *launch, const char *path, const char *reason) {
    if (reason == NULL)
        return;
    char *text = launch->buffer;
    if (path[0] == '\0' || strlen(path) > EXECUTABLE_PATH_BYTES)
        path = "a program";
    copy(copy(copy(text, path), reason), ": it runs without mirror, with the files and the network of this machine");
    layer_tell(launch->buffer);
}

/* -ENOMEM, or 0. */
static int prepare(struct launch *launch, int dirfd, const char *path, int flags, char *const envp[]) {
    size_t count = 0;
    size_t theirs = 0;
    for (; envp != NULL && envp[count] != NULL; count++)
        if (has_name(envp[count], preload_name))
            theirs = strlen(envp[count]);
    size_t pointers = (count + 4) * sizeof(char *);
    size_t text = sizeof preload_name + sizeof preload + theirs + 8;
    char *memory = arena_take(pointers + text + EXECUTABLE_BUFFER_BYTES + EXECUTABLE_PATH_BYTES);
    if (memory == NULL)
        return -ENOMEM;
    launch->envp = (char **)(void *)memory;
    launch->buffer = memory + pointers + text;
    enum following following = executable_inspect(dirfd, path, flags, launch->buffer);
    fill(launch, memory + pointers, envp, following != NOT_64_BIT && following != OTHER_LIBC);
    warn(launch, path, executable_reason(following));
    return 0;
}

static int fail(int error) {
    errno = error;
    return -1;
}

/* --- hooks -------------------------------------------------------------------------------------------------------- */

int hooked_execve(const char *path, char *const argv[], char *const envp[]) {
    struct launch launch;
    if (!session.active || path == NULL)
        return real_execve(path, argv, envp);
    if (prepare(&launch, AT_FDCWD, path, 0, envp) != 0)
        return fail(ENOMEM);
    int result = real_execve(path, argv, launch.envp);
    arena_give_back();
    return result;
}

int hooked_fexecve(int fd, char *const argv[], char *const envp[]) {
    struct launch launch;
    if (!session.active || fd < 0 || argv == NULL || envp == NULL)
        return real_fexecve(fd, argv, envp);
    if (prepare(&launch, fd, "", AT_EMPTY_PATH, envp) != 0)
        return fail(ENOMEM);
    int result = real_fexecve(fd, argv, launch.envp);
    arena_give_back();
    return result;
}

int hooked_execveat(int dirfd, const char *path, char *const argv[], char *const envp[], int flags) {
    struct launch launch;
    if (!session.active || path == NULL)
        return real_execveat(dirfd, path, argv, envp, flags);
    if (prepare(&launch, dirfd, path, flags, envp) != 0)
        return fail(ENOMEM);
    int result = real_execveat(dirfd, path, argv, launch.envp, flags);
    arena_give_back();
    return result;
}

static long raw_execveat(const long a[6]) {
    struct launch launch;
    if (prepare(&launch, (int)a[0], (const char *)a[1], (int)a[4], (char *const *)a[3]) != 0)
        return fail(ENOMEM);
    long result = real_syscall(SYS_execveat, a[0], a[1], a[2], launch.envp, a[4]);
    arena_give_back();
    return result;
}

/* Programs that call the kernel through libc's syscall() mean the same as by name. Where libc has no function of that
 * name there is no row that could be installed, so the original here is always syscall itself. */
long hooked_syscall(long number, ...) {
    long a[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    switch (number) {
    case SYS_execve:
        return hooked_execve((const char *)a[0], (char *const *)a[1], (char *const *)a[2]);
    case SYS_execveat:
        if (session.active && a[1] != 0)
            return raw_execveat(a);
        break;
    case SYS_close:
        return hooked_close((int)a[0]);
    case SYS_dup3:
        return hooked_dup3((int)a[0], (int)a[1], (int)a[2]);
#ifdef SYS_dup2
    case SYS_dup2:
        return hooked_dup2((int)a[0], (int)a[1]);
#endif
#ifdef SYS_close_range
    case SYS_close_range:
        return hooked_close_range((unsigned)a[0], (unsigned)a[1], (int)a[2]);
#endif
    default:
        break;
    }
    struct guard guard;
    if (guard_enter(&guard)) {
        int64_t result = file_syscall(number, a);
        if (result != BYPASS)
            return (long)hook_result(&guard, result);
        guard_leave(&guard);
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
