/* Non-blocking connections: how poll, epoll and SO_ERROR tell of success and of every failure. */
#include "program.h"

static int so_error(int fd)
{
    int error = -1;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    return error;
}

static const char *name_of(int error)
{
    return error ? strerrorname_np(error) : "none";
}

/* The kernel marks a failure bit by bit, and who looks just then sees a part of it. */
static bool is_settled(unsigned events)
{
    return (events & POLLOUT) && !(events & POLLERR) == !(events & POLLHUP);
}

static void try(const char *text, int port, bool with_epoll)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, text, port);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int result = connect(fd, (struct sockaddr *)&address, size);
    int error = result == 0 ? 0 : errno;
    /* A refusal on the same machine may come within the call. */
    printf("%s %d: connect %s\n", text, port, error == EINPROGRESS ? "goes on" : name_of(error));
    if (error == EINPROGRESS) {
        if (with_epoll) {
            int epoll = epoll_create1(0);
            struct epoll_event event = {.events = EPOLLOUT | EPOLLET};
            epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
            int count = epoll_wait(epoll, &event, 1, 60000);
            while (count == 1 && !is_settled(event.events)) {
                event.events = EPOLLOUT | EPOLLET;
                epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
                count = epoll_wait(epoll, &event, 1, 60000);
            }
            printf("  epoll %d: out %d error %d hang-up %d\n", count, !!(event.events & EPOLLOUT),
                   !!(event.events & EPOLLERR), !!(event.events & EPOLLHUP));
            close(epoll);
        } else {
            struct pollfd waiting = {.fd = fd, .events = POLLOUT};
            int count = poll(&waiting, 1, 60000);
            while (count == 1 && !is_settled((unsigned)waiting.revents))
                count = poll(&waiting, 1, 60000);
            printf("  poll %d: out %d hang-up %d\n", count, !!(waiting.revents & POLLOUT), !!(waiting.revents & POLLHUP));
        }
        printf("  SO_ERROR %s", name_of(so_error(fd)));
        printf(", then %s\n", name_of(so_error(fd)));
    }
    struct sockaddr_storage peer;
    socklen_t length = sizeof peer;
    if (getpeername(fd, (struct sockaddr *)&peer, &length) == 0)
        printf("  peer %s\n", endpoint(&peer, false));
    else
        printf("  peer %s\n", strerrorname_np(errno));
    if (error == EINPROGRESS && port == PORT_ECHO) {
        say(connect(fd, (struct sockaddr *)&address, size), "  connect again");
        say(write(fd, "ping", 4), "  write");
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        poll(&waiting, 1, 60000);
        char answer[8] = "";
        say(read(fd, answer, sizeof answer), "  read");
        say(read(fd, answer, sizeof answer), "  read with nothing there");
    }
    close(fd);
}

static void by_connecting_again(const char *text, int port)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, text, port);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(fd, (struct sockaddr *)&address, size) == 0 || errno != EINPROGRESS)
        printf("%s %d: at once %s\n", text, port, strerrorname_np(errno));
    struct pollfd waiting = {.fd = fd, .events = POLLOUT};
    poll(&waiting, 1, 60000);
    int result = connect(fd, (struct sockaddr *)&address, size);
    printf("%s %d: connecting again %s\n", text, port, result == 0 ? "succeeds" : strerrorname_np(errno));
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int with_epoll = 0; with_epoll < 2; with_epoll++) {
        try(INVENTORY, PORT_ECHO, with_epoll);
        try(INVENTORY, PORT_NOBODY, with_epoll);
        try(INVENTORY_V6, PORT_ECHO, with_epoll);
        try(INVENTORY_V6, PORT_NOBODY, with_epoll);
    }
    by_connecting_again(INVENTORY, PORT_ECHO);
    by_connecting_again(INVENTORY, PORT_NOBODY);
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, INVENTORY, PORT_NOBODY);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    connect(fd, (struct sockaddr *)&address, size);
    struct pollfd waiting = {.fd = fd, .events = POLLOUT};
    poll(&waiting, 1, 60000);
    char byte;
    say(read(fd, &byte, 1), "reading after a failure");
    close(fd);
    int many[20], done = 0;
    struct pollfd all[20];
    size = make_address(&address, INVENTORY, PORT_ECHO);
    for (int index = 0; index < 20; index++) {
        many[index] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        connect(many[index], (struct sockaddr *)&address, size);
        all[index] = (struct pollfd){many[index], POLLOUT, 0};
    }
    for (int round = 0; round < 200 && done < 20; round++) {
        poll(all, 20, 60000);
        for (int index = 0; index < 20; index++)
            if (all[index].fd >= 0 && all[index].revents) {
                done += so_error(all[index].fd) == 0;
                all[index].fd = -1;
            }
    }
    printf("twenty at once: %d\n", done);
    return 0;
}
