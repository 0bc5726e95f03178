/* System calls by instruction: no hook sees them, errno is not touched, no thread is cancelled in them. */
#ifndef MIRROR_RAW_H
#define MIRROR_RAW_H

#include <stdint.h>

static inline int64_t raw_syscall6(int64_t number, int64_t a, int64_t b, int64_t c, int64_t d, int64_t e, int64_t f) {
#if defined(__x86_64__)
    register int64_t r10 __asm__("r10") = d;
    register int64_t r8 __asm__("r8") = e;
    register int64_t r9 __asm__("r9") = f;
    int64_t result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register int64_t x8 __asm__("x8") = number;
    register int64_t x0 __asm__("x0") = a;
    register int64_t x1 __asm__("x1") = b;
    register int64_t x2 __asm__("x2") = c;
    register int64_t x3 __asm__("x3") = d;
    register int64_t x4 __asm__("x4") = e;
    register int64_t x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "the layer has no system calls for this machine"
#endif
}

/* raw_syscall(number, up to six arguments): each is widened to 64 bits, pointers included. Negative errno on
 * failure. */
#define raw_syscall(...) RAW_PICK(__VA_ARGS__, RAW_6, RAW_5, RAW_4, RAW_3, RAW_2, RAW_1, RAW_0, 0)(__VA_ARGS__)
#define RAW_PICK(n, a, b, c, d, e, f, chosen, ...) chosen
#define RAW_WIDE(x)                                ((int64_t)(x))
#define RAW_0(n)                                   raw_syscall6(n, 0, 0, 0, 0, 0, 0)
#define RAW_1(n, a)                                raw_syscall6(n, RAW_WIDE(a), 0, 0, 0, 0, 0)
#define RAW_2(n, a, b)                             raw_syscall6(n, RAW_WIDE(a), RAW_WIDE(b), 0, 0, 0, 0)
#define RAW_3(n, a, b, c)                          raw_syscall6(n, RAW_WIDE(a), RAW_WIDE(b), RAW_WIDE(c), 0, 0, 0)
#define RAW_4(n, a, b, c, d)    raw_syscall6(n, RAW_WIDE(a), RAW_WIDE(b), RAW_WIDE(c), RAW_WIDE(d), 0, 0)
#define RAW_5(n, a, b, c, d, e) raw_syscall6(n, RAW_WIDE(a), RAW_WIDE(b), RAW_WIDE(c), RAW_WIDE(d), RAW_WIDE(e), 0)
#define RAW_6(n, a, b, c, d, e, f) \
    raw_syscall6(n, RAW_WIDE(a), RAW_WIDE(b), RAW_WIDE(c), RAW_WIDE(d), RAW_WIDE(e), RAW_WIDE(f))

#endif
