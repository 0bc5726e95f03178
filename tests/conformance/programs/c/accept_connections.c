/* A server: the caller's address, several ports, port 0, and that closing ends it. The dialer, a service of the test's,
 * makes the connections when it is told to and reports what it was answered. */
#include "program.h"

static int listen_on(int family, const char *text, int port)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, text, port);
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, size) != 0)
        printf("bind %s\n", strerrorname_np(errno));
    if (listen(fd, 16) != 0)
        printf("listen %s\n", strerrorname_np(errno));
    return fd;
}

static int order(int target_port, int source_port)
{
    int dialer = dial(STOREFRONT, PORT_DIALER);
    dprintf(dialer, "%s %d %d\n", POD, target_port, source_port);
    return dialer;
}

static void report(int dialer)
{
    char text[256] = "";
    read_fully(dialer, text, sizeof text - 1);
    printf("  the dialer says: %s", text);
    close(dialer);
}

static void serve(int listener, int source_port)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    int fd = accept(listener, (struct sockaddr *)&address, &size);
    printf("  accepted %d from %s size %u\n", fd >= 0, endpoint(&address, source_port == 0), size);
    size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("  at %s\n", endpoint(&address, false));
    size = sizeof address;
    getpeername(fd, (struct sockaddr *)&address, &size);
    printf("  peer %s\n", endpoint(&address, source_port == 0));
    char question[64] = "";
    ssize_t count = read(fd, question, sizeof question);
    printf("  asked %zd %s", count, question);
    dprintf(fd, "answer to %s", question);
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct sockaddr_storage address;
    socklen_t size = sizeof address;

    int first = listen_on(AF_INET, "0.0.0.0", 9001);
    getsockname(first, (struct sockaddr *)&address, &size);
    printf("one at %s\n", endpoint(&address, false));
    int dialer = order(9001, 20001);
    serve(first, 20001);
    report(dialer);
    dialer = order(9001, 0);
    serve(first, 0);
    report(dialer);

    int second = listen_on(AF_INET, "0.0.0.0", 9002), third = listen_on(AF_INET6, "::", 9003);
    printf("three ports\n");
    int dialers[3] = {order(9003, 20003), order(9002, 20002), order(9001, 20011)};
    serve(first, 20011);
    serve(second, 20002);
    serve(third, 20003);
    for (int index = 0; index < 3; index++)
        report(dialers[index]);

    printf("non-blocking\n");
    fcntl(second, F_SETFL, O_NONBLOCK);
    SAY(accept(second, NULL, NULL));
    dialer = order(9002, 20022);
    struct pollfd waiting = {.fd = second, .events = POLLIN};
    SAY(poll(&waiting, 1, 60000));
    int fd = accept4(second, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    printf("accept4 flags %d %d\n", fcntl(fd, F_GETFD), !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    waiting.fd = fd;
    poll(&waiting, 1, 60000);
    char question[64] = "";
    SAY(read(fd, question, sizeof question) > 0);
    SAY(write(fd, "short\n", 6));
    SAY(shutdown(fd, SHUT_WR));
    report(dialer);
    close(fd);

    printf("at the pod's address\n");
    int own = listen_on(AF_INET, POD, 9004);
    size = sizeof address;
    getsockname(own, (struct sockaddr *)&address, &size);
    printf("%s\n", endpoint(&address, false));
    dialer = order(9004, 20004);
    serve(own, 20004);
    report(dialer);
    close(own);
    own = listen_on(AF_INET, POD, 0);
    size = sizeof address;
    getsockname(own, (struct sockaddr *)&address, &size);
    printf("%s\n", endpoint(&address, true));
    dialer = order(ntohs(((struct sockaddr_in *)&address)->sin_port), 20005);
    int fresh = accept(own, NULL, NULL);
    SAY(write(fresh, "fresh\n", 6));
    SAY(shutdown(fresh, SHUT_WR));
    report(dialer);
    close(fresh);
    close(own);

    printf("in a child\n");
    dialer = order(9001, 20012);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        serve(first, 20012);
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    report(dialer);

    printf("closed\n");
    close(first);
    report(order(9001, 20013));
    first = listen_on(AF_INET, "0.0.0.0", 9001);
    dialer = order(9001, 20014);
    serve(first, 20014);
    report(dialer);

    printf("port 0\n");
    int any = listen_on(AF_INET, "0.0.0.0", 0);
    size = sizeof address;
    getsockname(any, (struct sockaddr *)&address, &size);
    int port = ntohs(((struct sockaddr_in *)&address)->sin_port);
    printf("%s\n", endpoint(&address, true));
    dialer = order(port, 20015);
    fd = accept(any, NULL, NULL);
    SAY(read(fd, question, sizeof question) > 0);
    SAY(write(fd, "any\n", 4));
    close(fd);
    report(dialer);

    printf("not bound\n");
    int unbound = socket(AF_INET, SOCK_STREAM, 0);
    SAY(listen(unbound, 1));
    int again = socket(AF_INET, SOCK_STREAM, 0);
    size = make_address(&address, "0.0.0.0", 9002);
    SAY(bind(again, (struct sockaddr *)&address, size));
    SAY(listen(-1, 1));
    SAY(accept(again, NULL, NULL));
    return 0;
}
