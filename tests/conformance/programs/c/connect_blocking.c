/* Blocking connections, and what both ends say of their addresses. */
#include "program.h"

static void ends(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    SAY(getpeername(fd, (struct sockaddr *)&address, &size));
    printf("  peer %s size %u\n", endpoint(&address, false), size);
    size = sizeof address;
    SAY(getsockname(fd, (struct sockaddr *)&address, &size));
    printf("  own %s size %u\n", endpoint(&address, true), size);
    size = 4;
    SAY(getpeername(fd, (struct sockaddr *)&address, &size));
    printf("  size when cut %u\n", size);
}

static void ask_who(const char *address)
{
    int fd = dial(address, PORT_WHO);
    if (fd < 0) {
        printf("%s: %s\n", address, strerrorname_np(errno));
        return;
    }
    char answer[128] = "", mine[160];
    read_fully(fd, answer, sizeof answer - 1);
    struct sockaddr_storage own;
    socklen_t size = sizeof own;
    getsockname(fd, (struct sockaddr *)&own, &size);
    snprintf(mine, sizeof mine, "%s\n", endpoint(&own, false));
    printf("%s: getsockname and the server agree on my address and port: %d\n", address, strcmp(answer, mine) == 0);
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int fd = (int)SAY(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, INVENTORY, PORT_ECHO);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    ends(fd);
    char buffer[64] = "";
    SAY(send(fd, "hello", 5, 0));
    SAY(read_fully(fd, buffer, 5));
    printf("%s\n", buffer);
    SAY(write(fd, "again", 5));
    SAY(recv(fd, buffer, sizeof buffer, MSG_PEEK));
    SAY(recv(fd, buffer, 2, 0));
    SAY(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT));
    SAY(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT));
    SAY(connect(fd, (struct sockaddr *)&address, size));
    int error = -1;
    socklen_t length = sizeof error;
    SAY(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
    printf("SO_ERROR %d\n", error);
    SAY(fcntl(fd, F_GETFL) & O_NONBLOCK);
    SAY(shutdown(fd, SHUT_WR));
    SAY(read(fd, buffer, sizeof buffer));
    SAY(send(fd, "x", 1, MSG_NOSIGNAL));
    SAY(close(fd));
    ask_who(INVENTORY);
    ask_who(INVENTORY_V6);
    ask_who(STOREFRONT);
    fd = dial(INVENTORY, PORT_ECHO);
    int copy = dup(fd);
    close(fd);
    ends(copy);
    SAY(write(copy, "dup", 3));
    SAY(read_fully(copy, buffer, 3));
    pid_t child = fork();
    if (child == 0) {
        ends(copy);
        SAY(write(copy, "child", 5));
        SAY(read_fully(copy, buffer, 5));
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    close(copy);
    SAY(getpeername(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, &size));
    SAY(getpeername(0, (struct sockaddr *)&address, &size));
    return 0;
}
