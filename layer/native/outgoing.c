/* Outgoing TCP: the program's own socket, connected to the proxy, which is connected to the target.
 *
 * connect() really connects the socket to the proxy's stub, a loopback port whose queue is always full, so that the
 * socket stays in SYN_SENT; the proxy is given a duplicate, and connects to the socket's own port once the target has
 * answered (TCP's simultaneous open). Until then the program has what it would have in the target: a socket that is
 * connecting, whose time-outs, signals, polls and second connect() are the kernel's own affair. A refused connection
 * is shut down by the proxy; the socket's error is then ECONNRESET, and AskOutcome tells the true one. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#include "socket.h"

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262 /* linux/in.h, Linux 5.6 */
#endif

/* Where a logic leaves the connecting to the kernel, outside the guard, since that may take long. */
enum way {
    WAY_DONE,      /* `result` is the answer */
    WAY_ORIGINAL,  /* with the program's own arguments */
    WAY_ELSEWHERE, /* to `address` instead: a listener of the session */
    WAY_WAIT       /* to `address`, which is nowhere: waits for what has begun */
};

struct plan {
    enum way way;
    int result;
    bool has_begun; /* with WAY_WAIT: in this call, not in an earlier one */
    struct sockaddr_storage address;
    socklen_t length;
};

/* What a call that only waits for the connecting to end names as its address: if that has ended in the meantime, it is an
 * attempt to connect to a broadcast address, which begins nothing and says ENETUNREACH. */
static const struct endpoint nowhere = {.address = {255, 255, 255, 255}, .size = 4, .port = 9};

static int take_error(int fd) {
    int error = 0;
    socklen_t size = sizeof error;
    return real_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

/* Back to an unconnected socket without an error, as after a connect() that failed. */
static void disconnect(int fd) {
    struct sockaddr unspecified = {.sa_family = AF_UNSPEC};
    raw_syscall(SYS_connect, fd, &unspecified, sizeof unspecified);
    take_error(fd);
}

/* The target's errno for a socket that has just said ECONNRESET; 0: the connection was reset in earnest. */
static int ask_outcome(int fd) {
    uint64_t cookie = 0;
    socklen_t size = sizeof cookie;
    if (real_getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &size) != 0)
        return 0;
    struct call call;
    if (call_begin(&call, "AskOutcome", 1) != 0)
        return ENETDOWN;
    wire_put_uint(&call.out, cookie);
    int result = call_send(&call);
    call_end(&call);
    if (result == -ENOENT)
        return 0;
    return result < 0 && result != -EIO ? -result : ENETDOWN;
}

/* The stub as a socket of this domain reaches it. An IPv6 socket gets to it by IPv4 where it can, since the machine may
 * have no IPv6 at all; `by_ipv6` is for one that is bound to IPv6. */
static socklen_t stub(int domain, bool by_ipv6, struct sockaddr_storage *address) {
    struct endpoint endpoint = {.port = session.stub_port};
    if (by_ipv6) {
        memcpy(endpoint.address, &in6addr_loopback, 16);
        endpoint.size = 16;
    } else {
        memcpy(endpoint.address, session.stub_address, 4);
        endpoint.size = 4;
    }
    return endpoint_to_sockaddr(&endpoint, domain, address);
}

/* What connect() to the stub says; EINPROGRESS is what it should be. */
static int begin(int fd, int domain, const struct endpoint *endpoint) {
    struct sockaddr_storage address;
    socklen_t length = stub(domain, false, &address);
    int64_t result = raw_syscall(SYS_connect, fd, &address, length);
    /* An IPv6 socket that is bound to IPv6, or may do no IPv4: the kernel refuses it only what is no IPv6 address. */
    if (domain == AF_INET6 && endpoint->size == 16 && result != 0 && result != -EINPROGRESS && result != -EISCONN &&
        result != -ECONNABORTED) {
        length = stub(domain, true, &address);
        result = raw_syscall(SYS_connect, fd, &address, length);
    }
    return (int)-result;
}

static int tell_proxy(int fd, const struct endpoint *endpoint, const struct endpoint *bind) {
    struct call call;
    int result = call_begin(&call, "Connect", 3);
    if (result != 0)
        return result;
    call.sent_fd = fd;
    wire_put_uint(&call.out, 0);
    endpoint_put(&call.out, endpoint);
    if (bind != NULL)
        endpoint_put(&call.out, bind);
    else
        wire_put_nil(&call.out);
    result = call_notify(&call);
    call_end(&call);
    return result;
}

/* An unconnected socket: begins, without waiting. Linux refuses the first connect() after a failure that was read by
 * SO_ERROR (ECONNABORTED); a socket that failed by our shutdown shows that it is in this state by being shut down, to
 * which the kernel does not look. */
static int start(int fd, int domain, const struct endpoint *endpoint, bool shut_down) {
    struct endpoint bind;
    bool is_bound = socket_bound(fd, domain, &bind);
    int error = begin(fd, domain, endpoint);
    if (error != EINPROGRESS)
        return error == ECONNREFUSED ? ENETDOWN : error; /* nothing listens: the proxy is gone */
    error = shut_down ? ECONNABORTED : tell_proxy(fd, endpoint, is_bound ? &bind : NULL) == 0 ? EINPROGRESS : ENETDOWN;
    if (error != EINPROGRESS)
        disconnect(fd);
    return error;
}

/* With O_NONBLOCK for the moment, if the program's socket blocks. */
static int start_nonblocking(int fd, int domain, const struct endpoint *endpoint, bool shut_down, struct plan *plan) {
    int64_t flags = raw_syscall(SYS_fcntl, fd, F_GETFL, 0);
    bool blocks = flags >= 0 && !(flags & O_NONBLOCK);
    if (blocks)
        raw_syscall(SYS_fcntl, fd, F_SETFL, flags | O_NONBLOCK);
    int error = start(fd, domain, endpoint, shut_down);
    if (blocks) {
        raw_syscall(SYS_fcntl, fd, F_SETFL, flags);
        if (error == EINPROGRESS) {
            plan->way = WAY_WAIT;
            plan->has_begun = true;
            plan->length = endpoint_to_sockaddr(&nowhere, domain, &plan->address);
        }
    }
    return error;
}

/* An unconnected socket says POLLHUP, one that has failed also POLLERR. */
static short poll_state(int fd) {
    struct pollfd state = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};
    struct timespec at_once = {0};
    raw_syscall(SYS_ppoll, &state, 1, &at_once, NULL, 0);
    return state.revents;
}

static struct plan plan_connect(int fd, const struct sockaddr *address, socklen_t length) {
    struct plan plan = {.way = WAY_ORIGINAL};
    struct endpoint endpoint;
    if (!session.outgoing || !is_readable_address(address, length) ||
        !endpoint_from_sockaddr(&endpoint, address, length))
        return plan;
    int domain = socket_tcp_domain(fd);
    if (domain != address->sa_family) /* also: not TCP */
        return plan;
    if (endpoint_is_loopback(&endpoint) || endpoint_is_wildcard(&endpoint)) {
        struct endpoint found;
        if (endpoint_ask("FindListener", &endpoint, "ListenerFound", &found) == 0) {
            plan.way = WAY_ELSEWHERE;
            plan.length = endpoint_to_sockaddr(&found, domain, &plan.address);
            if (plan.length != 0)
                return plan;
        }
    }

    short state = poll_state(fd);
    if (!(state & POLLHUP)) { /* connecting, connected or listening already: the kernel looks at no address then */
        plan.way = WAY_WAIT;
        plan.length = endpoint_to_sockaddr(&nowhere, domain, &plan.address);
        return plan;
    }
    plan.way = WAY_DONE;
    int error = state & POLLERR ? take_error(fd) : 0; /* failed, and nobody has asked why */
    int outcome = error == ECONNRESET ? ask_outcome(fd) : 0;
    if (outcome != 0) {
        disconnect(fd);
        plan.result = outcome;
        return plan;
    }
    /* Any other error is of a connection that has been given up and that the kernel does not mind, unless it finds that
     * connecting itself has failed: it would have told that error, had we not taken it. */
    plan.result = start_nonblocking(fd, domain, &endpoint, (state & POLLRDHUP) && error == 0, &plan);
    if (plan.result == ECONNABORTED && error != 0)
        plan.result = error;
    return plan;
}

/* The end of a wait: what connect() is to say. The socket may have failed before the wait began. */
static int after_wait(int fd, int error) {
    if (error == ENETUNREACH)
        error = take_error(fd);
    int outcome =
        error == ECONNRESET || error == ECONNREFUSED ? ask_outcome(fd) : 0; /* refused: by a stub that is gone */
    if (outcome != 0)
        disconnect(fd);
    return outcome != 0 ? outcome : error != 0 ? error : ECONNABORTED;
}

int hooked_connect(int fd, const struct sockaddr *address, socklen_t length) {
    struct guard guard;
    if (!guard_enter(&guard))
        return real_connect(fd, address, length);
    int saved_errno = errno;
    struct plan plan = plan_connect(fd, address, length);
    if (plan.way == WAY_DONE && plan.result != 0)
        return (int)hook_result(&guard, -plan.result);
    guard_leave(&guard);
    errno = saved_errno;
    switch (plan.way) {
    case WAY_DONE:
        return 0;
    case WAY_ORIGINAL:
        return real_connect(fd, address, length);
    case WAY_ELSEWHERE:
        return real_connect(fd, (struct sockaddr *)&plan.address, plan.length);
    case WAY_WAIT:
        break;
    }
    int result = real_connect(fd, (struct sockaddr *)&plan.address, plan.length);
    if (result != 0 && errno == EALREADY && plan.has_begun)
        errno = EINPROGRESS; /* SO_SNDTIMEO is over: in the kernel's eyes it was our second call */
    if (result == 0 || !(errno == ECONNRESET || errno == ENETUNREACH || (errno == ECONNREFUSED && plan.has_begun)) ||
        !guard_enter(&guard))
        return result;
    return (int)hook_result(&guard, -after_wait(fd, errno));
}

int hooked_getsockopt(int fd, int level, int option, void *value, socklen_t *size) {
    int result = real_getsockopt(fd, level, option, value, size);
    if (result != 0 || level != SOL_SOCKET || option != SO_ERROR || *size < sizeof(int))
        return result;
    int error;
    memcpy(&error, value, sizeof error);
    if (error == ECONNRESET || error == ECONNREFUSED) {
        error = outgoing_error(fd, error);
        memcpy(value, &error, sizeof error);
    }
    return result;
}

int outgoing_error(int fd, int error) {
    struct guard guard;
    if (!session.outgoing || !guard_enter(&guard))
        return error;
    int saved_errno = errno;
    /* Refused: by a stub that is gone. Datagrams may be refused, too. */
    int outcome = error == ECONNRESET || socket_tcp_domain(fd) != 0 ? ask_outcome(fd) : 0;
    guard_leave(&guard);
    errno = saved_errno;
    return outcome != 0 ? outcome : error;
}

/* Multipath TCP knows no simultaneous open. It becomes plain TCP, as it does with any server that does not speak it. */
int hooked_socket(int domain, int type, int protocol) {
    if (protocol == IPPROTO_MPTCP && session.active && session.outgoing && (domain == AF_INET || domain == AF_INET6))
        protocol = IPPROTO_TCP;
    return real_socket(domain, type, protocol);
}
