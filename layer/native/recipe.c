/* Puts the hooks in without Frida, where Frida has done it once for the same build of libc.
 *
 * What has to be known of a function is which of its first bytes make whole instructions, and which of those bytes are
 * distances, which change when the instructions are moved: that is the recipe, and it holds for every process with
 * that libc. It is compared with what is there before anything is changed, so a wrong one does no harm. */
#include <elf.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "core.h"

/* --- which libc ----------------------------------------------------------------------------------------------------- */

__attribute__((visibility("default"))) struct mirror_libc mirror_libc;

static void read_build_id(const char *notes, size_t size) {
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= size;) {
        Elf64_Nhdr header;
        memcpy(&header, notes + at, sizeof header);
        const char *name = notes + at + sizeof header;
        const char *content = name + ((header.n_namesz + 3U) & ~3U);
        if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 && memcmp(name, "GNU", 4) == 0 &&
            header.n_descsz <= sizeof mirror_libc.id) {
            memcpy(mirror_libc.id, content, header.n_descsz);
            mirror_libc.size_bytes = header.n_descsz;
            return;
        }
        at = (size_t)(content - notes) + ((header.n_descsz + 3U) & ~3U);
    }
}

/* Called for each loaded library: 1 when libc was found. */
static int visit(struct dl_phdr_info *info, size_t size, void *address) {
    (void)size;
    bool is_libc = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *segment = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + segment->p_vaddr;
        is_libc = is_libc || (segment->p_type == PT_LOAD && (uintptr_t)address - start < segment->p_memsz);
    }
    for (int i = 0; is_libc && i < info->dlpi_phnum; i++) {
        const Elf64_Phdr *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_NOTE && mirror_libc.size_bytes == 0)
            read_build_id((const char *)(info->dlpi_addr + segment->p_vaddr), segment->p_memsz);
    }
    return is_libc;
}

void recipe_identify_libc(void) {
    dl_iterate_phdr(visit, table_find("open"));
}

/* --- writing code ----------------------------------------------------------------------------------------------------- */

#define PAGE_BYTES      ((uintptr_t)getauxval(AT_PAGESZ))
#define ALIGNMENT       16U
/* What one row can take of the room: moved instructions, a jump to the rest, a jump on to the replacement. */
#define ROW_MAX_BYTES   96U
#define MOVED_MAX_BYTES 32U

#if defined(__x86_64__)
#define PATCH_BYTES 5
#define REACH_BYTES 0x7fff0000LL

/* jmp rel32; the destination is near. */
static size_t write_near(uint8_t *at, uintptr_t from, uintptr_t to) {
    int32_t distance = (int32_t)((int64_t)to - (int64_t)(from + 5));
    at[0] = 0xe9;
    memcpy(at + 1, &distance, sizeof distance);
    return 5;
}

/* jmp [rip], and the address behind it. */
static size_t write_far(uint8_t *at, uintptr_t to) {
    static const uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0};
    memcpy(at, jump, sizeof jump);
    memcpy(at + sizeof jump, &to, sizeof to);
    return sizeof jump + sizeof to;
}
#else
#define PATCH_BYTES 8
#define REACH_BYTES 0x7ff0000LL

/* bti c, where an indirect call may land (older processors take it for a no-op); b. */
static size_t write_near(uint8_t *at, uintptr_t from, uintptr_t to) {
    uint32_t code[] = {0xd503245f, 0x14000000 | ((uint32_t)(((int64_t)to - (int64_t)(from + 4)) >> 2) & 0x3ffffff)};
    memcpy(at, code, sizeof code);
    return sizeof code;
}

/* ldr x16, 8; br x16, and the address behind them. */
static size_t write_far(uint8_t *at, uintptr_t to) {
    static const uint32_t code[] = {0x58000050, 0xd61f0200};
    memcpy(at, code, sizeof code);
    memcpy(at + sizeof code, &to, sizeof to);
    return sizeof code + sizeof to;
}
#endif

static bool is_near(uintptr_t from, uintptr_t to) {
    int64_t distance = (int64_t)to - (int64_t)from;
    return distance < REACH_BYTES && -distance < REACH_BYTES;
}

/* --- the rows --------------------------------------------------------------------------------------------------------- */

struct row {
    const uint8_t *found; /* the first instructions */
    size_t found_bytes;
    const uint8_t *moved; /* the same for another address */
    size_t moved_bytes;
    struct wire_reader distances;
};

/* Finds a symbol in the recipe: an array of [symbol, found, moved, [[place, distance], ...]]. */
static bool find_row(struct wire_reader recipe, const char *symbol, struct row *row) {
    size_t wanted = strlen(symbol);
    for (uint32_t count = wire_get_array(&recipe); count > 0 && !recipe.bad; count--) {
        if (wire_get_array(&recipe) != 4)
            return false;
        size_t length;
        const uint8_t *name = wire_get_bytes(&recipe, &length);
        row->found = wire_get_bytes(&recipe, &row->found_bytes);
        row->moved = wire_get_bytes(&recipe, &row->moved_bytes);
        row->distances = recipe;
        wire_skip(&recipe);
        if (!recipe.bad && length == wanted && memcmp(name, symbol, wanted) == 0)
            return row->found_bytes >= PATCH_BYTES && row->moved_bytes <= MOVED_MAX_BYTES;
    }
    return false;
}

/* Each distance is told as it would be if the function were where it is moved to. */
static bool fix(uint8_t *moved, const uint8_t *target, struct row *row) {
    for (uint32_t count = wire_get_array(&row->distances); count > 0; count--) {
        if (wire_get_array(&row->distances) != 2)
            return false;
        uint64_t place = wire_get_uint(&row->distances);
        int64_t distance = wire_get_int(&row->distances) + (int64_t)(uintptr_t)target - (int64_t)(uintptr_t)moved;
        int32_t fixed = (int32_t)distance;
        if (row->distances.bad || place + sizeof fixed > row->moved_bytes || fixed != distance)
            return false;
        memcpy(moved + place, &fixed, sizeof fixed);
    }
    return !row->distances.bad;
}

/* A row before this one with the same address. */
static bool is_done(const struct mirror_hook *hook) {
    for (const struct mirror_hook *before = mirror_hooks; before != hook; before++)
        if (before->target == hook->target)
            return true;
    return false;
}

static bool is_skipped(const struct mirror_hook *hook) {
    return hook->target == NULL || (hook->original == NULL && is_done(hook));
}

/* Moves the beginning of one function; `destination` gets the address that the patch jumps to. */
static bool prepare(const struct mirror_hook *hook, struct wire_reader recipe, size_t *used, void **original,
                    uintptr_t *destination) {
    struct row row;
    uint8_t *moved = (uint8_t *)mirror_room.start + *used;
    if (*used + ROW_MAX_BYTES > mirror_room.size_bytes || is_done(hook) || !find_row(recipe, hook->symbol, &row) ||
        memcmp(hook->target, row.found, row.found_bytes) != 0)
        return false;
    memcpy(moved, row.moved, row.moved_bytes);
    if (!fix(moved, hook->target, &row))
        return false;
    size_t size = row.moved_bytes;
    size += write_far(moved + size, (uintptr_t)hook->target + row.found_bytes);
    *original = moved;
    *destination = (uintptr_t)hook->replacement;
    if (!is_near((uintptr_t)hook->target, *destination)) {
        *destination = (uintptr_t)moved + size;
        size += write_far(moved + size, (uintptr_t)hook->replacement);
    }
    *used += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return is_near((uintptr_t)hook->target, *destination);
}

/* All pages from the first function to the last. */
struct stretch {
    uintptr_t start, end;
};

static void include(struct stretch *stretch, const void *target) {
    uintptr_t first = (uintptr_t)target & ~(PAGE_BYTES - 1);
    uintptr_t end = ((uintptr_t)target + PATCH_BYTES + PAGE_BYTES - 1) & ~(PAGE_BYTES - 1);
    if (stretch->end == 0 || first < stretch->start)
        stretch->start = first;
    if (end > stretch->end)
        stretch->end = end;
}

static bool protect(const struct stretch *stretch, int protection) {
    return raw_syscall(SYS_mprotect, stretch->start, stretch->end - stretch->start, protection) == 0;
}

/* Writable and executable at once, because constructors that ran before may have started threads; where that is
 * forbidden, for a moment only writable. */
static bool patch_all(const uintptr_t *destinations) {
    struct stretch stretch = {0, 0};
    for (size_t i = 0; mirror_hooks[i].symbol != NULL; i++)
        if (destinations[i] != 0)
            include(&stretch, mirror_hooks[i].target);
    if (!protect(&stretch, PROT_READ | PROT_WRITE | PROT_EXEC) && !protect(&stretch, PROT_READ | PROT_WRITE))
        return false;
    for (size_t i = 0; mirror_hooks[i].symbol != NULL; i++)
        if (destinations[i] != 0)
            write_near(mirror_hooks[i].target, (uintptr_t)mirror_hooks[i].target, destinations[i]);
    __builtin___clear_cache((char *)stretch.start, (char *)stretch.end);
    return protect(&stretch, PROT_READ | PROT_EXEC);
}

/* Enough for the table; what does not fit is left to Frida. */
#define ROWS_MAX 512

enum recipe_result recipe_apply(struct wire_reader recipe) {
    static void *originals[ROWS_MAX];
    static uintptr_t destinations[ROWS_MAX];
    size_t used = 0;
    if (mirror_room.start == NULL)
        return RECIPE_UNFIT;
    for (size_t i = 0; mirror_hooks[i].symbol != NULL; i++)
        if (i == ROWS_MAX || (!is_skipped(&mirror_hooks[i]) &&
                              !prepare(&mirror_hooks[i], recipe, &used, &originals[i], &destinations[i])))
            return RECIPE_UNFIT;
    if (raw_syscall(SYS_mprotect, mirror_room.start, mirror_room.size_bytes, PROT_READ | PROT_EXEC) != 0)
        return RECIPE_UNFIT;
    __builtin___clear_cache(mirror_room.start, (char *)mirror_room.start + used);
    for (size_t i = 0; mirror_hooks[i].symbol != NULL; i++)
        if (mirror_hooks[i].original != NULL && originals[i] != NULL)
            *mirror_hooks[i].original = originals[i];
    return patch_all(destinations) ? RECIPE_APPLIED : RECIPE_HALF;
}
