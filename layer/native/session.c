/* Exchanges with the proxy: a small pool of connections for all threads of the process, one exchange at a time on each.
 *
 * Signals are blocked during an exchange but for the wait itself, so that no handler can start a second one on the
 * same connection or leave a half one behind. A handler that runs in the wait takes another connection. A process
 * made by fork has its parent's memory but none of its connections: it notices by a page that the kernel empties in
 * every forked child, whatever forked it, and makes its own. A child made by vfork shares memory, that page included,
 * but not descriptors: it uses a connection for one exchange and closes it. */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

/* Connections that all threads share; more would use up descriptors for little. */
#define SHARED 8
/* Further ones for exchanges in signal handlers and vfork children, closed when done. */
#define ALL    16

#define PROTOCOL_VERSION 1
/* Sentences that came with Failed are shown this often in a process. */
#define REASONS_SHOWN    10

struct session session;

static struct link links[ALL];
static _Atomic uint32_t released; /* counts; threads that found no connection wait for it to change */
static _Atomic uint32_t waiters;
static _Atomic bool told_lost;
static _Atomic int reasons_shown;
static int64_t own_pid;
static dev_t stderr_dev;
static ino_t stderr_ino;

/* The page that fork empties. */
enum { FORKED = 0, LIVING = 1, ADOPTING = 2 };
static _Atomic uint32_t *life;
static _Atomic bool forked_unregistered;

/* --- telling the user --------------------------------------------------------------------------------------------- */

/* Not if the program has put something else in the place of standard error since. */
void layer_tell(const char *sentence) {
    struct stat now;
    if (raw_syscall(SYS_fstat, STDERR_FILENO, &now) != 0 || now.st_dev != stderr_dev || now.st_ino != stderr_ino)
        return;
    char line[1024] = "mirror: ";
    size_t length = strlen(line);
    for (; *sentence != '\0' && length < sizeof line - 1; sentence++)
        line[length++] = *sentence;
    line[length++] = '\n';
    raw_syscall(SYS_write, STDERR_FILENO, line, length);
}

OWN_FRAME static int lost(void) {
    if (!atomic_exchange(&told_lost, true))
        layer_tell("the session is lost, its proxy is gone: what this program asks of the target fails with "
                   "EIO; end it and start it again with `mirror exec`");
    return -EIO;
}

/* --- signals ------------------------------------------------------------------------------------------------------ */

/* All of them, also those that libc keeps for itself (thread cancellation, setuid in all threads). */
uint64_t signals_block(void) {
    uint64_t all = ~0ULL;
    uint64_t saved = 0;
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &saved, sizeof all);
    return saved;
}

/* Those that have come meanwhile are handled here, by handlers whose calls are hooked. */
void signals_restore(uint64_t saved) {
    struct wait wait;
    guard_suspend(&wait);
    raw_syscall(SYS_rt_sigprocmask, SIG_SETMASK, &saved, NULL, sizeof saved);
    guard_resume(&wait);
}

/* --- fork --------------------------------------------------------------------------------------------------------- */

static void wait_while(_Atomic uint32_t *word, uint32_t value) {
    raw_syscall(SYS_futex, word, FUTEX_WAIT, value, NULL);
}

static void wake(_Atomic uint32_t *word, int count) {
    raw_syscall(SYS_futex, word, FUTEX_WAKE, count);
}

void session_start(void) {
    struct stat now;
    if (raw_syscall(SYS_fstat, STDERR_FILENO, &now) == 0) {
        stderr_dev = now.st_dev;
        stderr_ino = now.st_ino;
    }
    own_pid = raw_syscall(SYS_getpid);
}

void session_watch_fork(void) {
    int64_t page = raw_syscall(SYS_mmap, NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page < 0 && page > -4096)
        return;
    life = (_Atomic uint32_t *)page;
    *life = LIVING;
    /* Before Linux 4.14 the pid alone tells, and a vfork child is taken for a forked one. */
    if (raw_syscall(SYS_madvise, life, 4096, MADV_WIPEONFORK) < 0) {
        raw_syscall(SYS_munmap, life, 4096);
        life = NULL;
    }
}

_Atomic uint32_t *session_lock(void) {
    static _Atomic uint32_t lock;
    return life != NULL ? life + 1 : &lock;
}

static bool is_vfork_child(void) {
    return life != NULL && *life == LIVING && raw_syscall(SYS_getpid) != own_pid;
}

static void adopt(void) {
    for (int i = 0; i < ALL; i++) {
        link_close(&links[i]);
        links[i].owner = 0;
    }
    released = waiters = 0;
    if (life == NULL)
        *session_lock() = 0; /* another thread of the parent may have held it */
    own_pid = raw_syscall(SYS_getpid);
    forked_unregistered = true;
}

/* In a forked child, before its first exchange: forgets the parent's connections. */
static void notice_fork(void) {
    if (life == NULL) {
        if (raw_syscall(SYS_getpid) != own_pid)
            adopt();
        return;
    }
    for (;;) {
        uint32_t state = FORKED;
        if (*life == LIVING)
            return;
        if (atomic_compare_exchange_strong(life, &state, ADOPTING)) {
            adopt();
            *life = LIVING;
            wake(life, ALL);
            return;
        }
        wait_while(life, ADOPTING); /* another thread of the child was first */
    }
}

/* --- the pool ----------------------------------------------------------------------------------------------------- */

static size_t program_path(char *path, size_t size) {
    int64_t length = raw_syscall(SYS_readlinkat, -1, "/proc/self/exe", path, size);
    return length < 0 ? 0 : (size_t)length;
}

void session_put_register(struct link *link, struct wire_writer *out, const char *cause, uint16_t lifeline_port) {
    link_begin(link, out, "Register", 6);
    char *program = (char *)link->buffer + link->capacity_bytes - PATH_MAX; /* the message does not get so far */
    wire_put_uint(out, PROTOCOL_VERSION);
    wire_put_uint(out, (uint64_t)raw_syscall(SYS_getpid));
    wire_put_str(out, cause);
    wire_put_uint(out, lifeline_port);
    wire_put_bin(out, program, program_path(program, PATH_MAX));
    wire_put_bin(out, mirror_libc.id, mirror_libc.size_bytes);
}

void session_share(const struct link *link) {
    for (int i = 0; i < ALL; i++)
        links[i].fd = -1;
    links[0].buffer = link->buffer;
    links[0].capacity_bytes = link->capacity_bytes;
    links[0].last_id = link->last_id;
    links[0].fd = link->fd;
    links[0].inode = link->inode;
}

/* A further connection of this process. */
static int connect_link(struct link *link, const uint64_t *mask) {
    struct wire_writer out;
    struct wire_reader in;
    char answer[32];
    int fd;
    int failed = link_open(link);
    if (failed != 0)
        return failed;
    const char *cause = atomic_exchange(&forked_unregistered, false) || is_vfork_child() ? "fork" : "thread";
    session_put_register(link, &out, cause, 0);
    failed = link_send(link, &out, link_next_id(link), -1, mask);
    if (failed == 0)
        failed = link_receive(link, &in, answer, &fd, mask);
    if (failed == 0 && fd >= 0)
        raw_syscall(SYS_close, fd);
    if (failed == 0 && strcmp(answer, "Registered") != 0)
        failed = -EPROTO;
    if (failed != 0)
        link_close(link);
    return failed;
}

static bool claim(struct link *link, int thread) {
    int nobody = 0;
    return link->owner == 0 && atomic_compare_exchange_strong(&link->owner, &nobody, thread);
}

/* A free connection of links[from..to), one that is connected if there is any. */
static struct link *claim_any(int from, int to, int thread, bool connected) {
    for (int i = from; i < to; i++)
        if (links[i].fd >= 0 && claim(&links[i], thread))
            return &links[i];
    for (int i = from; i < to && !connected; i++)
        if (claim(&links[i], thread))
            return &links[i];
    return NULL;
}

static void release(struct link *link) {
    if (link - links >= SHARED)
        link_close(link);
    link->owner = 0;
    released++;
    if (waiters != 0)
        wake(&released, 1);
}

/* A handler left an exchange by siglongjmp: its answer would be taken for the next one's. */
static void drop_abandoned(int thread) {
    for (int i = 0; i < ALL; i++)
        if (links[i].owner == thread) {
            link_close(&links[i]);
            release(&links[i]);
        }
}

/* A thread that ended in a handler, or a child of vfork that was killed, has left its exchange for good. */
static void drop_dead(int thread, bool is_waiting) {
    for (int i = 0; i < ALL; i++) {
        int owner = links[i].owner;
        bool is_dead = owner == thread ? !is_waiting : owner != 0 && raw_syscall(SYS_tkill, owner, 0) == -ESRCH;
        if (is_dead && atomic_compare_exchange_strong(&links[i].owner, &owner, thread)) {
            link_close(&links[i]);
            release(&links[i]);
        }
    }
}

static bool any_is_connected(void) {
    for (int i = 0; i < SHARED; i++)
        if (links[i].fd >= 0)
            return true;
    return false;
}

/* `connected`: not one that would have to be made, while there are others. */
static struct link *take_link(enum waits waits, bool connected) {
    int thread = (int)raw_syscall(SYS_gettid);
    if (waits == WAITS_ABANDONED)
        drop_abandoned(thread);
    bool may_share = !is_vfork_child();
    const struct timespec look_again = {.tv_sec = 0, .tv_nsec = 100000000};
    for (;;) {
        uint32_t seen = released;
        connected = connected && any_is_connected();
        struct link *link = may_share ? claim_any(0, SHARED, thread, connected) : NULL;
        /* A handler must not wait for connections that interrupted threads hold. */
        if (link == NULL && (waits == WAITS_BENEATH || !may_share))
            link = claim_any(SHARED, ALL, thread, false);
        if (link != NULL)
            return link;
        waiters++;
        bool is_late = raw_syscall(SYS_futex, &released, FUTEX_WAIT, seen, &look_again) == -ETIMEDOUT;
        waiters--;
        if (is_late)
            drop_dead(thread, waits == WAITS_BENEATH);
    }
}

/* --- exchanges ---------------------------------------------------------------------------------------------------- */

/* The program has used up what a further connection needs; the proxy is as well as ever. */
static bool is_shortage(int failed) {
    return failed == -EMFILE || failed == -ENFILE || failed == -ENOMEM || failed == -ENOBUFS;
}

static int take_connected(struct link **taken, const uint64_t *mask) {
    enum waits waits = guard_waits();
    bool may_wait = waits != WAITS_BENEATH && !is_vfork_child();
    for (bool connected = false;; connected = true) {
        struct link *link = take_link(waits, connected);
        link_check(link);
        int failed = link->fd >= 0 ? 0 : connect_link(link, mask);
        *taken = link;
        if (failed == 0)
            return 0;
        release(link);
        if (!is_shortage(failed) || !may_wait || !any_is_connected())
            return failed;
        waits = WAITS_NOT;
    }
}

int call_begin(struct call *call, const char *request, uint32_t fields) {
    call->sent_fd = call->received_fd = -1;
    call->saved_signals = signals_block();
    notice_fork();
    int failed = take_connected(&call->link, &call->saved_signals);
    if (failed != 0) {
        signals_restore(call->saved_signals);
        return is_shortage(failed) ? failed : lost();
    }
    link_begin(call->link, &call->out, request, fields);
    return 0;
}

static int fail(struct call *call, int failed) {
    if (failed == -ENAMETOOLONG) /* nothing was sent */
        return failed;
    if (link_is_orphaned(call->link))
        return -EIO;
    link_close(call->link);
    return failed == -ENOMEM ? failed : lost();
}

OWN_FRAME static int read_failure(struct call *call) {
    uint64_t error = wire_get_uint(&call->in);
    size_t length;
    const uint8_t *reason = wire_get_bytes(&call->in, &length);
    if (call->received_fd >= 0)
        raw_syscall(SYS_close, call->received_fd);
    call->received_fd = -1;
    char sentence[512];
    if (!call->in.bad && length > 0 && length < sizeof sentence && reasons_shown++ < REASONS_SHOWN) {
        memcpy(sentence, reason, length);
        sentence[length] = '\0';
        layer_tell(sentence);
    }
    return error == 0 || error > 4095 ? -EIO : -(int)error;
}

int call_send(struct call *call) {
    int failed = link_send(call->link, &call->out, link_next_id(call->link), call->sent_fd, &call->saved_signals);
    if (failed == 0)
        failed = link_receive(call->link, &call->in, call->answer, &call->received_fd, &call->saved_signals);
    if (failed != 0 && failed != -EMFILE)
        return fail(call, failed);
    if (strcmp(call->answer, "Failed") == 0)
        return read_failure(call);
    return failed;
}

int call_notify(struct call *call) {
    int failed = link_send(call->link, &call->out, NOTIFICATION, call->sent_fd, &call->saved_signals);
    return failed == 0 ? 0 : fail(call, failed);
}

void call_end(struct call *call) {
    if (!link_is_orphaned(call->link))
        release(call->link);
    signals_restore(call->saved_signals);
}
