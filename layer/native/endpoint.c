/* Endpoints: between sockaddr, the wire and the kernel. */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

#include "socket.h"

static const uint8_t mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* SIN6_LEN_RFC2133: the kernel takes a sockaddr_in6 that ends before its scope. */
#define SHORTEST_IN6 24

static void unmap(struct endpoint *endpoint) {
    if (endpoint->size != 16 || memcmp(endpoint->address, mapped_prefix, sizeof mapped_prefix) != 0)
        return;
    memmove(endpoint->address, endpoint->address + sizeof mapped_prefix, 4);
    endpoint->size = 4;
    endpoint->flowinfo = 0;
    endpoint->scope_id = 0;
}

bool endpoint_read(struct endpoint *endpoint, const struct sockaddr *address, socklen_t length) {
    *endpoint = (struct endpoint){0};
    if (address == NULL || length < sizeof(sa_family_t))
        return false;
    if (address->sa_family == AF_INET && length >= sizeof(struct sockaddr_in)) {
        struct sockaddr_in in;
        memcpy(&in, address, sizeof in);
        memcpy(endpoint->address, &in.sin_addr, 4);
        endpoint->size = 4;
        endpoint->port = ntohs(in.sin_port);
        return true;
    }
    if (address->sa_family == AF_INET6 && length >= SHORTEST_IN6) {
        struct sockaddr_in6 in6 = {0};
        memcpy(&in6, address, length < sizeof in6 ? length : sizeof in6);
        memcpy(endpoint->address, &in6.sin6_addr, 16);
        endpoint->size = 16;
        endpoint->port = ntohs(in6.sin6_port);
        endpoint->flowinfo = in6.sin6_flowinfo;
        endpoint->scope_id = in6.sin6_scope_id;
        return true;
    }
    return false;
}

bool endpoint_from_sockaddr(struct endpoint *endpoint, const struct sockaddr *address, socklen_t length) {
    if (!endpoint_read(endpoint, address, length))
        return false;
    unmap(endpoint);
    return true;
}

socklen_t endpoint_to_sockaddr(const struct endpoint *endpoint, int domain, struct sockaddr_storage *address) {
    memset(address, 0, sizeof *address);
    if (domain == AF_INET) {
        if (endpoint->size != 4)
            return 0;
        struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(endpoint->port)};
        memcpy(&in.sin_addr, endpoint->address, 4);
        memcpy(address, &in, sizeof in);
        return sizeof in;
    }
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(endpoint->port)};
    if (endpoint->size == 4) {
        memcpy(&in6.sin6_addr, mapped_prefix, sizeof mapped_prefix);
        memcpy((uint8_t *)&in6.sin6_addr + sizeof mapped_prefix, endpoint->address, 4);
    } else {
        memcpy(&in6.sin6_addr, endpoint->address, 16);
        in6.sin6_flowinfo = endpoint->flowinfo;
        in6.sin6_scope_id = endpoint->scope_id;
    }
    memcpy(address, &in6, sizeof in6);
    return sizeof in6;
}

bool endpoint_is_wildcard(const struct endpoint *endpoint) {
    for (unsigned i = 0; i < endpoint->size; i++)
        if (endpoint->address[i] != 0)
            return false;
    return true;
}

bool endpoint_is_loopback(const struct endpoint *endpoint) {
    if (endpoint->size == 4)
        return endpoint->address[0] == 127;
    return memcmp(endpoint->address, &in6addr_loopback, 16) == 0;
}

bool endpoint_same_address(const struct endpoint *one, const struct endpoint *other) {
    return one->size == other->size && memcmp(one->address, other->address, one->size) == 0;
}

void endpoint_put(struct wire_writer *out, const struct endpoint *endpoint) {
    wire_put_array(out, 4);
    wire_put_bin(out, endpoint->address, endpoint->size);
    wire_put_uint(out, endpoint->port);
    wire_put_uint(out, endpoint->flowinfo);
    wire_put_uint(out, endpoint->scope_id);
}

void endpoint_get(struct wire_reader *in, struct endpoint *endpoint) {
    *endpoint = (struct endpoint){0};
    uint32_t fields = wire_get_array(in);
    size_t size = 0;
    const uint8_t *address = wire_get_bytes(in, &size);
    if (in->bad || fields < 2 || (size != 4 && size != 16)) {
        in->bad = true;
        return;
    }
    memcpy(endpoint->address, address, size);
    endpoint->size = (uint8_t)size;
    endpoint->port = (uint16_t)wire_get_uint(in);
    if (fields > 2)
        endpoint->flowinfo = (uint32_t)wire_get_uint(in);
    if (fields > 3)
        endpoint->scope_id = (uint32_t)wire_get_uint(in);
    for (uint32_t i = 4; i < fields; i++)
        wire_skip(in);
}

typedef int (*name_function)(int fd, struct sockaddr *address, socklen_t *length);

static int endpoint_by(name_function name, int fd, struct endpoint *endpoint) {
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    if (name(fd, (struct sockaddr *)&address, &length) != 0)
        return -errno;
    return endpoint_from_sockaddr(endpoint, (struct sockaddr *)&address, length) ? 0 : -EAFNOSUPPORT;
}

int endpoint_of_socket(int fd, struct endpoint *local) {
    return endpoint_by(real_getsockname, fd, local);
}

int endpoint_of_peer(int fd, struct endpoint *peer) {
    return endpoint_by(real_getpeername, fd, peer);
}

int socket_tcp_domain(int fd) {
    int protocol = 0;
    int domain = 0;
    socklen_t size = sizeof protocol;
    if (real_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0 || protocol != IPPROTO_TCP)
        return 0;
    size = sizeof domain;
    if (real_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0)
        return 0;
    return domain == AF_INET || domain == AF_INET6 ? domain : 0;
}

int endpoint_ask(const char *request, const struct endpoint *asked, const char *answer, struct endpoint *answered) {
    struct call call;
    int result = call_begin(&call, request, 1);
    if (result != 0)
        return result;
    endpoint_put(&call.out, asked);
    result = call_send(&call);
    if (result == 0) {
        endpoint_get(&call.in, answered);
        if (strcmp(call.answer, answer) != 0 || call.in.bad)
            result = -EIO;
    }
    call_end(&call);
    return result;
}

/* rt_sigprocmask copies eight bytes in before it refuses an unknown way of using them (kernel/signal.c). */
bool is_readable(const void *memory, size_t size) {
    uintptr_t start = (uintptr_t)memory & ~(uintptr_t)7;
    uintptr_t end = (uintptr_t)memory + size;
    if (memory == NULL || end < start)
        return false;
    for (uintptr_t word = start; word < end; word += 8)
        if (raw_syscall(SYS_rt_sigprocmask, -1, word, NULL, 8) == -EFAULT)
            return false;
    return true;
}

bool is_readable_address(const struct sockaddr *address, socklen_t length) {
    return length <= sizeof(struct sockaddr_storage) && is_readable(address, length);
}
