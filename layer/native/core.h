/* What the layer's core keeps among its own files: families do not include this. */
#ifndef MIRROR_CORE_H
#define MIRROR_CORE_H

#include "layer.h"

/* --- table.c --- */

/* Looks up every row's function in this process's libc, for `target` and for the originals. */
void table_resolve(void);
/* libc's own function or null. */
void *table_find(const char *symbol);

extern struct mirror_hook mirror_hooks[]; /* ends with a row whose symbol is null */
/* Memory near libc, for the beginnings of functions that are moved away. */
struct mirror_room {
    void *start;
    size_t size_bytes;
};
extern struct mirror_room mirror_room;

/* --- recipe.c --- */

/* The build id of this process's libc; of 0 bytes if it has none. */
struct mirror_libc {
    uint8_t id[32];
    size_t size_bytes;
};
extern struct mirror_libc mirror_libc;
void recipe_identify_libc(void);
/* Puts the hooks in by a recipe. UNFIT: it is not for this libc, nothing was changed. HALF: the kernel forbade it in the
 * middle. */
enum recipe_result { RECIPE_APPLIED, RECIPE_UNFIT, RECIPE_HALF };
enum recipe_result recipe_apply(struct wire_reader recipe);

/* --- guard.c --- */

/* Before the layer is active. */
void guard_start(void);
/* While a thread waits in the middle of an exchange it runs signal handlers, whose calls must be hooked as ever. */
struct wait {
    struct guard *suspended;
    struct guard frame;
};
void guard_suspend(struct wait *wait);
void guard_resume(struct wait *wait);
/* Whether this thread is in a signal handler that interrupted such a wait; ABANDONED: it was, and siglongjmp has left
 * the wait for good (told once). */
enum waits { WAITS_NOT, WAITS_BENEATH, WAITS_ABANDONED };
enum waits guard_waits(void);

/* --- descriptors.c --- */

/* Chooses the numbers for the layer's descriptors by the limits of this process. */
void descriptors_start(void);
/* Around an injection: what was made meanwhile and is still there is nobody's but the injector's, and is hidden. */
void descriptors_remember(void);
void descriptors_hide_new(void);

/* --- link.c --- */

/* One connection to the proxy, with the buffer for its frames. */
struct link {
    _Atomic int owner; /* id of the thread whose exchange it carries; 0: nobody's */
    int fd;            /* hidden; -1: not connected */
    uint32_t last_id;
    uint64_t inode; /* of the socket */
    uint8_t *buffer;
    size_t capacity_bytes;
};

/* Takes the proxy's address: names of abstract sockets or absolute paths, separated by commas; the first that answers
 * is used. The string is kept. */
void link_configure(const char *addresses);
/* 0 or -errno. */
int link_open(struct link *link);
void link_close(struct link *link);
/* Not connected any more if the program has closed the number behind libc's back. */
void link_check(struct link *link);
/* Whether this is a child that a signal handler forked in the middle of an exchange: the link is the parent's. */
bool link_is_orphaned(const struct link *link);
/* Starts a frame with the message's name; `out` is at its first field. */
void link_begin(struct link *link, struct wire_writer *out, const char *name, uint32_t fields);
#define NOTIFICATION 0
/* For a request that is answered. */
uint32_t link_next_id(struct link *link);
/* Sends the frame, `fd` beside it if that is not -1. Signals that are not in `mask` interrupt the wait only (null:
 * the thread's mask as it is). 0 or -errno. */
int link_send(struct link *link, const struct wire_writer *out, uint32_t id, int fd, const uint64_t *mask);
/* Reads one frame; `in` is at the message's first field, valid until the link is used again. `fd` gets the descriptor
 * that came with it, or -1. 0 or -errno. -EMFILE: all is well, but the program has no number free for it. */
int link_receive(struct link *link, struct wire_reader *in, char name[32], int *fd, const uint64_t *mask);

/* --- session.c --- */

/* Fills in Register. `cause` as in the message. */
void session_put_register(struct link *link, struct wire_writer *out, const char *cause, uint16_t lifeline_port);
/* Remembers this process's pid and standard error. */
void session_start(void);
/* Puts the first connection into the pool. */
void session_share(const struct link *link);
/* From here on fork is noticed. */
void session_watch_fork(void);

/* --- process.c --- */

/* Keeps what every program that this process execs needs: the layer's path as LD_PRELOAD had it, the proxy's addresses
 * and the port of the lifeline. Too long a one is refused (false). */
bool process_start(const char *library, const char *addresses, const char *lifeline);

#endif
