/* Connections that cannot be, and the errors that they end with. */
#include "program.h"

static void try(int family, const char *text, int port)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, text, port);
    int fd = socket(family, SOCK_STREAM, 0);
    int result = connect(fd, (struct sockaddr *)&address, size);
    printf("family %d to %s port %d: %s\n", family, text, port, result == 0 ? "connected" : strerrorname_np(errno));
    int error = -1;
    socklen_t length = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    printf("  SO_ERROR %d\n", error);
    struct sockaddr_storage peer;
    length = sizeof peer;
    printf("  getpeername %s\n", getpeername(fd, (struct sockaddr *)&peer, &length) == 0 ? "works" : strerrorname_np(errno));
    close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    try(AF_INET, INVENTORY, PORT_ECHO);
    try(AF_INET, INVENTORY, PORT_NOBODY);
    try(AF_INET6, INVENTORY_V6, PORT_NOBODY);
    try(AF_INET, "10.97.3.4", 80);
    try(AF_INET, INVENTORY_V6, 80);
    try(AF_INET6, INVENTORY, 80);
    try(AF_INET, POD, 8081);
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, INVENTORY, PORT_ECHO);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    SAY(connect(fd, (struct sockaddr *)&address, 3));
    SAY(connect(fd, (struct sockaddr *)8, size));
    SAY(connect(-1, (struct sockaddr *)&address, size));
    SAY(connect(0, (struct sockaddr *)&address, size));
    size_t none = make_address(&address, INVENTORY, PORT_NOBODY);
    SAY(connect(fd, (struct sockaddr *)&address, (socklen_t)none));
    size = make_address(&address, INVENTORY, PORT_ECHO);
    SAY(connect(fd, (struct sockaddr *)&address, size));
    char byte = 'a';
    SAY(write(fd, &byte, 1));
    SAY(read(fd, &byte, 1));
    close(fd);
    struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/tmp/conformance-nobody"};
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    SAY(connect(fd, (struct sockaddr *)&local, sizeof local));
    close(fd);
    return 0;
}
