/* A connection to the proxy: frames out, frames in, a descriptor beside each. Reads and writes never block: the one
 * place where a thread waits is ppoll, with the program's own signal mask. */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "core.h"

#define LENGTH_BYTES    4
#define ID_OFFSET       (LENGTH_BYTES + 2)
/* MAX_FRAME_BYTES of the protocol. */
#define FRAME_MAX_BYTES (1U << 20)
/* Room for any request and for the answers that are common; untouched pages cost nothing. */
#define BUFFER_BYTES    (64U << 10)

static const char *addresses;

void link_configure(const char *text) {
    addresses = text;
}

/* The next address of the list, as sockaddr_un; 0 at its end. */
static socklen_t next_address(const char **text, struct sockaddr_un *address) {
    const char *start = *text;
    size_t length = strcspn(start, ",");
    *text = start + length + (start[length] == ',');
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (length == 0 || length >= sizeof address->sun_path - 1)
        return 0;
    size_t offset = start[0] == '/' ? 0 : 1; /* a leading NUL makes it abstract */
    memcpy(address->sun_path + offset, start, length);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length);
}

static int connect_any(void) {
    const char *rest = addresses;
    struct sockaddr_un address;
    int64_t failed = -ECONNREFUSED;
    for (socklen_t size; (size = next_address(&rest, &address)) != 0;) {
        int64_t fd = raw_syscall(SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return (int)fd;
        do /* waits only while the proxy's queue of callers is full */
            failed = raw_syscall(SYS_connect, fd, &address, size);
        while (failed == -EINTR);
        if (failed == 0)
            return (int)fd;
        raw_syscall(SYS_close, fd);
    }
    return (int)failed;
}

/* Of a socket; 0 for anything else. */
static uint64_t inode_of(int fd) {
    struct stat stat;
    return raw_syscall(SYS_fstat, fd, &stat) == 0 && S_ISSOCK(stat.st_mode) ? stat.st_ino : 0;
}

int link_open(struct link *link) {
    if (link->buffer == NULL) {
        int64_t memory =
            raw_syscall(SYS_mmap, NULL, BUFFER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory < 0 && memory > -4096)
            return -ENOMEM;
        link->buffer = (uint8_t *)memory;
        link->capacity_bytes = BUFFER_BYTES;
    }
    int fd = connect_any();
    link->fd = fd < 0 ? -1 : descriptor_hide(fd);
    link->inode = fd < 0 ? 0 : inode_of(link->fd);
    return fd < 0 ? fd : 0;
}

void link_check(struct link *link) {
    if (link->fd >= 0 && inode_of(link->fd) != link->inode) {
        descriptor_forget(link->fd);
        link->fd = -1;
    }
}

void link_close(struct link *link) {
    link_check(link);
    if (link->fd >= 0)
        descriptor_close(link->fd);
    link->fd = -1;
}

/* A number in its widest form, so that the frame can be begun before its id is known. */
static void put_uint32(uint8_t *at, uint32_t value) {
    for (int i = 0; i < 4; i++)
        at[i] = (uint8_t)(value >> (24 - 8 * i));
}

void link_begin(struct link *link, struct wire_writer *out, const char *name, uint32_t fields) {
    out->next = link->buffer + ID_OFFSET + 4;
    out->end = link->buffer + BUFFER_BYTES;
    out->overflow = false;
    link->buffer[LENGTH_BYTES] = 0x92;     /* array of 2 */
    link->buffer[LENGTH_BYTES + 1] = 0xce; /* uint32 */
    wire_put_array(out, fields + 1);
    wire_put_str(out, name);
}

bool link_is_orphaned(const struct link *link) {
    return link->owner != raw_syscall(SYS_gettid);
}

/* Until the descriptor is ready; a signal that comes meanwhile is handled here, as if the thread were in the system
 * call that the program made. */
static int wait_ready(const struct link *link, short events, const uint64_t *mask) {
    struct pollfd poll = {.fd = link->fd, .events = events, .revents = 0};
    struct wait wait;
    guard_suspend(&wait);
    int64_t ready = raw_syscall(SYS_ppoll, &poll, 1, NULL, mask, sizeof *mask);
    guard_resume(&wait);
    if (ready == -EINTR && link_is_orphaned(link))
        return -ECANCELED;
    return ready < 0 && ready != -EINTR ? (int)ready : 0;
}

uint32_t link_next_id(struct link *link) {
    link->last_id = link->last_id % INT32_MAX + 1;
    return link->last_id;
}

int link_send(struct link *link, const struct wire_writer *out, uint32_t id, int fd, const uint64_t *mask) {
    if (out->overflow)
        return -ENAMETOOLONG;
    uint32_t length = (uint32_t)(out->next - link->buffer) - LENGTH_BYTES;
    put_uint32(link->buffer, length);
    put_uint32(link->buffer + ID_OFFSET, id);
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control = {.room = {0}};
    struct iovec part = {.iov_base = link->buffer, .iov_len = length + LENGTH_BYTES};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
    }
    while (part.iov_len > 0) {
        int64_t sent = raw_syscall(SYS_sendmsg, link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent == -EAGAIN)
            sent = wait_ready(link, POLLOUT, mask);
        else if (sent > 0)
            message.msg_controllen = 0; /* a descriptor goes once, with the first byte */
        if (sent < 0 && sent != -EINTR)
            return (int)sent;
        if (sent > 0) {
            part.iov_base = (uint8_t *)part.iov_base + sent;
            part.iov_len -= (size_t)sent;
        }
    }
    return 0;
}

/* musl's CMSG_NXTHDR compares a signed with an unsigned number and casts to a stricter alignment. */
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wsign-compare"
#pragma clang diagnostic ignored "-Wcast-align"

/* Keeps the first descriptor of a message and closes any other. */
static void take_descriptors(struct msghdr *message, int *fd) {
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int received;
            memcpy(&received, CMSG_DATA(header) + i * sizeof received, sizeof received);
            if (*fd < 0)
                *fd = received;
            else
                raw_syscall(SYS_close, received);
        }
    }
}

#pragma clang diagnostic pop

static bool resize(struct link *link, size_t size_bytes) {
    int64_t memory = raw_syscall(SYS_mremap, link->buffer, link->capacity_bytes, size_bytes, MREMAP_MAYMOVE);
    if (memory < 0 && memory > -4096)
        return false;
    link->buffer = (uint8_t *)memory;
    link->capacity_bytes = size_bytes;
    return true;
}

/* Appends what has come to the buffer. 0 or -errno; the proxy's end of the connection is -EPIPE. */
static int receive_some(struct link *link, size_t *filled, size_t wanted, int *fd, bool *truncated,
                        const uint64_t *mask) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(4 * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = link->buffer + *filled, .iov_len = wanted - *filled};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int64_t received = raw_syscall(SYS_recvmsg, link->fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (received == -EAGAIN)
        return wait_ready(link, POLLIN, mask);
    if (received < 0)
        return received == -EINTR ? 0 : (int)received;
    if (received == 0)
        return -EPIPE;
    take_descriptors(&message, fd);
    *truncated = *truncated || (message.msg_flags & MSG_CTRUNC) != 0;
    *filled += (size_t)received;
    return 0;
}

static int receive_frame(struct link *link, struct wire_reader *in, int *fd, const uint64_t *mask) {
    size_t filled = 0;
    size_t wanted = LENGTH_BYTES;
    bool truncated = false;
    if (link->capacity_bytes > BUFFER_BYTES)
        resize(link, BUFFER_BYTES);
    while (filled < wanted) {
        /* The first read takes what is there: usually the whole frame, and nothing can follow it. */
        int failed =
            receive_some(link, &filled, filled < LENGTH_BYTES ? link->capacity_bytes : wanted, fd, &truncated, mask);
        if (failed != 0)
            return failed;
        if (filled < LENGTH_BYTES)
            continue;
        const uint8_t *size = link->buffer;
        uint32_t length = (uint32_t)size[0] << 24 | (uint32_t)size[1] << 16 | (uint32_t)size[2] << 8 | size[3];
        wanted = LENGTH_BYTES + (size_t)length;
        if (length > FRAME_MAX_BYTES || filled > wanted)
            return -EPROTO;
        if (wanted > link->capacity_bytes && !resize(link, wanted))
            return -ENOMEM;
    }
    *in = (struct wire_reader){.next = link->buffer + LENGTH_BYTES, .end = link->buffer + wanted, .bad = false};
    return truncated ? -EMFILE : 0;
}

int link_receive(struct link *link, struct wire_reader *in, char name[32], int *fd, const uint64_t *mask) {
    *fd = -1;
    int failed = receive_frame(link, in, fd, mask);
    if (failed != 0 && failed != -EMFILE)
        return failed;
    uint32_t parts = wire_get_array(in);
    int64_t id = wire_get_int(in);
    uint32_t fields = wire_get_array(in);
    size_t length;
    const uint8_t *text = wire_get_bytes(in, &length);
    if (in->bad || parts != 2 || fields == 0 || id != -(int64_t)link->last_id || length >= 32)
        return -EPROTO;
    memcpy(name, text, length);
    name[length] = '\0';
    return failed;
}
