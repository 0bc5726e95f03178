/* Reads DirectoryListed: first for its size, then into one mapping. */
#include "listing.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "layer.h"

enum { ENTRY_FIELDS = 3, NAME_BYTES = 255 };

/* The name may be cut short of the struct's end, as the kernel does it. */
static size_t record_bytes(size_t name_length) {
    return (offsetof(struct dirent, d_name) + name_length + 1 + 7) & ~(size_t)7;
}

/* Reads one DirectoryEntry; writes its record at `out` unless that is null. Its record's size, 0 if it is bad. */
static size_t entry_read(struct wire_reader *in, uint8_t *out, size_t offset) {
    uint32_t fields = wire_get_array(in);
    size_t length = 0;
    const uint8_t *name = wire_get_bytes(in, &length);
    uint64_t ino = wire_get_uint(in);
    uint64_t kind = wire_get_uint(in);
    if (in->bad || fields < ENTRY_FIELDS || length == 0 || length > NAME_BYTES)
        return 0;
    for (uint32_t i = ENTRY_FIELDS; i < fields; i++)
        wire_skip(in);
    size_t size = record_bytes(length);
    if (out) {
        struct dirent *record = (struct dirent *)(void *)out;
        record->d_ino = ino;
        record->d_off = (off_t)(offset + size);
        record->d_reclen = (unsigned short)size;
        record->d_type = (unsigned char)kind;
        memcpy(record->d_name, name, length); /* the rest is zero: the mapping is fresh */
    }
    return in->bad ? 0 : size;
}

/* The sum of all entries' records, written from `out` on unless that is null. False if any is bad. */
static bool entries_read(struct wire_reader in, uint8_t *out, size_t *size) {
    uint32_t count = wire_get_array(&in);
    *size = 0;
    for (uint32_t i = 0; i < count; i++) {
        size_t added = entry_read(&in, out ? out + *size : NULL, *size);
        if (added == 0)
            return false;
        *size += added;
    }
    return !in.bad;
}

static int64_t listing_make(struct wire_reader in, size_t room, struct listing *listing) {
    size_t size;
    if (!entries_read(in, NULL, &size))
        return -EIO;
    room = (room + 7) & ~(size_t)7;
    size_t total = room + size + 1; /* never empty */
    void *mapping = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return -ENOMEM;
    listing->mapping = mapping;
    listing->mapping_bytes = total;
    listing->records = (uint8_t *)mapping + room;
    listing->size = size;
    entries_read(in, listing->records, &size);
    return 0;
}

/* Entries that are too many for a frame come in a file. */
static int64_t listing_make_of_file(int fd, size_t room, struct listing *listing) {
    struct stat local;
    if (raw_syscall(SYS_fstat, fd, &local) != 0 || local.st_size <= 0)
        return -EIO;
    size_t size = (size_t)local.st_size;
    uint8_t *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return -ENOMEM;
    struct wire_reader in = {.next = bytes, .end = bytes + size, .bad = false};
    int64_t result = listing_make(in, room, listing);
    munmap(bytes, size);
    return result;
}

int64_t listing_fetch(uint64_t dev, uint64_t ino, size_t room, struct listing *listing) {
    struct call call;
    int64_t result = call_begin(&call, "ListDirectory", 2);
    if (result < 0)
        return result;
    wire_put_uint(&call.out, dev);
    wire_put_uint(&call.out, ino);
    result = call_send(&call);
    int fd = call.received_fd;
    if (result == 0 && fd < 0)
        result = listing_make(call.in, room, listing);
    call_end(&call);
    if (result == 0 && fd >= 0)
        result = listing_make_of_file(fd, room, listing);
    if (fd >= 0)
        raw_syscall(SYS_close, fd);
    return result;
}

void listing_free(struct listing *listing) {
    munmap(listing->mapping, listing->mapping_bytes);
}
