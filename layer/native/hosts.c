/* The gethostby... functions, answered by the resolver in the target. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "socket.h"

#define LONGEST_NAME 1025

#ifndef NETDB_INTERNAL /* musl has no names for these */
#define NETDB_INTERNAL (-1)
#define NETDB_SUCCESS  0
#endif

/* What is asked: a name, or an address if `name` is null. */
struct question {
    const char *name;
    const void *address;
    size_t size;
    int family;
};

/* Where the answer's parts go: libc's callers own one buffer for all of them. */
struct space {
    char *next;
    char *end;
};

/* Null, and nothing taken, when there is no room. */
static void *take(struct space *space, size_t size, size_t alignment) {
    uintptr_t start = ((uintptr_t)space->next + alignment - 1) & ~(uintptr_t)(alignment - 1);
    if (start + size > (uintptr_t)space->end || start < (uintptr_t)space->next)
        return NULL;
    space->next = (char *)(start + size);
    return (void *)start;
}

static char *take_string(struct space *space, struct wire_reader *in) {
    size_t size = 0;
    const uint8_t *text = wire_get_bytes(in, &size);
    char *copy = in->bad ? NULL : take(space, size + 1, 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    return copy;
}

static bool take_aliases(struct space *space, struct wire_reader *in, struct hostent *host) {
    uint32_t count = wire_get_array(in);
    if (in->bad || (host->h_aliases = take(space, (count + 1) * sizeof(char *), sizeof(char *))) == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if ((host->h_aliases[i] = take_string(space, in)) == NULL)
            return false;
    host->h_aliases[count] = NULL;
    return true;
}

static bool take_addresses(struct space *space, struct wire_reader *in, struct hostent *host) {
    uint32_t count = wire_get_array(in);
    if (in->bad || (host->h_addr_list = take(space, (count + 1) * sizeof(char *), sizeof(char *))) == NULL)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        size_t size = 0;
        const uint8_t *address = wire_get_bytes(in, &size);
        if (in->bad || (host->h_addr_list[i] = take(space, size, sizeof(uint32_t))) == NULL)
            return false;
        memcpy(host->h_addr_list[i], address, size);
        host->h_length = (int)size;
    }
    host->h_addr_list[count] = NULL;
    host->h_addrtype = host->h_length == 4 ? AF_INET : AF_INET6;
    return true;
}

/* 0, ERANGE when `space` is too small, or EBADMSG. */
static int read_host(struct space space, struct wire_reader *in, struct hostent *host) {
    *host = (struct hostent){0};
    if ((host->h_name = take_string(&space, in)) != NULL && take_aliases(&space, in, host) &&
        take_addresses(&space, in, host))
        return 0;
    return in->bad ? EBADMSG : ERANGE;
}

static int begin(struct call *call, const struct question *question) {
    int error = question->name != NULL ? call_begin(call, "LookUpHost", 2) : call_begin(call, "LookUpHostByAddress", 1);
    if (error != 0)
        return error;
    if (question->name != NULL) {
        wire_put_bin(&call->out, question->name, strlen(question->name));
        wire_put_int(&call->out, question->family);
    } else {
        wire_put_bin(&call->out, question->address, question->size);
    }
    return 0;
}

/* What glibc's _r functions return for an h_errno: not found is no error. */
static int error_of(int code, int error) {
    switch (code) {
    case HOST_NOT_FOUND:
    case NO_DATA:
        return 0;
    case TRY_AGAIN:
        return EAGAIN;
    default:
        return error != 0 ? error : EINVAL;
    }
}

/* As the _r functions: 0, or an errno with *code set to the h_errno; *found says whether `host` is filled in. */
static int look_up(const struct question *question, struct hostent *host, struct space space, bool *found, int *code) {
    struct call call;
    *found = false;
    *code = NETDB_INTERNAL;
    if (question->name != NULL && strlen(question->name) > LONGEST_NAME) {
        *code = HOST_NOT_FOUND;
        return 0;
    }
    int error = begin(&call, question);
    if (error != 0)
        return -error;
    error = -call_send(&call);
    if (error == 0 && strcmp(call.answer, "HostLookedUp") == 0) {
        error = read_host(space, &call.in, host);
        *found = error == 0;
        *code = error == 0 ? NETDB_SUCCESS : NETDB_INTERNAL;
    } else if (error == 0 && strcmp(call.answer, "LookUpFailed") == 0) {
        *code = (int)wire_get_int(&call.in);
        error = error_of(*code, (int)wire_get_uint(&call.in));
    } else if (error == 0) {
        error = EBADMSG;
    }
    call_end(&call);
    return error;
}

static int answer_r(const struct question *question, struct hostent *host, char *buffer, size_t size,
                    struct hostent **result, int *code) {
    bool found = false;
    int error = look_up(question, host, (struct space){buffer, buffer + size}, &found, code);
    *result = found ? host : NULL;
    if (!found) /* glibc sets both, and CPython reads the one that it was not given */
        h_errno = *code;
    errno = error;
    return error;
}

/* The functions without _r keep their answer until the next call, each its own. As in libc, a program that calls one in
 * two threads may find one answer in place of the other; nothing worse may come of it, so a room that has become too
 * small is left as it is. */
struct room {
    size_t size;
    char bytes[];
};

struct kept {
    struct hostent host;
    _Atomic(struct room *) room;
};

static struct room *make_room(struct kept *kept, size_t size) {
    struct room *room = malloc(sizeof *room + size);
    if (room != NULL) {
        room->size = size;
        atomic_store(&kept->room, room);
    }
    return room;
}

static struct hostent *answer(const struct question *question, struct kept *kept) {
    bool found = false;
    int error = ERANGE;
    int code = NETDB_INTERNAL;
    struct room *room = atomic_load(&kept->room);
    if (room == NULL)
        room = make_room(kept, 4096);
    while (room != NULL) {
        error = look_up(question, &kept->host, (struct space){room->bytes, room->bytes + room->size}, &found, &code);
        if (found || error != ERANGE)
            break;
        room = make_room(kept, 2 * room->size);
    }
    if (found)
        return &kept->host;
    h_errno = code;
    errno = error;
    return NULL;
}

/* Is this for libc? Numbers written out need no resolver; neither does what is no question at all. */
static bool is_local(const struct question *question) {
    struct in6_addr address;
    if (!session.names)
        return true;
    if (question->name == NULL)
        return question->address == NULL || !((question->family == AF_INET && question->size == 4) ||
                                              (question->family == AF_INET6 && question->size == 16));
    return inet_aton(question->name, (struct in_addr *)&address) != 0 ||
           inet_pton(AF_INET6, question->name, &address) == 1;
}

static struct kept by_name;
static struct kept by_name2;
static struct kept by_address;

struct hostent *hooked_gethostbyname(const char *name) {
    struct question question = {.name = name, .family = AF_INET};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyname(name);
    struct hostent *host = answer(&question, &by_name);
    guard_leave(&guard);
    return host;
}

struct hostent *hooked_gethostbyname2(const char *name, int family) {
    struct question question = {.name = name, .family = family};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyname2(name, family);
    struct hostent *host = answer(&question, &by_name2);
    guard_leave(&guard);
    return host;
}

int hooked_gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t size, struct hostent **result,
                           int *code) {
    struct question question = {.name = name, .family = AF_INET};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyname_r(name, host, buffer, size, result, code);
    int error = answer_r(&question, host, buffer, size, result, code);
    guard_leave(&guard);
    return error;
}

int hooked_gethostbyname2_r(const char *name, int family, struct hostent *host, char *buffer, size_t size,
                            struct hostent **result, int *code) {
    struct question question = {.name = name, .family = family};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyname2_r(name, family, host, buffer, size, result, code);
    int error = answer_r(&question, host, buffer, size, result, code);
    guard_leave(&guard);
    return error;
}

struct hostent *hooked_gethostbyaddr(const void *address, socklen_t size, int family) {
    struct question question = {.address = address, .size = size, .family = family};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyaddr(address, size, family);
    struct hostent *host = answer(&question, &by_address);
    guard_leave(&guard);
    return host;
}

int hooked_gethostbyaddr_r(const void *address, socklen_t size, int family, struct hostent *host, char *buffer,
                           size_t room, struct hostent **result, int *code) {
    struct question question = {.address = address, .size = size, .family = family};
    struct guard guard;
    if (is_local(&question) || !guard_enter(&guard))
        return real_gethostbyaddr_r(address, size, family, host, buffer, room, result, code);
    int error = answer_r(&question, host, buffer, room, result, code);
    guard_leave(&guard);
    return error;
}
