/* The file family's questions to the proxy, as `messages.py` defines them. */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "file.h"

void place_of(const struct identity *identity, struct place *place) {
    memcpy(place->buffer, identity->path, identity->length + 1);
    place->path = place->buffer;
    place->length = identity->length;
}

static int begin(struct call *call, const char *request, uint32_t fields, const struct place *place) {
    int failed = call_begin(call, request, fields);
    if (failed == 0)
        wire_put_bin(&call->out, place->path, place->length);
    return failed;
}

static int64_t end(struct call *call, int64_t result) {
    if (result >= 0 && call->in.bad)
        result = -EIO;
    call_end(call);
    return result;
}

/* The wire has the values of asm-generic/fcntl.h, as x86 does; aarch64 has two pairs exchanged. */
static unsigned flags_generic(unsigned flags) {
#if defined(__aarch64__)
    const unsigned directory = 040000, nofollow = 0100000, direct = 0200000, largefile = 0400000;
    unsigned generic = flags & ~(directory | nofollow | direct | largefile);
    generic |= flags & directory ? 0200000 : 0;
    generic |= flags & nofollow ? 0400000 : 0;
    generic |= flags & direct ? 040000 : 0;
    generic |= flags & largefile ? 0100000 : 0;
    return generic;
#else
    return flags;
#endif
}

int64_t request_open(const struct place *place, int flags, unsigned mode, struct identity *opened) {
    struct call call;
    int64_t result = begin(&call, "OpenFile", 3, place);
    if (result < 0)
        return result;
    wire_put_uint(&call.out, flags_generic((unsigned)flags));
    wire_put_uint(&call.out, mode);
    result = call_send(&call);
    if (result < 0)
        return end(&call, result);
    int fd = call.received_fd;
    target_stat_read(&call.in, &opened->stat);
    wire_skip(&call.in); /* content: in the descriptor */
    wire_skip(&call.in); /* complete */
    size_t length = 0;
    const uint8_t *path = wire_get_bytes(&call.in, &length);
    if (path && length > 0 && length < sizeof opened->path) {
        memcpy(opened->path, path, length);
        opened->length = length;
    } else {
        memcpy(opened->path, place->path, place->length);
        opened->length = place->length;
    }
    opened->path[opened->length] = '\0';
    result = end(&call, 0);
    if (result < 0 && fd >= 0)
        raw_syscall(SYS_close, fd);
    if (result < 0)
        return result;
    return fd >= 0 ? fd : -EMFILE; /* there was no number left to receive it at */
}

int64_t request_stat(const struct place *place, bool follow, struct target_stat *stat) {
    struct call call;
    int64_t result = begin(&call, "StatFile", 2, place);
    if (result < 0)
        return result;
    wire_put_bool(&call.out, follow);
    result = call_send(&call);
    if (result == 0 && !target_stat_read(&call.in, stat))
        result = -EIO;
    return end(&call, result);
}

int64_t request_access(const struct place *place, int mode, int flags) {
    struct call call;
    int64_t result = begin(&call, "CheckAccess", 3, place);
    if (result < 0)
        return result;
    wire_put_uint(&call.out, (unsigned)mode);
    wire_put_uint(&call.out, (unsigned)flags);
    return end(&call, call_send(&call));
}

static int64_t request_text(const char *request, const struct place *place, char *out, size_t size) {
    struct call call;
    int64_t result = begin(&call, request, 1, place);
    if (result < 0)
        return result;
    result = call_send(&call);
    if (result == 0) {
        size_t length = 0;
        const uint8_t *text = wire_get_bytes(&call.in, &length);
        if (length > size)
            length = size;
        if (text)
            memcpy(out, text, length);
        result = (int64_t)length;
    }
    return end(&call, result);
}

int64_t request_link(const struct place *place, char *out, size_t size) {
    return request_text("ReadLink", place, out, size);
}

int64_t request_resolved(const struct place *place, char *out, size_t size) {
    return request_text("ResolvePath", place, out, size);
}

int64_t request_statfs(const struct place *place, struct statfs *out) {
    struct call call;
    int64_t result = begin(&call, "StatFilesystem", 1, place);
    if (result < 0)
        return result;
    result = call_send(&call);
    if (result < 0)
        return end(&call, result);
    memset(out, 0, sizeof *out);
    out->f_type = (__typeof__(out->f_type))wire_get_uint(&call.in);
    out->f_bsize = (__typeof__(out->f_bsize))wire_get_uint(&call.in);
    out->f_blocks = wire_get_uint(&call.in);
    out->f_bfree = wire_get_uint(&call.in);
    out->f_bavail = wire_get_uint(&call.in);
    out->f_files = wire_get_uint(&call.in);
    out->f_ffree = wire_get_uint(&call.in);
    uint64_t fsid = wire_get_uint(&call.in);
    memcpy(&out->f_fsid, &fsid, sizeof out->f_fsid);
    out->f_namelen = (__typeof__(out->f_namelen))wire_get_uint(&call.in);
    out->f_frsize = (__typeof__(out->f_frsize))wire_get_uint(&call.in);
    out->f_flags = (__typeof__(out->f_flags))wire_get_uint(&call.in);
    return end(&call, 0);
}
