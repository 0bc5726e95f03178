/* A second connect() of a socket whose first was refused: getsockname still tells the port of the first, but that is not
 * the socket's any more and may be anybody's. */
#include "program.h"

static in_port_t *port_of(struct sockaddr_storage *address)
{
    return address->ss_family == AF_INET ? &((struct sockaddr_in *)address)->sin_port
                                         : &((struct sockaddr_in6 *)address)->sin6_port;
}

static struct sockaddr_storage name_of(int fd)
{
    struct sockaddr_storage name;
    socklen_t size = sizeof name;
    getsockname(fd, (struct sockaddr *)&name, &size);
    return name;
}

/* A connection that takes the port that the socket had. Whether it gets it is not said: if somebody has been quicker,
 * the port is in use all the same. */
static int take_port_of(int fd, const struct sockaddr_storage *echo, socklen_t size)
{
    struct sockaddr_storage any = {.ss_family = echo->ss_family};
    struct sockaddr_storage had = name_of(fd);
    *port_of(&any) = *port_of(&had);
    int other = socket(echo->ss_family, SOCK_STREAM, 0);
    if (bind(other, (struct sockaddr *)&any, size) == 0)
        connect(other, (const struct sockaddr *)echo, size);
    return other;
}

/* `own`: what the socket is bound to at first, with any port; null: nothing. */
static void connect_again(const char *host, const char *own, int without_port)
{
    struct sockaddr_storage nobody, echo, self, name;
    socklen_t size = make_address(&nobody, host, PORT_NOBODY);
    make_address(&echo, host, PORT_ECHO);
    printf("to %s, bound to %s%s\n", host, own ? own : "nothing", without_port ? ", a port only when it connects" : "");
    int fd = socket(nobody.ss_family, SOCK_STREAM, 0);
    if (without_port)
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &without_port, sizeof without_port);
    if (own != NULL) {
        make_address(&self, own, 0);
        SAY(bind(fd, (struct sockaddr *)&self, size));
    }
    for (int attempt = 0; attempt < 2; attempt++) {
        SAY(connect(fd, (struct sockaddr *)&nobody, size));
        name = name_of(fd);
        printf("%s\n", endpoint(&name, true));
    }
    int other = take_port_of(fd, &echo, size);
    SAY(connect(fd, (struct sockaddr *)&echo, size));
    name = name_of(fd);
    printf("%s\n", endpoint(&name, true));
    int option = -1;
    socklen_t length = sizeof option;
    getsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &option, &length);
    if (own == NULL)
        printf("IP_BIND_ADDRESS_NO_PORT %d\n", option);
    close(other);
    close(fd);
}

/* What the program bound to a port of its choice keeps that port: one that no other run has just had. */
static void keep_port(void)
{
    struct sockaddr_storage nobody, who, name, any = {.ss_family = AF_INET};
    socklen_t size = make_address(&nobody, INVENTORY, PORT_NOBODY);
    make_address(&who, INVENTORY, PORT_WHO);
    int port = 20100 + getpid() % 10000;
    *port_of(&any) = htons((uint16_t)port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    SAY(bind(fd, (struct sockaddr *)&any, size));
    SAY(connect(fd, (struct sockaddr *)&nobody, size));
    SAY(connect(fd, (struct sockaddr *)&who, size));
    name = name_of(fd);
    char line[64] = "", expected[64];
    read_fully(fd, line, sizeof line - 1);
    snprintf(expected, sizeof expected, "%s port %d", POD, port);
    printf("name %d, for the other end %d\n", strcmp(endpoint(&name, false), expected) == 0,
           strncmp(line, expected, strlen(expected)) == 0);
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    connect_again(INVENTORY, NULL, 0);
    connect_again(INVENTORY_V6, NULL, 0);
    connect_again(INVENTORY, "0.0.0.0", 0);
    connect_again(INVENTORY, POD, 0);
    connect_again(INVENTORY, POD, 1);
    connect_again(composed("::ffff:%s", INVENTORY), NULL, 0);
    keep_port();
    return 0;
}
