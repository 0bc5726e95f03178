/* getsockname and getpeername: the addresses that the socket would have in the target. */
#include <errno.h>
#include <string.h>

#include "socket.h"

/* Could this connection be one of the target? Its other end is the proxy then. Connections over IPv6 loopback may be,
 * since there is only one such address. */
static bool is_suspect(const struct endpoint *peer) {
    if (peer->size == 16)
        return memcmp(peer->address, &in6addr_loopback, 16) == 0;
    return memcmp(peer->address, session.delivery, 4) == 0 ||
           (peer->port == session.stub_port && memcmp(peer->address, session.stub_address, 4) == 0);
}

/* True: `local` and `peer`, the real ones, have become those in the target. */
static bool describe(struct endpoint *local, struct endpoint *peer) {
    struct call call;
    if (call_begin(&call, "DescribeSocket", 2) != 0)
        return false;
    endpoint_put(&call.out, local);
    endpoint_put(&call.out, peer);
    bool known = call_send(&call) == 0 && strcmp(call.answer, "SocketDescribed") == 0;
    if (known) {
        struct endpoint target_local;
        struct endpoint target_peer;
        endpoint_get(&call.in, &target_local);
        endpoint_get(&call.in, &target_peer);
        known = !call.in.bad;
        if (known) {
            *local = target_local;
            *peer = target_peer;
        }
    }
    call_end(&call);
    return known;
}

/* As the kernel does: as much as there is room for, and the full length. */
static void store(const struct endpoint *endpoint, int domain, struct sockaddr *address, socklen_t *length,
                  socklen_t room) {
    struct sockaddr_storage full;
    socklen_t size = endpoint_to_sockaddr(endpoint, domain, &full);
    if (size == 0)
        return;
    memcpy(address, &full, size < room ? size : room);
    *length = size;
}

void socket_translate_peer(int fd, struct sockaddr *address, socklen_t *length, socklen_t room) {
    struct endpoint local;
    struct endpoint peer;
    int domain = address->sa_family;
    if (endpoint_of_peer(fd, &peer) != 0 || !is_suspect(&peer) || endpoint_of_socket(fd, &local) != 0)
        return;
    if (describe(&local, &peer))
        store(&peer, domain, address, length, room);
}

static void translate_local(int fd, struct sockaddr *address, socklen_t *length, socklen_t room) {
    struct endpoint local;
    struct endpoint peer;
    struct bound bound;
    int domain = address->sa_family;
    if (endpoint_of_socket(fd, &local) != 0 || local.port == 0)
        return;
    if (endpoint_of_peer(fd, &peer) == 0 && is_suspect(&peer) && describe(&local, &peer)) {
        store(&local, domain, address, length, room);
    } else if (bound_find_real(&local, &bound) && socket_tcp_domain(fd) != 0) {
        local.port = bound.asked.port;
        store(endpoint_is_wildcard(&bound.asked) ? &local : &bound.asked, domain, address, length, room);
    }
}

typedef void (*translation)(int fd, struct sockaddr *address, socklen_t *length, socklen_t room);

static void translate(translation how, int fd, struct sockaddr *address, socklen_t *length, socklen_t room) {
    struct guard guard;
    if (room < sizeof(sa_family_t) || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
        return;
    if (!guard_enter(&guard))
        return;
    int saved_errno = errno;
    how(fd, address, length, room);
    errno = saved_errno;
    guard_leave(&guard);
}

int hooked_getsockname(int fd, struct sockaddr *address, socklen_t *length) {
    socklen_t room = is_readable(length, sizeof *length) ? *length : 0;
    int result = real_getsockname(fd, address, length);
    if (result == 0)
        translate(translate_local, fd, address, length, room);
    return result;
}

int hooked_getpeername(int fd, struct sockaddr *address, socklen_t *length) {
    socklen_t room = is_readable(length, sizeof *length) ? *length : 0;
    int result = real_getpeername(fd, address, length);
    if (result == 0)
        translate(socket_translate_peer, fd, address, length, room);
    return result;
}
