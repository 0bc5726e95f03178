/* IPv6 and mapped addresses, sockets bound before they connect, options, and connections that outlive an exec. */
#include "program.h"

static void ends(int fd)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int result = getpeername(fd, (struct sockaddr *)&address, &size);
    printf("  peer %s", result == 0 ? endpoint(&address, false) : strerrorname_np(errno));
    size = sizeof address;
    result = getsockname(fd, (struct sockaddr *)&address, &size);
    printf(", own %s, family %d\n", result == 0 ? endpoint(&address, true) : strerrorname_np(errno), address.ss_family);
}

static void echo(int fd, const char *text)
{
    char answer[32] = "";
    say(write(fd, text, strlen(text)), "  write");
    read_fully(fd, answer, strlen(text));
    printf("  %s\n", answer);
}

int program(int argc, char **argv)
{
    struct sockaddr_storage address;
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        int fd = atoi(argv[2]);
        ends(fd);
        echo(fd, "after exec");
        return 5;
    }
    socklen_t size = make_address(&address, INVENTORY_V6, PORT_ECHO);
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    ends(fd);
    echo(fd, "version 6");
    close(fd);

    size = make_address(&address, composed("::ffff:%s", INVENTORY), PORT_ECHO);
    fd = socket(AF_INET6, SOCK_STREAM, 0);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    ends(fd);
    echo(fd, "mapped");
    close(fd);

    fd = socket(AF_INET6, SOCK_STREAM, 0);
    int on = 1;
    SAY(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on));
    SAY(connect(fd, (struct sockaddr *)&address, size));
    close(fd);

    fd = socket(AF_INET, SOCK_STREAM, 0);
    SAY(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on));
    SAY(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on));
    size = make_address(&address, INVENTORY, PORT_ECHO);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    int value = -1;
    socklen_t length = sizeof value;
    SAY(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length));
    printf("  TCP_NODELAY %d\n", value);
    SAY(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length));
    printf("  SO_KEEPALIVE %d\n", value);
    SAY(getsockopt(fd, SOL_SOCKET, SO_TYPE, &value, &length));
    printf("  SO_TYPE %d\n", value);
    SAY(getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length));
    printf("  SO_DOMAIN %d\n", value);
    char number[12];
    snprintf(number, sizeof number, "%d", fd);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl(argv[0], argv[0], "plain", "child", number, (char *)NULL);
        _exit(98);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("child %d\n", status);
    echo(fd, "parent");
    close(fd);

    fd = socket(AF_INET, SOCK_STREAM, 0);
    size = make_address(&address, "0.0.0.0", 0);
    SAY(bind(fd, (struct sockaddr *)&address, size));
    size = make_address(&address, INVENTORY, PORT_ECHO);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    ends(fd);
    echo(fd, "bound before");
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    struct timeval patience = {60, 0};
    SAY(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience));
    SAY(connect(fd, (struct sockaddr *)&address, size));
    echo(fd, "with a timeout");
    close(fd);
    return 0;
}
