/* What the hook families share: the hook table, the guard against re-entry, exchanges with the proxy, and the
 * path decisions. A family's file includes this and libc headers only, never another family's. */
#ifndef MIRROR_LAYER_H
#define MIRROR_LAYER_H

#include <dirent.h>
#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/types.h>

#include "wire.h"

struct statx;
struct utsname;
struct FTW;
typedef int (*mirror_nftw_visit)(const char *path, const struct stat *status, int kind, struct FTW *where);

/* For a function whose large variables must not swell the frame of its caller: threads have stacks of 16 KiB, handlers
 * of 8. The layer's deepest chain of calls takes less than 13 KiB. */
#define OWN_FRAME __attribute__((noinline))

/* --- hook table (table.c, hooks.def) ---------------------------------------------------------------------- */

struct mirror_hook {
    const char *family;
    const char *symbol;
    void *replacement;
    void **original; /* the installer stores the callable original here before it patches; null for an alias */
    void *target;    /* what to patch: the address in this process's libc; null where this libc lacks the symbol */
};

/* Declares real_NAME (pointer to the original) and hooked_NAME (the replacement) for each row of hooks.def.
 * Until it is installed, real_NAME is what the dynamic linker finds, so that it may be called at any time. */
#define HOOK(family, name, result, parameters) \
    extern result(*real_##name) parameters;    \
    result hooked_##name parameters;
#define ALIAS(name, of)
#include "hooks.def"
#undef HOOK
#undef ALIAS

/* --- guard (guard.c) -------------------------------------------------------------------------------------- */

/* A hook begins with `guard_enter`: false means that this thread is inside the layer's own code already (or
 * that the layer is not active in this process), and the hook calls its original and nothing else. Leave it before
 * an original that may block or does not return: a signal handler that interrupts it must find its calls hooked. */
struct guard {
    struct guard *outer;
    uintptr_t cookie; /* of its own address: a frame that was left by siglongjmp does not pass for a live one */
};
bool guard_enter(struct guard *guard);
void guard_leave(struct guard *guard);

/* What a family's logic returns: >= 0 a result, < 0 a negative errno, or BYPASS: call the original. */
#define BYPASS INT64_MIN

/* Leaves the guard and turns a logic result (never BYPASS) into libc's: -1 and errno, or the value. */
int64_t hook_result(struct guard *guard, int64_t result);

/* --- exchanges with the proxy (session.c) ----------------------------------------------------------------- */

/* One request and its answer. Signals are blocked between begin and end but for the wait itself. */
struct call {
    struct wire_writer out; /* after call_begin: put the request's fields here, in order, all of them */
    struct wire_reader in;  /* after call_send: the answer's fields */
    char answer[32];        /* the answer's message name */
    int sent_fd;            /* -1 after call_begin; set it to a descriptor to send along, which stays the caller's */
    int received_fd;        /* came with the answer, else -1; the caller owns it; CLOEXEC is set */
    struct link *link;
    uint64_t saved_signals;
};

/* Takes a connection of this process's pool (making one, also in a forked child). `fields` counts the
 * message's fields without its name. 0, or -EIO if the session is lost: the user has been told then. */
int call_begin(struct call *call, const char *request, uint32_t fields);
/* Sends, waits, and reads the answer. 0 when it is anything but Failed (compare `answer` where more than one
 * kind may come), -errno from Failed, -EIO when the session is lost or the answer cannot be understood. */
int call_send(struct call *call);
/* Sends a message that has no answer. */
int call_notify(struct call *call);
/* Gives the connection back. Must follow every successful call_begin, after the answer has been read. */
void call_end(struct call *call);

/* What the proxy said in Registered, apart from the rules. */
struct session {
    bool active;
    bool outgoing;
    bool names;
    bool incoming;
    uint8_t stub_address[4];
    uint16_t stub_port; /* host order */
    uint8_t delivery[4];
};
extern struct session session;

/* One sentence to the user's standard error, prefixed by "mirror: ". Async-signal-safe. */
void layer_tell(const char *sentence);

/* All signals: what they come to runs before `signals_restore` returns, outside the guard. */
uint64_t signals_block(void);
void signals_restore(uint64_t saved);
/* A word for a lock. The kernel frees it in a forked child, where the thread that holds it is missing. */
_Atomic uint32_t *session_lock(void);

/* --- host (host.c) ----------------------------------------------------------------------------------------- */

/* Takes the host's and the domain's name from a Registered message; empty ones: they stay the machine's own. Called
 * once, before any hook is active. False: malformed. */
bool host_load(struct wire_reader *in);

/* --- sockets (bound.c) ------------------------------------------------------------------------------------ */

/* Takes the array of Listen in a Registered message: ports that the session listens on elsewhere. Called once,
 * before any hook is active. False: malformed. */
bool socket_load(struct wire_reader *listeners);

/* Called by descriptors.c, inside the guard, when the program closes the numbers from first to last: by close,
 * close_range, or dup2 and dup3 for the number that they overwrite. Before: true if the family wants to be called
 * after, too. Both are on the path of every close: look something up, and no more. */
bool socket_closing(unsigned first, unsigned last);
void socket_closed(unsigned first, unsigned last);

/* --- path decisions (decide.c) ---------------------------------------------------------------------------- */

enum verdict { VERDICT_LOCAL, VERDICT_REMOTE, VERDICT_ABSENT, VERDICT_READ_ONLY };
enum access { ACCESS_READ, ACCESS_WRITE };

/* Loads the table from the array of Rule in a Registered message. Called once, before any hook is active. */
bool decide_load(struct wire_reader *rules);
/* `path` is absolute and lexically normal (no `.`, `..`, `//` or trailing slash). No allocation, no calls. */
enum verdict decide_path(const char *path, size_t length, enum access access);

/* --- files (file_*.c) -------------------------------------------------------------------------------------- */

/* Called by the constructor, after `decide_load` and before any hook is active. */
void file_started(void);
/* What the file family makes of a call of syscall(2), for hooked_syscall, inside the guard: a result, -errno, or
 * BYPASS. */
int64_t file_syscall(long number, const long arguments[6]);

/* --- descriptors of ours (descriptors.c) ------------------------------------------------------------------ */

/* Moves a descriptor of the layer to a high number, CLOEXEC, and protects it from the program's close, dup2,
 * dup3 and close_range. Returns the number, which is the same where no other is free. */
int descriptor_hide(int fd);
/* Closes a hidden descriptor. */
void descriptor_close(int fd);
/* The number has been closed by a system call that no hook sees, and may be the program's. */
void descriptor_forget(int fd);
bool descriptor_is_hidden(int fd);

/* --- system calls that no hook sees (raw.h) ---------------------------------------------------------------- */

#include "raw.h"

#endif
