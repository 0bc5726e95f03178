/* gethostbyname and its kin, getnameinfo: the older calls, and from addresses to names. */
#include "program.h"

static void show(const char *what, const struct hostent *host, int code)
{
    if (!host) {
        printf("%s: %s\n", what, hstrerror(code));
        return;
    }
    printf("%s: %s type %d length %d aliases", what, host->h_name, host->h_addrtype, host->h_length);
    for (char **alias = host->h_aliases; *alias; alias++)
        printf(" %s", *alias);
    printf(" addresses");
    int count = 0;
    for (char **address = host->h_addr_list; *address; address++, count++) {
        char text[INET6_ADDRSTRLEN];
        if (count < 3)
            printf(" %s", inet_ntop(host->h_addrtype, *address, text, sizeof text));
    }
    printf(" (%d)\n", count);
}

static void by_address(const char *text, int family)
{
    char address[16];
    inet_pton(family, text, address);
    struct hostent *host = gethostbyaddr(address, family == AF_INET ? 4 : 16, family);
    show(text, host, h_errno);
}

static void name_of(const char *text, int port, int flags, socklen_t room)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, text, port);
    char host[256] = "", service[64] = "";
    int code = getnameinfo((struct sockaddr *)&address, size, host, room, service, sizeof service, flags);
    printf("%s %d flags %x: %s host '%s' service '%s'\n", text, port, (unsigned)flags, code ? gai_strerror(code) : "found",
           code ? "" : host, code ? "" : service);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    const char *const names[] = {"inventory", "stock", "storefront", "audit", "localhost", INVENTORY,
                                 "no-such-name", "orders-5c9f7b6d4-x2v8k", "kubernetes.default.svc", "127.1", ""};
    for (size_t index = 0; index < sizeof names / sizeof *names; index++) {
        printf("%s\n", names[index]);
        struct hostent *found = gethostbyname(names[index]);
        show("  gethostbyname", found, h_errno);
        found = gethostbyname2(names[index], AF_INET);
        show("  inet", found, h_errno);
        found = gethostbyname2(names[index], AF_INET6);
        show("  inet6", found, h_errno);
    }
    struct hostent storage, *host = NULL;
    char buffer[4096];
    int code = 0;
    printf("gethostbyname_r %d\n", gethostbyname_r("inventory", &storage, buffer, sizeof buffer, &host, &code));
    show("  ", host, code);
    host = NULL;
    printf("gethostbyname_r with little room: %s\n",
           strerrorname_np(gethostbyname_r("inventory", &storage, buffer, 16, &host, &code)));
    printf("gethostbyname2_r %d\n",
           gethostbyname2_r("audit", AF_INET6, &storage, buffer, sizeof buffer, &host, &code));
    show("  ", host, code);
    by_address(INVENTORY, AF_INET);
    by_address(INVENTORY_V6, AF_INET6);
    by_address(POD, AF_INET);
    by_address("127.0.0.1", AF_INET);
    by_address("10.1.2.3", AF_INET);
    name_of(INVENTORY, 80, 0, 256);
    name_of(INVENTORY, 80, NI_NAMEREQD, 256);
    name_of(INVENTORY, 80, NI_NUMERICHOST, 256);
    name_of(INVENTORY, 80, NI_NUMERICSERV, 256);
    name_of(INVENTORY, 53, NI_DGRAM, 256);
    name_of(INVENTORY, 80, NI_NOFQDN, 256);
    name_of(INVENTORY, 80, 0, 5);
    name_of(INVENTORY_V6, 443, 0, 256);
    name_of("10.1.2.3", 1, 0, 256);
    name_of("10.1.2.3", 1, NI_NAMEREQD, 256);
    name_of("127.0.0.1", 22, 0, 256);
    return 0;
}
