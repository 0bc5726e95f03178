/* What the socket families share: endpoints as messages have them, and the table of ports that are bound elsewhere.
 *
 * Nothing is remembered about a connection: a socket whose real peer is the proxy's stub, or whose real peer has the
 * delivery address, belongs to a connection of the target, and the proxy knows the rest. That holds in any process
 * that got the descriptor, by whatever way. Only binds leave something behind, in bound.c. */
#ifndef MIRROR_SOCKET_H
#define MIRROR_SOCKET_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "layer.h"

/* An IPv4 or IPv6 address and port: SocketAddress in the messages. */
struct endpoint {
    uint8_t address[16];
    uint8_t size; /* of the address: 4 or 16 */
    uint16_t port;
    uint32_t flowinfo; /* network order, as in sockaddr_in6 */
    uint32_t scope_id;
};

/* --- endpoint.c --- */

/* Whether the kernel would get as far as looking at it: neither EFAULT nor too long. */
bool is_readable_address(const struct sockaddr *address, socklen_t length);
/* False: not an IPv4 or IPv6 address, or too short to be one. */
bool endpoint_read(struct endpoint *endpoint, const struct sockaddr *address, socklen_t length);
/* The same, but a v4-mapped address becomes the IPv4 address. */
bool endpoint_from_sockaddr(struct endpoint *endpoint, const struct sockaddr *address, socklen_t length);
/* As a socket of this domain (AF_INET or AF_INET6) has it: IPv4 becomes v4-mapped for AF_INET6. 0: impossible. */
socklen_t endpoint_to_sockaddr(const struct endpoint *endpoint, int domain, struct sockaddr_storage *address);
bool endpoint_is_wildcard(const struct endpoint *endpoint);
bool endpoint_is_loopback(const struct endpoint *endpoint);
bool endpoint_same_address(const struct endpoint *one, const struct endpoint *other);
void endpoint_put(struct wire_writer *out, const struct endpoint *endpoint);
void endpoint_get(struct wire_reader *in, struct endpoint *endpoint);

/* The real names of a socket, as the kernel of the user's machine has them. 0 or -errno. */
int endpoint_of_socket(int fd, struct endpoint *local);
int endpoint_of_peer(int fd, struct endpoint *peer);

/* AF_INET or AF_INET6 for a TCP socket, 0 for anything else. */
int socket_tcp_domain(int fd);

/* Asks the proxy about one endpoint; `answered` comes back. */
int endpoint_ask(const char *request, const struct endpoint *asked, const char *answer, struct endpoint *answered);

/* Can these bytes be read? The kernel answers a bad pointer by EFAULT, we would crash. */
bool is_readable(const void *memory, size_t size);

/* --- incoming.c --- */

/* What the program bound a socket of this domain to that is not connected, as the target would know it; a port of 0 is
 * for the target to choose. False: to nothing. */
bool socket_bound(int fd, int domain, struct endpoint *asked);

/* --- outgoing.c --- */

/* What the ECONNRESET or ECONNREFUSED that a socket has just reported (and so forgotten) was in the target. Leaves errno
 * alone. */
int outgoing_error(int fd, int error);

/* --- socket_names.c --- */

/* `address` and `*length` are what the kernel wrote into `room` bytes for the peer of `fd`: makes them what the target's
 * kernel would have written, if the connection is one of the target's. */
void socket_translate_peer(int fd, struct sockaddr *address, socklen_t *length, socklen_t room);

/* --- bound.c --- */

/* A port that the program bound and that is another one in truth, or that it left to the kernel to choose. */
struct bound {
    struct endpoint asked; /* its port is the one in `real` if the program asked for 0 */
    struct endpoint real;
    bool any_port;
};

void bound_remember(const struct endpoint *asked, const struct endpoint *real, bool any_port);
/* A socket has been bound to exactly this: what was remembered of it is of a socket that is gone. */
void bound_forget(const struct endpoint *real);
/* Is there another port in the place of this one? */
bool bound_is_moved(uint16_t port);
/* By where a socket really is: a listener, or a connection that it accepted. */
bool bound_find_real(const struct endpoint *local, struct bound *found);

#endif
