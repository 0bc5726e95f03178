/* The one thing that the library exports: every function to be replaced, with its replacement and the place for its
 * original. The installers walk it; whatever way they replace a function, the hooks see the same originals. */
#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core.h"

#define HOOK(family, name, result, parameters) result(*real_##name) parameters;
#define ALIAS(name, of)
#include "hooks.def"
#undef HOOK
#undef ALIAS

/* Ends with a row whose symbol is null. */
__attribute__((visibility("default"))) struct mirror_hook mirror_hooks[] = {
#define HOOK(family, name, result, parameters) {#family, #name, (void *)hooked_##name, (void **)&real_##name, NULL},
#define ALIAS(name, of)                        {"alias", #name, (void *)hooked_##of, NULL, NULL},
#include "hooks.def"
#undef HOOK
#undef ALIAS
    {NULL, NULL, NULL, NULL, NULL},
};

/* Where the installer puts what it takes from the beginning of a function: the first instructions and a jump to the
 * rest. A near jump of aarch64 reaches 128 MiB; half a row's bytes are enough. */
#define ROOM_BYTES  0x10000
#define REACH_BYTES (100 << 20)
#define STEP_BYTES  (1 << 20)
__attribute__((visibility("default"))) struct mirror_room mirror_room;

/* The kernel takes the hint if it is free, else it chooses a place of its own. */
static void make_room(uintptr_t libc) {
    for (uintptr_t distance = STEP_BYTES; distance < REACH_BYTES && mirror_room.start == NULL; distance += STEP_BYTES) {
        uintptr_t hint = (libc - distance) & ~(uintptr_t)0xffff;
        int64_t memory =
            raw_syscall(SYS_mmap, hint, ROOM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory < 0 && memory > -4096)
            return;
        if ((uint64_t)memory < libc && libc - (uint64_t)memory < REACH_BYTES)
            mirror_room = (struct mirror_room){.start = (void *)memory, .size_bytes = ROOM_BYTES};
        else
            raw_syscall(SYS_munmap, memory, ROOM_BYTES);
    }
}

/* libc's own functions, not those that a library before it puts in front (an allocator's, a sanitizer's): these end
 * in libc's too. dlsym finds the default version of a symbol, the one that a program built today is bound to. */
void *table_find(const char *symbol) {
    static void *libc;
    if (libc == NULL)
        libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
    /* musl is one library, whatever it is called. */
    return dlsym(libc != NULL ? libc : RTLD_NEXT, symbol);
}

void table_resolve(void) {
    make_room((uintptr_t)table_find("open"));
    for (struct mirror_hook *hook = mirror_hooks; hook->symbol != NULL; hook++) {
        hook->target = table_find(hook->symbol);
        if (hook->original != NULL)
            *hook->original = hook->target;
    }
}
