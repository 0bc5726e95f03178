/* Ports that are bound elsewhere: where the program wanted to be, and where its socket really is.
 *
 * Kept by address, not by descriptor: a socket has the same address in every process and under every number. An entry
 * outlives its socket and does no harm then: a later bind of the asked port goes to the same real one, whatever the
 * address, so that the kernel still judges whether two sockets may share it. */
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>

#include "socket.h"

/* Once it is full the oldest entry goes. */
#define ENTRIES 256

static struct bound entries[ENTRIES];
static unsigned next_entry;
static unsigned count;

/* Held for a walk over the table at most, in which no signal handler runs. */
static void lock(uint64_t *saved_signals) {
    _Atomic uint32_t *word = session_lock();
    *saved_signals = signals_block();
    while (atomic_exchange_explicit(word, 1, memory_order_acquire) != 0)
        raw_syscall(SYS_sched_yield);
}

static void unlock(uint64_t saved_signals) {
    atomic_store_explicit(session_lock(), 0, memory_order_release);
    signals_restore(saved_signals);
}

static bool same(const struct endpoint *one, const struct endpoint *other) {
    return one->port == other->port && endpoint_same_address(one, other);
}

/* What a wildcard stands for: itself, any address of its family, and for IPv6 also IPv4. */
static bool covers(const struct endpoint *wide, const struct endpoint *narrow) {
    if (wide->port != narrow->port)
        return false;
    return endpoint_same_address(wide, narrow) || (endpoint_is_wildcard(wide) && wide->size >= narrow->size);
}

void bound_remember(const struct endpoint *asked, const struct endpoint *real, bool any_port) {
    bound_forget(real);
    uint64_t saved_signals;
    lock(&saved_signals);
    entries[next_entry] = (struct bound){*asked, *real, any_port};
    next_entry = (next_entry + 1) % ENTRIES;
    if (count < ENTRIES)
        count++;
    unlock(saved_signals);
}

void bound_forget(const struct endpoint *real) {
    uint64_t saved_signals;
    lock(&saved_signals);
    for (unsigned i = 0; i < count; i++)
        if (same(&entries[i].real, real))
            entries[i].real.port = 0;
    unlock(saved_signals);
}

bool bound_is_moved(uint16_t port) {
    bool hit = false;
    uint64_t saved_signals;
    lock(&saved_signals);
    for (unsigned i = 0; i < count && !hit; i++)
        hit = entries[i].asked.port == port && entries[i].real.port != 0 && entries[i].real.port != port;
    unlock(saved_signals);
    return hit;
}

bool bound_find_real(const struct endpoint *local, struct bound *found) {
    bool hit = false;
    uint64_t saved_signals;
    lock(&saved_signals);
    for (unsigned i = 0; i < count && !hit; i++) {
        hit = entries[i].real.port != 0 && covers(&entries[i].real, local);
        if (hit)
            *found = entries[i];
    }
    unlock(saved_signals);
    return hit;
}

bool socket_load(struct wire_reader *listeners) {
    uint32_t rows = wire_get_array(listeners);
    for (uint32_t i = 0; i < rows && !listeners->bad; i++) {
        struct endpoint asked;
        struct endpoint real;
        uint32_t fields = wire_get_array(listeners);
        /* A Listen inside another message is tagged as by itself: its name comes first. */
        wire_skip(listeners);
        endpoint_get(listeners, &asked);
        endpoint_get(listeners, &real);
        for (uint32_t field = 3; field < fields; field++)
            wire_skip(listeners);
        if (!listeners->bad && fields >= 3)
            bound_remember(&asked, &real, false);
    }
    return !listeners->bad;
}
