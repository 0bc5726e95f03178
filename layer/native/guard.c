/* Tells a call that the program makes from one that the layer's own code, or libc on its behalf, makes.
 *
 * A thread-local pointer to a struct on the hook's stack says that the thread is inside. A signal handler may leave
 * the hook for good with siglongjmp, and the pointer then stays behind; so it counts only while what it points to is
 * deeper in the chain of callers and still holds its cookie. And a handler that interrupts the layer's code is the
 * program's: it is known by the frame that the kernel has put on the stack for it. */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>

#include "core.h"

static _Thread_local struct guard *innermost;
/* The innermost wait that a signal handler of this thread may have interrupted. */
static _Thread_local struct guard *waiting;

static uintptr_t cookie_of(const struct guard *guard) {
    return (uintptr_t)guard ^ (uintptr_t)0x6d6972726f720a5aU;
}

/* Stacks grow downwards: the frame of a caller is above that of what it calls. */
static bool is_caller(const struct guard *outer, const struct guard *inner) {
    return (uintptr_t)outer > (uintptr_t)inner && outer->cookie == cookie_of(outer);
}

/* Where handlers return to: the last thing in their frame, for the kernel's ABI (x86-64) wants it there. */
static uintptr_t restorer;

/* struct sigaction of the kernel. */
struct kernel_action {
    void *handler;
    unsigned long flags;
    uintptr_t restorer;
    uint64_t mask;
};

void guard_start(void) {
#if defined(__x86_64__)
    struct sigaction action;
    struct kernel_action in_kernel;
    /* libc names its restorer whenever it sets an action; this one stays what it is. */
    if (sigaction(SIGURG, NULL, &action) == 0 && sigaction(SIGURG, &action, NULL) == 0 &&
        raw_syscall(SYS_rt_sigaction, SIGURG, NULL, &in_kernel, sizeof in_kernel.mask) == 0)
        restorer = in_kernel.restorer;
#endif
}

/* Whether a handler's frame lies between what `guard` and `outer` are on. They are on one stack, unless the handler has
 * one of its own. */
static bool is_in_handler(const struct guard *guard, const struct guard *outer) {
    stack_t stack;
    if (restorer == 0)
        return false;
    if (raw_syscall(SYS_sigaltstack, NULL, &stack) == 0 && (stack.ss_flags & SS_ONSTACK) != 0 &&
        (uintptr_t)outer - (uintptr_t)stack.ss_sp >= stack.ss_size)
        return true;
    for (const volatile uintptr_t *word = (const uintptr_t *)(const void *)guard;
         word < (const uintptr_t *)(const void *)outer; word++)
        if (*word == restorer)
            return true;
    return false;
}

bool guard_enter(struct guard *guard) {
    if (!session.active)
        return false;
    struct guard *outer = innermost;
    if (outer != NULL && is_caller(outer, guard) && !is_in_handler(guard, outer))
        return false;
    guard->outer = outer;
    guard->cookie = cookie_of(guard);
    innermost = guard;
    return true;
}

void guard_leave(struct guard *guard) {
    innermost = guard->outer;
    guard->cookie = 0;
}

int64_t hook_result(struct guard *guard, int64_t result) {
    guard_leave(guard);
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

void guard_suspend(struct wait *wait) {
    wait->suspended = innermost;
    innermost = NULL;
    wait->frame.outer = waiting;
    wait->frame.cookie = cookie_of(&wait->frame);
    waiting = &wait->frame;
}

void guard_resume(struct wait *wait) {
    innermost = wait->suspended;
    waiting = wait->frame.outer;
    wait->frame.cookie = 0;
}

enum waits guard_waits(void) {
    struct guard here = {NULL, 0};
    if (waiting == NULL)
        return WAITS_NOT;
    if (is_caller(waiting, &here))
        return WAITS_BENEATH;
    /* The order of addresses says nothing on a signal stack of the program's choice. */
    stack_t stack;
    if (raw_syscall(SYS_sigaltstack, NULL, &stack) == 0 && (stack.ss_flags & SS_ONSTACK))
        return WAITS_BENEATH;
    waiting = NULL;
    return WAITS_ABANDONED;
}
