/* Incoming TCP: the program listens here, and what comes to the port in the target is delivered by the proxy.
 *
 * A port that is taken on the user's machine, by another session too, is replaced by one that the proxy chooses, the
 * same in the whole session; the kernel judges the rest (second binds, SO_REUSEADDR, SO_REUSEPORT) by that one.
 * Delivered connections come from the session's delivery address, by which accept() knows them. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "socket.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24 /* linux/in.h, Linux 4.2; glibc 2.23 */
#endif

/* --- bind --- */

/* May the session's programs have this port on the user's machine? */
static bool claim(const struct endpoint *asked) {
    struct call call;
    if (!session.incoming || call_begin(&call, "ClaimPort", 1) != 0)
        return true;
    endpoint_put(&call.out, asked);
    int result = call_send(&call);
    call_end(&call);
    return result != -EADDRINUSE;
}

static bool is_taken(int error) {
    return error == EADDRINUSE || error == EACCES || error == EADDRNOTAVAIL;
}

static bool is_v6only(int fd, int domain) {
    int on = 0;
    socklen_t size = sizeof on;
    return domain == AF_INET6 && real_getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, &size) == 0 && on;
}

/* Does a descriptor of this process hold the port? Then EADDRINUSE is the program's own doing. */
static bool port_is_ours(const struct endpoint *asked) {
    enum { DESCRIPTORS = 4096 }; /* 70 ns each, and only after EADDRINUSE */
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        struct endpoint local;
        if (socket_tcp_domain(fd) != 0 && endpoint_of_socket(fd, &local) == 0 && local.port == asked->port)
            return true;
    }
    return false;
}

static int bind_to(int fd, int domain, const struct endpoint *endpoint) {
    struct sockaddr_storage address;
    socklen_t length = endpoint_to_sockaddr(endpoint, domain, &address);
    if (length == 0)
        return -EAFNOSUPPORT;
    return real_bind(fd, (struct sockaddr *)&address, length) == 0 ? 0 : -errno;
}

/* A socket whose address is elsewhere is known by its port, so it needs one now, not only when it connects. */
static void bind_with_port(int fd) {
    int off = 0;
    raw_syscall(SYS_setsockopt, fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &off, sizeof off);
}

static void remember_elsewhere(int fd, const struct endpoint *asked, bool any_port) {
    struct endpoint real;
    if (endpoint_of_socket(fd, &real) != 0)
        return;
    struct endpoint known = *asked;
    if (any_port)
        known.port = real.port;
    bound_remember(&known, &real, any_port);
}

static int bind_elsewhere(int fd, int domain, const struct endpoint *asked) {
    struct endpoint chosen;
    int result = endpoint_ask("ChoosePort", asked, "PortChosen", &chosen);
    if (result != 0)
        return result;
    if (asked->port == 0)
        bind_with_port(fd);
    result = bind_to(fd, domain, &chosen);
    if (result == 0)
        remember_elsewhere(fd, asked, asked->port == 0);
    return result;
}

static int64_t incoming_bind(int fd, const struct sockaddr *address, socklen_t length) {
    struct endpoint asked;
    struct endpoint real;
    if (!(session.incoming || session.outgoing) || !is_readable_address(address, length) ||
        !endpoint_from_sockaddr(&asked, address, length))
        return BYPASS;
    int domain = socket_tcp_domain(fd);
    if (domain == 0 || domain != address->sa_family)
        return BYPASS;
    if (asked.port != 0 && (bound_is_moved(asked.port) || !claim(&asked)))
        return bind_elsewhere(fd, domain, &asked);
    if (real_bind(fd, address, length) != 0) {
        int error = errno;
        if (!is_taken(error) || (error == EADDRINUSE && port_is_ours(&asked)))
            return -error;
        int result = bind_elsewhere(fd, domain, &asked);
        return result == -EIO ? -error : result;
    }
    if (endpoint_of_socket(fd, &real) == 0) {
        if (asked.port == 0)
            bound_remember(&real, &real, true);
        else
            bound_forget(&real);
    }
    return 0;
}

int hooked_bind(int fd, const struct sockaddr *address, socklen_t length) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_bind(fd, address, length);
    int saved_errno = errno;
    int64_t result = incoming_bind(fd, address, length);
    if (result < 0 && result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    errno = saved_errno;
    return result == BYPASS ? real_bind(fd, address, length) : 0;
}

/* --- connect --- */

/* Is the port that getsockname tells still the socket's? That of a connect() that has failed is told as before, but
 * anybody may have it. The kernel refuses a bind to no port to a socket that has one; for any other it does nothing
 * (and getsockname tells no port from then on). */
static bool holds_port(int fd, int domain, const struct endpoint *local) {
    int saved = 0;
    int on = 1;
    socklen_t size = sizeof saved;
    struct endpoint no_port = *local;
    no_port.port = 0;
    if (real_getsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &saved, &size) != 0 ||
        raw_syscall(SYS_setsockopt, fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on) < 0)
        return true;
    int result = bind_to(fd, domain, &no_port);
    raw_syscall(SYS_setsockopt, fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &saved, sizeof saved);
    return result != 0;
}

/* A socket whose address is elsewhere and whose port is lost: known by another one from here on. */
static void bind_anew(int fd, int domain, const struct bound *was) {
    struct endpoint place = was->real;
    place.port = 0;
    bind_with_port(fd);
    if (bind_to(fd, domain, &place) == 0)
        remember_elsewhere(fd, &was->asked, true);
}

/* `local`, with its port, is what getsockname tells: makes it what the program asked for. */
static void find_asked(int fd, int domain, struct endpoint *local) {
    struct bound bound;
    bool held = holds_port(fd, domain, local);
    if (!bound_find_real(local, &bound) || !(held || bound.any_port)) {
        if (!held)
            local->port = 0;
        return;
    }
    *local = bound.asked;
    if (!bound.any_port)
        return;
    local->port = 0;
    if (!held && !endpoint_same_address(&bound.asked, &bound.real))
        bind_anew(fd, domain, &bound);
}

bool socket_bound(int fd, int domain, struct endpoint *asked) {
    if (endpoint_of_socket(fd, asked) != 0)
        return false;
    if (asked->port != 0)
        find_asked(fd, domain, asked);
    return !endpoint_is_wildcard(asked) || asked->port != 0;
}

/* --- listen --- */

/* Which descriptors of this process have been seen to listen: one bit each, and where. A number that was closed unseen
 * makes a needless ListenerClosed; one that is too high is left to the proxy, which looks every now and then. */
#define LISTENERS 1024
static uint64_t listening[LISTENERS / 64];
static struct endpoint listener_at[LISTENERS];

static uint64_t inode_of(int fd) {
    struct stat attributes;
    return raw_syscall(SYS_fstat, fd, &attributes) == 0 ? attributes.st_ino : 0;
}

static int tell_listening(int fd, const struct endpoint *asked, const struct endpoint *real, bool v6only) {
    struct call call;
    int result = call_begin(&call, "Listen", 4);
    if (result != 0)
        return result;
    endpoint_put(&call.out, asked);
    endpoint_put(&call.out, real);
    wire_put_bool(&call.out, v6only);
    wire_put_uint(&call.out, inode_of(fd));
    result = call_send(&call);
    call_end(&call);
    return result;
}

static int64_t incoming_listen(int fd, int backlog) {
    struct bound bound;
    int domain = session.incoming || session.outgoing ? socket_tcp_domain(fd) : 0;
    if (domain == 0)
        return BYPASS;
    if (real_listen(fd, backlog) != 0)
        return -errno;
    if (endpoint_of_socket(fd, &bound.real) != 0)
        return 0;
    struct endpoint real = bound.real;
    if (!bound_find_real(&real, &bound))
        bound.asked = real;
    int result = tell_listening(fd, &bound.asked, &real, is_v6only(fd, domain));
    if (result < 0) {
        raw_syscall(SYS_shutdown, fd, SHUT_RD); /* no listener any more, but bound as it was */
        return result == -EIO ? -ENETDOWN : result;
    }
    if (fd < LISTENERS) {
        listener_at[fd] = real;
        __atomic_fetch_or(&listening[fd / 64], UINT64_C(1) << (fd % 64), __ATOMIC_RELEASE);
    }
    return 0;
}

int hooked_listen(int fd, int backlog) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_listen(fd, backlog);
    int saved_errno = errno;
    int64_t result = incoming_listen(fd, backlog);
    if (result < 0 && result != BYPASS)
        return (int)hook_result(&guard, result);
    guard_leave(&guard);
    errno = saved_errno;
    return result == BYPASS ? real_listen(fd, backlog) : 0;
}

bool socket_closing(unsigned first, unsigned last) {
    if (first >= LISTENERS)
        return false;
    if (first == last)
        return (__atomic_load_n(&listening[first / 64], __ATOMIC_RELAXED) >> (first % 64)) & 1;
    for (unsigned word = first / 64; word <= last / 64 && word < LISTENERS / 64; word++)
        if (__atomic_load_n(&listening[word], __ATOMIC_RELAXED) != 0)
            return true;
    return false;
}

void socket_closed(unsigned first, unsigned last) {
    for (unsigned fd = first; fd <= last && fd < LISTENERS; fd++) {
        uint64_t bit = UINT64_C(1) << (fd % 64);
        struct endpoint real = listener_at[fd];
        struct call call;
        if (!(__atomic_fetch_and(&listening[fd / 64], ~bit, __ATOMIC_ACQ_REL) & bit))
            continue;
        if (call_begin(&call, "ListenerClosed", 1) != 0)
            continue;
        endpoint_put(&call.out, &real);
        call_notify(&call);
        call_end(&call);
    }
}

/* --- accept --- */

/* accept() has written the peer's name already; it may be one that only the proxy can translate. */
static void name_peer(int fd, struct sockaddr *address, socklen_t *length, socklen_t room) {
    struct guard guard;
    if (fd < 0 || room < sizeof(sa_family_t) || (address->sa_family != AF_INET && address->sa_family != AF_INET6))
        return;
    if (!guard_enter(&guard))
        return;
    int saved_errno = errno;
    socket_translate_peer(fd, address, length, room);
    errno = saved_errno;
    guard_leave(&guard);
}

int hooked_accept(int fd, struct sockaddr *address, socklen_t *length) {
    socklen_t room = address != NULL && is_readable(length, sizeof *length) ? *length : 0;
    int accepted = real_accept(fd, address, length);
    name_peer(accepted, address, length, room);
    return accepted;
}

int hooked_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    socklen_t room = address != NULL && is_readable(length, sizeof *length) ? *length : 0;
    int accepted = real_accept4(fd, address, length, flags);
    name_peer(accepted, address, length, room);
    return accepted;
}
