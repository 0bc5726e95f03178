/* Half-close, resets, and data that is on its way when a side ends. */
#include "program.h"

static char block[65536];

static void half_close(size_t total)
{
    int fd = dial(INVENTORY, PORT_DIGEST);
    size_t sent = 0;
    while (sent < total) {
        ssize_t count = write(fd, block, total - sent < sizeof block ? total - sent : sizeof block);
        if (count <= 0)
            break;
        sent += (size_t)count;
    }
    SAY(shutdown(fd, SHUT_WR));
    char answer[128] = "";
    SAY(read_fully(fd, answer, sizeof answer));
    printf("%s", answer);
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    signal(SIGPIPE, SIG_IGN);
    for (size_t index = 0; index < sizeof block; index++)
        block[index] = (char)(index * 31 % 251);
    half_close(0);
    half_close(1);
    half_close(100000);
    half_close(3000000);

    int fd = dial(INVENTORY, PORT_RESET);
    char byte = 'r';
    SAY(write(fd, &byte, 1));
    SAY(read(fd, &byte, 1));
    SAY(read(fd, &byte, 1));
    SAY(write(fd, &byte, 1));
    int error = -1;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    printf("SO_ERROR %d\n", error);
    close(fd);

    fd = dial(INVENTORY, PORT_RESET);
    SAY(write(fd, &byte, 1));
    struct pollfd waiting = {.fd = fd, .events = POLLIN};
    SAY(poll(&waiting, 1, 60000));
    /* The kernel marks the error before the rest; a poll that begins in between sees only that. */
    while (!(waiting.revents & POLLHUP))
        poll(&waiting, 1, 60000);
    printf("in %d error %d hang-up %d\n", !!(waiting.revents & POLLIN), !!(waiting.revents & POLLERR),
           !!(waiting.revents & POLLHUP));
    error = -1;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    printf("SO_ERROR %s\n", error > 0 ? strerrorname_np(error) : "none");
    SAY(read(fd, &byte, 1));
    close(fd);

    fd = dial(INVENTORY, PORT_FLOOD);
    static char received[4 << 20];
    ssize_t count = read_fully(fd, received, sizeof received);
    printf("flood %zd %016jx\n", count, (uintmax_t)hash(0, received, count > 0 ? (size_t)count : 0));
    SAY(read(fd, &byte, 1));
    close(fd);

    fd = dial(INVENTORY, PORT_FLOOD);
    SAY(read(fd, received, 10) > 0);
    SAY(close(fd));

    fd = dial(INVENTORY, PORT_SILENT);
    struct timeval patience = {0, 50000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    SAY(read(fd, &byte, 1));
    SAY(shutdown(fd, SHUT_RD));
    SAY(read(fd, &byte, 1));
    SAY(shutdown(fd, SHUT_RDWR));
    close(fd);
    SAY(shutdown(socket(AF_INET, SOCK_STREAM, 0), SHUT_RDWR));
    return 0;
}
