/* The calls that move data. They need no hooks for that: a connection of the target is a real socket. But the error of a
 * connection that could not be made is reported by whichever call comes first, and the socket knows only ECONNRESET;
 * and with TCP fast open, sending connects. */
#include <errno.h>
#include <unistd.h>

#include "socket.h"

/* A call has ended; its errno is still what it set. */
static ssize_t moved(int fd, ssize_t result) {
    if (result < 0 && (errno == ECONNRESET || errno == ECONNREFUSED))
        errno = outgoing_error(fd, errno);
    return result;
}

ssize_t hooked_read(int fd, void *buffer, size_t size) {
    return moved(fd, real_read(fd, buffer, size));
}

ssize_t hooked_readv(int fd, const struct iovec *buffers, int count) {
    return moved(fd, real_readv(fd, buffers, count));
}

ssize_t hooked_recv(int fd, void *buffer, size_t size, int flags) {
    return moved(fd, real_recv(fd, buffer, size, flags));
}

ssize_t hooked_recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *address, socklen_t *length) {
    return moved(fd, real_recvfrom(fd, buffer, size, flags, address, length));
}

ssize_t hooked_recvmsg(int fd, struct msghdr *message, int flags) {
    return moved(fd, real_recvmsg(fd, message, flags));
}

ssize_t hooked_write(int fd, const void *data, size_t size) {
    return moved(fd, real_write(fd, data, size));
}

ssize_t hooked_writev(int fd, const struct iovec *data, int count) {
    return moved(fd, real_writev(fd, data, count));
}

ssize_t hooked_send(int fd, const void *data, size_t size, int flags) {
    return moved(fd, real_send(fd, data, size, flags));
}

/* TCP fast open: the target cannot be sent data before it has answered, so this is what the kernel does when it has
 * no cookie for the server yet. */
ssize_t hooked_sendto(int fd, const void *data, size_t size, int flags, const struct sockaddr *address,
                      socklen_t length) {
    if (!(flags & MSG_FASTOPEN) || !session.outgoing || address == NULL)
        return moved(fd, real_sendto(fd, data, size, flags, address, length));
    if (hooked_connect(fd, address, length) != 0)
        return -1;
    return moved(fd, real_sendto(fd, data, size, flags & ~MSG_FASTOPEN, NULL, 0));
}

ssize_t hooked_sendmsg(int fd, const struct msghdr *message, int flags) {
    if (!(flags & MSG_FASTOPEN) || !session.outgoing || !is_readable(message, sizeof *message) ||
        message->msg_name == NULL)
        return moved(fd, real_sendmsg(fd, message, flags));
    struct msghdr rest = *message;
    if (hooked_connect(fd, message->msg_name, message->msg_namelen) != 0)
        return -1;
    rest.msg_name = NULL;
    rest.msg_namelen = 0;
    return moved(fd, real_sendmsg(fd, &rest, flags & ~MSG_FASTOPEN));
}
