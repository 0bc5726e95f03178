/* getaddrinfo with all its flags, families, services, and errors. */
#include "program.h"

static void look_up(const char *node, const char *service, int family, int kind, int flags)
{
    struct addrinfo hints = {.ai_family = family, .ai_socktype = kind, .ai_flags = flags}, *found = NULL;
    errno = 0;
    int code = getaddrinfo(node, service, &hints, &found);
    printf("%s %s family %d kind %d flags %x: %s\n", node ? node : "NULL", service ? service : "NULL", family, kind,
           (unsigned)flags, code ? gai_strerror(code) : "found");
    for (struct addrinfo *entry = found; entry; entry = entry->ai_next)
        printf("  family %d kind %d protocol %d flags %x length %u %s canonical %s\n", entry->ai_family,
               entry->ai_socktype, entry->ai_protocol, (unsigned)entry->ai_flags, entry->ai_addrlen,
               endpoint(entry->ai_addr, false), entry->ai_canonname ? entry->ai_canonname : "-");
    if (found)
        freeaddrinfo(found);
}

/* Of a name with so many addresses that the name server must be asked by TCP, and may give them in any order. */
static int compare(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static void look_up_many(const char *node)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM}, *found = NULL;
    const char *addresses[100];
    size_t count = 0;
    int code = getaddrinfo(node, NULL, &hints, &found);
    printf("%s: %s\n", node, code ? gai_strerror(code) : "found");
    for (struct addrinfo *entry = found; entry && count < 100; entry = entry->ai_next)
        addresses[count++] = composed("%s", endpoint(entry->ai_addr, false));
    qsort(addresses, count, sizeof *addresses, compare);
    for (size_t index = 0; index < count; index++)
        printf("  %s\n", addresses[index]);
    if (found)
        freeaddrinfo(found);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    look_up("inventory", "80", AF_UNSPEC, SOCK_STREAM, 0);
    look_up("inventory", NULL, AF_UNSPEC, 0, 0);
    look_up("inventory", "http", AF_INET, SOCK_STREAM, 0);
    look_up("inventory", "domain", AF_INET, 0, 0);
    look_up(composed("inventory.%s", NAMESPACE), "80", AF_INET6, SOCK_STREAM, 0);
    look_up(composed("inventory.%s.svc.cluster.local", NAMESPACE), "80", AF_INET, SOCK_DGRAM, 0);
    look_up(composed("inventory.%s.svc.cluster.local.", NAMESPACE), "80", AF_INET, SOCK_STREAM, 0);
    look_up("INVENTORY", "80", AF_INET, SOCK_STREAM, 0);
    look_up("stock", "80", AF_INET, SOCK_STREAM, AI_CANONNAME);
    look_up("inventory", NULL, AF_INET, SOCK_STREAM, AI_CANONNAME);
    look_up("inventory", "80", AF_INET6, SOCK_STREAM, AI_V4MAPPED);
    look_up("storefront", "80", AF_INET6, SOCK_STREAM, 0);
    look_up("storefront", "80", AF_INET6, SOCK_STREAM, AI_V4MAPPED);
    look_up("inventory", "80", AF_INET6, SOCK_STREAM, AI_V4MAPPED | AI_ALL);
    look_up("audit", "80", AF_INET, SOCK_STREAM, 0);
    look_up("audit", "80", AF_UNSPEC, SOCK_STREAM, 0);
    look_up("kubernetes.default", "https", AF_UNSPEC, SOCK_STREAM, AI_ADDRCONFIG);
    look_up("orders", NULL, AF_UNSPEC, SOCK_STREAM, 0);
    look_up("orders-5c9f7b6d4-x2v8k", NULL, AF_UNSPEC, SOCK_STREAM, 0);
    look_up("localhost", "80", AF_INET, SOCK_STREAM, 0);
    look_up("localhost", "80", AF_UNSPEC, SOCK_STREAM, AI_CANONNAME);
    look_up(INVENTORY, "80", AF_UNSPEC, SOCK_STREAM, 0);
    look_up(INVENTORY, "80", AF_INET6, SOCK_STREAM, 0);
    look_up(INVENTORY, "80", AF_INET6, SOCK_STREAM, AI_V4MAPPED);
    look_up(INVENTORY_V6, "80", AF_UNSPEC, SOCK_STREAM, AI_NUMERICHOST);
    look_up("inventory", "80", AF_UNSPEC, SOCK_STREAM, AI_NUMERICHOST);
    look_up("inventory", "http", AF_UNSPEC, SOCK_STREAM, AI_NUMERICSERV);
    look_up(NULL, "8080", AF_UNSPEC, SOCK_STREAM, 0);
    look_up(NULL, "8080", AF_INET, SOCK_STREAM, AI_PASSIVE);
    look_up(NULL, "8080", AF_UNSPEC, SOCK_STREAM, AI_PASSIVE);
    look_up(NULL, NULL, AF_UNSPEC, SOCK_STREAM, 0);
    look_up("inventory", "no-such-service", AF_INET, SOCK_STREAM, 0);
    look_up("inventory", "80", AF_UNIX, SOCK_STREAM, 0);
    look_up("inventory", "80", AF_INET, SOCK_SEQPACKET, 0);
    look_up("inventory", "80", AF_INET, SOCK_STREAM, 1 << 20);
    look_up(NULL, "80", AF_INET, SOCK_STREAM, AI_CANONNAME);
    look_up("no-such-name", "80", AF_UNSPEC, SOCK_STREAM, 0);
    look_up(composed("no-such-name.%s.svc.cluster.local", NAMESPACE), NULL, AF_INET, 0, 0);
    look_up("broken", "80", AF_INET, SOCK_STREAM, 0);
    look_up("fleet", NULL, AF_INET, SOCK_STREAM, 0);
    look_up_many("convoy");
    look_up("", "80", AF_INET, SOCK_STREAM, 0);
    look_up("name with space", "80", AF_INET, SOCK_STREAM, 0);
    look_up("127.1", "80", AF_INET, SOCK_STREAM, 0);
    return 0;
}
