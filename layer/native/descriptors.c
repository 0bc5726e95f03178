/* Descriptors that are in the program's process but not the program's: the layer's connections. They have high numbers,
 * so that the program gets the numbers it would have had, and stay open whatever the program closes: to it they are
 * numbers that are not in use. */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "core.h"

/* The usual soft limit: a program that raises it later finds our numbers below what it is used to. */
#define HIGHEST_USED 1024
/* The layer's descriptors are fewer than this. */
#define ROOM         32
#define HIDDEN_MAX   32

/* linux/close_range.h, which older header sets lack. */
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

/* Slots hold number + 1; 0 is free. A scan needs no lock: a slot changes only when the program cannot know the
 * number yet or any more. */
static _Atomic int hidden[HIDDEN_MAX];
static _Atomic unsigned lowest_hidden = ~0U;
static int base = HIGHEST_USED - ROOM;

bool descriptor_is_hidden(int fd) {
    if ((unsigned)fd < lowest_hidden)
        return false;
    for (int slot = 0; slot < HIDDEN_MAX; slot++)
        if (hidden[slot] == fd + 1)
            return fd >= 0;
    return false;
}

static void hide_number(int fd) {
    for (int slot = 0; slot < HIDDEN_MAX; slot++) {
        int empty = 0;
        if (__atomic_compare_exchange_n((int *)&hidden[slot], &empty, fd + 1, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
            unsigned lowest = lowest_hidden;
            while ((unsigned)fd < lowest && !atomic_compare_exchange_weak(&lowest_hidden, &lowest, (unsigned)fd))
                ;
            return;
        }
    }
}

int descriptor_hide(int fd) {
    int64_t moved = raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, base);
    if (moved < 0) /* the program has lowered its limit, or uses it up */
        moved = raw_syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    if (moved >= 0)
        raw_syscall(SYS_close, fd);
    else /* there is not even one more number: it stays where it is */
        moved = fd;
    raw_syscall(SYS_fcntl, moved, F_SETFD, FD_CLOEXEC);
    hide_number((int)moved);
    return (int)moved;
}

void descriptor_forget(int fd) {
    for (int slot = 0; slot < HIDDEN_MAX; slot++)
        if (hidden[slot] == fd + 1) {
            hidden[slot] = 0;
            break;
        }
}

void descriptor_close(int fd) {
    descriptor_forget(fd);
    raw_syscall(SYS_close, fd);
}

void descriptors_start(void) {
    struct rlimit limit;
    int64_t failed = raw_syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, NULL, &limit);
    int64_t top = failed < 0 || limit.rlim_cur > HIGHEST_USED ? HIGHEST_USED : (int64_t)limit.rlim_cur;
    base = (int)(top >= 2 * ROOM ? top - ROOM : top / 2);
}

#define REMEMBERED 256
static bool was_open[REMEMBERED];

static bool is_open(int fd) {
    return raw_syscall(SYS_fcntl, fd, F_GETFD) >= 0;
}

void descriptors_remember(void) {
    for (int fd = 0; fd < REMEMBERED; fd++)
        was_open[fd] = is_open(fd);
}

void descriptors_hide_new(void) {
    for (int fd = 0; fd < REMEMBERED; fd++)
        if (!was_open[fd] && is_open(fd)) {
            raw_syscall(SYS_fcntl, fd, F_SETFD, FD_CLOEXEC);
            hide_number(fd);
        }
}

/* Whether the socket family wants to hear when the numbers are closed. Not of a call from inside the layer. */
static bool closing(unsigned first, unsigned last) {
    struct guard guard;
    if (!guard_enter(&guard))
        return false;
    bool wanted = socket_closing(first, last);
    guard_leave(&guard);
    return wanted;
}

/* `result` is passed on, and errno with it. */
static int closed(bool wanted, unsigned first, unsigned last, int result) {
    struct guard guard;
    if (wanted && guard_enter(&guard)) {
        int saved = errno;
        socket_closed(first, last);
        errno = saved;
        guard_leave(&guard);
    }
    return result;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

int hooked_close(int fd) {
    if (descriptor_is_hidden(fd))
        return refuse(EBADF);
    bool wanted = closing((unsigned)fd, (unsigned)fd);
    return closed(wanted, (unsigned)fd, (unsigned)fd, real_close(fd));
}

/* A program that puts a descriptor of its own at one of our numbers is told what the kernel says of numbers that are
 * out of range: our connections cannot move while other threads use them. */
int hooked_dup2(int old_fd, int new_fd) {
    if (descriptor_is_hidden(old_fd) || descriptor_is_hidden(new_fd))
        return refuse(EBADF);
    if (old_fd == new_fd)
        return real_dup2(old_fd, new_fd);
    bool wanted = closing((unsigned)new_fd, (unsigned)new_fd);
    return closed(wanted, (unsigned)new_fd, (unsigned)new_fd, real_dup2(old_fd, new_fd));
}

int hooked_dup3(int old_fd, int new_fd, int flags) {
    if (descriptor_is_hidden(old_fd) || descriptor_is_hidden(new_fd))
        return refuse(EBADF);
    bool wanted = closing((unsigned)new_fd, (unsigned)new_fd);
    return closed(wanted, (unsigned)new_fd, (unsigned)new_fd, real_dup3(old_fd, new_fd, flags));
}

/* Everything in the range but ours: a call of the original for each stretch in between. */
static int close_around_hidden(unsigned first, unsigned last, int flags) {
    for (;;) {
        unsigned next = last;
        bool found = false;
        for (int slot = 0; slot < HIDDEN_MAX; slot++) {
            int number = hidden[slot];
            if (number == 0)
                continue;
            unsigned fd = (unsigned)number - 1;
            if (fd >= first && fd <= next) {
                next = fd;
                found = true;
            }
        }
        if (!found)
            return real_close_range(first, last, flags);
        if (next > first && real_close_range(first, next - 1, flags) < 0)
            return -1;
        if (next == last)
            return 0;
        first = next + 1;
    }
}

int hooked_close_range(unsigned first, unsigned last, int flags) {
    if (first > last)
        return real_close_range(first, last, flags);
    if ((unsigned)flags & CLOSE_RANGE_CLOEXEC)
        return close_around_hidden(first, last, flags);
    bool wanted = closing(first, last);
    return closed(wanted, first, last, close_around_hidden(first, last, flags));
}
