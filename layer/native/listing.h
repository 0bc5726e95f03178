/* The entries of a directory of the target, laid out as the kernel's getdents64 does. */
#ifndef MIRROR_LISTING_H
#define MIRROR_LISTING_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>

/* A mapping of its own; `records` holds struct dirent after struct dirent, each `d_reclen` bytes long, `d_off` being
 * the offset in `records` of the one that follows. */
struct listing {
    void *mapping;
    size_t mapping_bytes;
    uint8_t *records;
    size_t size;
};

/* Asks the proxy for the entries behind a placeholder's numbers. `room`: bytes that the mapping has before `records`,
 * for the caller, zeroed, at `mapping`. 0 or -errno. */
int64_t listing_fetch(uint64_t dev, uint64_t ino, size_t room, struct listing *listing);
void listing_free(struct listing *listing);

#endif
