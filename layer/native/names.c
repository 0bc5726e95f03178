/* getaddrinfo and getnameinfo, answered by the resolver in the target: its hosts file, its name servers, its services,
 * its interfaces. What needs none of them stays with libc. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "socket.h"

/* NI_MAXHOST: no name can be longer, and the messages do not carry any. */
#define LONGEST_NAME 1025

/* What glibc puts into the results when the program gives no hints. */
#define DEFAULT_FLAGS (AI_V4MAPPED | AI_ADDRCONFIG)

/* The list is freed by libc's own freeaddrinfo, whose layout is known for glibc only. */
#ifdef __GLIBC__
#define CAN_MAKE_LISTS true
#else
#define CAN_MAKE_LISTS false
#endif

static bool is_number(const char *text) {
    if (*text == '\0')
        return false;
    while (*text >= '0' && *text <= '9')
        text++;
    return *text == '\0';
}

static bool is_address(const char *node) {
    struct in6_addr address;
    return inet_aton(node, (struct in_addr *)&address) != 0 || inet_pton(AF_INET6, node, &address) == 1;
}

/* Can libc answer this with nothing but arithmetic? */
static bool is_arithmetic(const char *node, const char *service, int flags) {
    if (node == NULL)
        return true;
    if (flags & AI_ADDRCONFIG) /* looks at the interfaces */
        return false;
    if (service != NULL && !is_number(service) && !(flags & AI_NUMERICSERV))
        return false;
    if (strchr(node, '%') != NULL) /* an interface of the target */
        return false;
    return (flags & AI_NUMERICHOST) || is_address(node);
}

static void put_name(struct wire_writer *out, const char *name) {
    if (name == NULL)
        wire_put_nil(out);
    else
        wire_put_bin(out, name, strlen(name));
}

/* The code of a LookUpFailed, and its errno where there is one. */
static int failure(struct call *call, int other) {
    if (strcmp(call->answer, "LookUpFailed") != 0)
        return other;
    int code = (int)wire_get_int(&call->in);
    int error = (int)wire_get_uint(&call->in);
    if (call->in.bad || code == 0)
        return other;
    if (code == EAI_SYSTEM)
        errno = error;
    return code;
}

/* --- getaddrinfo --- */

/* One allocation a node, as freeaddrinfo wants it. */
static struct addrinfo *node_of(const struct endpoint *endpoint, int flags, int socktype, int protocol) {
    struct sockaddr_storage address;
    int family = endpoint->size == 4 ? AF_INET : AF_INET6;
    socklen_t length = endpoint_to_sockaddr(endpoint, family, &address);
    struct addrinfo *node = malloc(sizeof *node + length);
    if (node == NULL)
        return NULL;
    *node = (struct addrinfo){
        .ai_flags = flags, .ai_family = family, .ai_socktype = socktype, .ai_protocol = protocol, .ai_addrlen = length};
    node->ai_addr = memcpy(node + 1, &address, length);
    return node;
}

static int read_entries(struct wire_reader *in, int flags, struct addrinfo **list) {
    struct addrinfo **next = list;
    for (uint32_t left = wire_get_array(in); left > 0 && !in->bad; left--) {
        struct endpoint endpoint;
        uint32_t fields = wire_get_array(in);
        int socktype = (int)wire_get_int(in);
        int protocol = (int)wire_get_int(in);
        endpoint_get(in, &endpoint);
        for (uint32_t field = 3; field < fields; field++)
            wire_skip(in);
        if (in->bad || fields < 3)
            return EAI_FAIL;
        *next = node_of(&endpoint, flags, socktype, protocol);
        if (*next == NULL)
            return EAI_MEMORY;
        next = &(*next)->ai_next;
    }
    return in->bad || *list == NULL ? EAI_FAIL : 0;
}

static int read_addresses(struct wire_reader *in, int flags, struct addrinfo **list) {
    size_t size = 0;
    int code = read_entries(in, flags, list);
    if (code != 0 || wire_get_nil(in))
        return code;
    const uint8_t *name = wire_get_bytes(in, &size);
    if (in->bad)
        return EAI_FAIL;
    (*list)->ai_canonname = strndup((const char *)name, size);
    return (*list)->ai_canonname == NULL ? EAI_MEMORY : 0;
}

static int look_up_address(const char *node, const char *service, const struct addrinfo *hints, int flags,
                           struct addrinfo **list) {
    struct call call;
    int error = call_begin(&call, "LookUpAddress", 6);
    if (error == 0) {
        put_name(&call.out, node);
        put_name(&call.out, service);
        wire_put_int(&call.out, hints != NULL ? hints->ai_family : AF_UNSPEC);
        wire_put_int(&call.out, hints != NULL ? hints->ai_socktype : 0);
        wire_put_int(&call.out, hints != NULL ? hints->ai_protocol : 0);
        wire_put_int(&call.out, flags);
        error = call_send(&call);
        int code = EAI_SYSTEM;
        if (error == 0 && strcmp(call.answer, "AddressLookedUp") == 0)
            code = read_addresses(&call.in, flags, list);
        else if (error == 0)
            code = failure(&call, EAI_FAIL);
        call_end(&call);
        if (error == 0)
            return code;
    }
    errno = -error;
    return EAI_SYSTEM;
}

int hooked_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result) {
    int flags = hints != NULL ? hints->ai_flags : DEFAULT_FLAGS;
    struct guard guard;
    if (!CAN_MAKE_LISTS || !session.names || is_arithmetic(node, service, flags) || !guard_enter(&guard))
        return real_getaddrinfo(node, service, hints, result);
    struct addrinfo *list = NULL;
    int saved_errno = errno;
    int code = EAI_NONAME;
    if (strlen(node) <= LONGEST_NAME && (service == NULL || strlen(service) <= LONGEST_NAME))
        code = look_up_address(node, service, hints, flags, &list);
    if (code != EAI_SYSTEM)
        errno = saved_errno;
    guard_leave(&guard);
    if (code == 0)
        *result = list;
    else
        freeaddrinfo(list);
    return code;
}

/* --- getnameinfo --- */

static int take_string(struct wire_reader *in, char *buffer, socklen_t room) {
    size_t size = 0;
    const uint8_t *text = wire_get_bytes(in, &size);
    if (in->bad)
        return EAI_FAIL;
    if (buffer == NULL || room == 0)
        return 0;
    if (size >= room)
        return EAI_OVERFLOW;
    memcpy(buffer, text, size);
    buffer[size] = '\0';
    return 0;
}

static int look_up_name(const struct endpoint *endpoint, char *host, socklen_t host_room, char *service,
                        socklen_t service_room, int flags) {
    struct call call;
    int error = call_begin(&call, "LookUpName", 4);
    if (error == 0) {
        endpoint_put(&call.out, endpoint);
        wire_put_int(&call.out, flags);
        wire_put_bool(&call.out, host != NULL && host_room > 0);
        wire_put_bool(&call.out, service != NULL && service_room > 0);
        error = call_send(&call);
        int code = EAI_SYSTEM;
        if (error == 0 && strcmp(call.answer, "NameLookedUp") == 0) {
            code = take_string(&call.in, host, host_room);
            if (code == 0)
                code = take_string(&call.in, service, service_room);
        } else if (error == 0) {
            code = failure(&call, EAI_FAIL);
        }
        call_end(&call);
        if (error == 0)
            return code;
    }
    errno = -error;
    return EAI_SYSTEM;
}

/* fe80::/10 comes with the name of an interface. */
static bool is_link_local(const struct endpoint *endpoint) {
    return endpoint->size == 16 && endpoint->address[0] == 0xfe && (endpoint->address[1] & 0xc0) == 0x80;
}

int hooked_getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_room, char *service,
                       socklen_t service_room, int flags) {
    struct endpoint endpoint;
    struct guard guard;
    bool needs_host = host != NULL && host_room > 0 && !(flags & NI_NUMERICHOST);
    bool needs_service = service != NULL && service_room > 0 && !(flags & NI_NUMERICSERV);
    if (!session.names || !endpoint_read(&endpoint, address, length) ||
        !(needs_host || needs_service || is_link_local(&endpoint)) || !guard_enter(&guard))
        return real_getnameinfo(address, length, host, host_room, service, service_room, flags);
    int saved_errno = errno;
    int code = look_up_name(&endpoint, host, host_room, service, service_room, flags);
    if (code != EAI_SYSTEM)
        errno = saved_errno;
    guard_leave(&guard);
    return code;
}
