/* The beginning of a process: before its own code runs, the proxy is told, the hooks are put in, and every trace of
 * the layer is moved out of the program's sight. A process that cannot be hooked does not run at all. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

/* Exit codes of `mirror`, for the first program and its children alike. */
#define EXIT_MIRROR_FAILED 125
#define EXIT_CANNOT_HOOK   126

#define NOT_UNDERSTOOD "the proxy's answer was not understood; the layer and the proxy must be of one version of mirror"

/* Of 2 ms each, and counted, so that the time for which a debugger stops the process is not. */
#define WAIT_MS   2
#define WAITS_MAX (60000 / WAIT_MS)

/* sys/prctl.h of older header sets. */
#ifndef PR_SET_PTRACER
#define PR_SET_PTRACER 0x59616d61
#endif

_Noreturn static void give_up(const char *sentence, int status) {
    layer_tell(sentence);
    raw_syscall(SYS_exit_group, status);
    __builtin_trap();
}

/* --- the environment ---------------------------------------------------------------------------------------------- */

/* Takes one path out of a list that is separated by colons or spaces, in place. */
static void remove_from_list(char *list, const char *path) {
    size_t length = strlen(path);
    for (char *entry = list; *entry != '\0';) {
        size_t size = strcspn(entry, ": ");
        char *next = entry + size + (entry[size] != '\0');
        if (size == length && memcmp(entry, path, length) == 0) {
            memmove(entry, next, strlen(next) + 1);
            break;
        }
        entry = next;
    }
}

static bool is_ours(const char *variable) {
    static const char *const names[] = {"MIRROR_SOCKET=", "MIRROR_LIFELINE="};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strncmp(variable, names[i], strlen(names[i])) == 0)
            return true;
    return false;
}

/* The program sees the environment that it would have without mirror. */
static void hide_environment(const char *library) {
    static const char preload[] = "LD_PRELOAD=";
    char **kept = environ;
    for (char **variable = environ; *variable != NULL; variable++) {
        if (is_ours(*variable))
            continue;
        if (strncmp(*variable, preload, sizeof preload - 1) == 0) {
            remove_from_list(*variable + sizeof preload - 1, library);
            if ((*variable)[sizeof preload - 1] == '\0')
                continue;
        }
        *kept++ = *variable;
    }
    *kept = NULL;
}

/* --- the lifeline ------------------------------------------------------------------------------------------------- */

/* Maps a page of a connection to the proxy and closes its number: forked children inherit the mapping, nothing but
 * exec and death undoes it, and so the proxy reads the end of the connection when the last of them is gone. Gives the
 * connection's own port, or 0 where this is not possible (another network namespace): then the proxy has the pid. */
static uint16_t make_lifeline(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    int64_t fd = raw_syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    int64_t memory = -1;
    if (raw_syscall(SYS_connect, fd, &address, size) == 0 && raw_syscall(SYS_getsockname, fd, &address, &size) == 0)
        memory = raw_syscall(SYS_mmap, NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    raw_syscall(SYS_close, fd);
    return memory < 0 && memory > -4096 ? 0 : ntohs(address.sin_port);
}

/* --- waiting to be hooked ----------------------------------------------------------------------------------------- */

/* The proxy is neither an ancestor nor root (Yama); a program that may not be read is not dumpable. */
static void allow_tracing(bool allowed) {
    if (allowed)
        raw_syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
    raw_syscall(SYS_prctl, PR_SET_PTRACER, allowed ? -1L : 0L, 0, 0, 0);
}

/* Waits in short system calls and calls malloc in between: where a debugger holds the process, Frida waits for a call
 * of libc's malloc to get in. */
static bool wait_for_hooks(int fd) {
    void *(*volatile allocate)(size_t) = (void *(*)(size_t))table_find("malloc");
    void (*volatile release)(void *) = (void (*)(void *))table_find("free");
    struct pollfd poll = {.fd = fd, .events = POLLIN, .revents = 0};
    struct timespec pause = {.tv_sec = 0, .tv_nsec = WAIT_MS * 1000000L};
    for (int i = 0; i < WAITS_MAX; i++) {
        struct timespec left = pause; /* the kernel writes into it */
        if (raw_syscall(SYS_ppoll, &poll, 1, &left, NULL, 8) > 0)
            return true;
        if (allocate != NULL && release != NULL)
            release(allocate(1));
    }
    return false;
}

/* Threads of this process, by the links of its directory of them (proc(5)); 0 where /proc is not mounted. */
static unsigned count_threads(void) {
    struct stat tasks;
    if (raw_syscall(SYS_newfstatat, AT_FDCWD, "/proc/self/task", &tasks, 0) != 0)
        return 0;
    return (unsigned)tasks.st_nlink - 2;
}

/* Frida's threads end a few milliseconds after it has detached, and take its descriptors and memory along. On a busy
 * machine one in a hundred agents does not notice (17.26) and stays, idle. */
#define ALONE_WAITS 500
static bool wait_until_alone(unsigned threads_before) {
    for (int i = 0; i < ALONE_WAITS; i++) {
        if (count_threads() <= threads_before)
            return true;
        struct timespec pause = {.tv_sec = 0, .tv_nsec = 1000000};
        raw_syscall(SYS_nanosleep, &pause, NULL);
    }
    return false;
}

static bool take_rules(struct wire_reader *in) {
    struct wire_reader rules = *in;
    wire_skip(in);
    return decide_load(&rules) && !in->bad;
}

static bool take_listeners(struct wire_reader *in) {
    struct wire_reader listeners = *in;
    wire_skip(in);
    return socket_load(&listeners) && !in->bad;
}

/* The fields of Registered. */
static bool take_settings(struct wire_reader *in) {
    if (!take_rules(in))
        return false;
    session.outgoing = wire_get_bool(in);
    session.names = wire_get_bool(in);
    session.incoming = wire_get_bool(in);
    struct wire_reader stub = *in;
    wire_skip(in);
    wire_get_array(&stub);
    size_t size, delivery_size;
    const uint8_t *address = wire_get_bytes(&stub, &size);
    session.stub_port = (uint16_t)wire_get_uint(&stub);
    const uint8_t *delivery = wire_get_bytes(in, &delivery_size);
    if (stub.bad || in->bad || size != 4 || delivery_size != 4)
        return false;
    memcpy(session.stub_address, address, 4);
    memcpy(session.delivery, delivery, 4);
    return take_listeners(in);
}

static bool take_recipe(struct wire_reader *in, struct wire_reader *recipe) {
    size_t size;
    const uint8_t *rows = wire_get_bytes(in, &size);
    recipe->next = rows;
    recipe->end = rows + size;
    return !in->bad;
}

_Noreturn static void refused(struct wire_reader *in) {
    char sentence[512];
    size_t length;
    const uint8_t *reason = wire_get_bytes(in, &length);
    if (in->bad || length >= sizeof sentence)
        give_up("this process cannot be hooked; try again with -v", EXIT_CANNOT_HOOK);
    memcpy(sentence, reason, length);
    sentence[length] = '\0';
    give_up(sentence, EXIT_CANNOT_HOOK);
}

/* Sends Register and reads the answer up to the recipe, which may be empty: then Frida has put the hooks in. */
static struct wire_reader be_registered(struct link *link, uint16_t lifeline_port) {
    struct wire_writer out;
    struct wire_reader in;
    char answer[32];
    int fd;
    session_put_register(link, &out, "exec", lifeline_port);
    if (link_send(link, &out, link_next_id(link), -1, NULL) != 0)
        give_up("the session is over, its proxy is gone: start it again with `mirror exec`", EXIT_MIRROR_FAILED);
    if (!wait_for_hooks(link->fd))
        give_up("the proxy has not hooked this process within a minute; end the session and start it again",
                EXIT_MIRROR_FAILED);
    if (link_receive(link, &in, answer, &fd, NULL) != 0)
        give_up("the session ended while this process was starting: start it again with `mirror exec`",
                EXIT_MIRROR_FAILED);
    if (strcmp(answer, "Refused") == 0)
        refused(&in);
    struct wire_reader recipe = {.next = NULL, .end = NULL, .bad = false};
    if (strcmp(answer, "Registered") != 0 || !take_settings(&in) || !take_recipe(&in, &recipe) || !host_load(&in))
        give_up(NOT_UNDERSTOOD, EXIT_MIRROR_FAILED);
    return recipe;
}

static void be_hooked(struct link *link, uint16_t lifeline_port) {
    unsigned threads_before = count_threads();
    descriptors_remember();
    struct wire_reader recipe = be_registered(link, lifeline_port);
    if (recipe.next != recipe.end) {
        enum recipe_result result = recipe_apply(recipe);
        if (result == RECIPE_APPLIED)
            return;
        if (result == RECIPE_HALF)
            give_up("the kernel does not allow code to be changed in this process (SELinux?); allow execmod for it",
                    EXIT_CANNOT_HOOK);
        /* Something else has changed libc's code in this process: Frida sees what there is. */
        mirror_libc.size_bytes = 0;
        recipe = be_registered(link, 0);
        if (recipe.next != recipe.end)
            give_up(NOT_UNDERSTOOD, EXIT_MIRROR_FAILED);
    }
    if (!wait_until_alone(threads_before))
        descriptors_hide_new();
}

/* A process that was made only for Frida to look at its libc: says that it is ready, and ends with its standard input. */
_Noreturn static void be_probed(void) {
    allow_tracing(true);
    raw_syscall(SYS_write, STDOUT_FILENO, "", 1);
    wait_for_hooks(STDIN_FILENO);
    raw_syscall(SYS_exit_group, 0);
    __builtin_trap();
}

__attribute__((constructor)) static void start(void) {
    const char *addresses = getenv("MIRROR_SOCKET");
    const char *lifeline = getenv("MIRROR_LIFELINE");
    Dl_info library;
    if (getenv("MIRROR_PROBE") != NULL) {
        table_resolve();
        recipe_identify_libc();
        be_probed();
    }
    if (addresses == NULL || dladdr((void *)&session, &library) == 0)
        return;
    session_start();
    guard_start();
    descriptors_start();
    table_resolve();
    recipe_identify_libc();
    link_configure(addresses);
    if (!process_start(library.dli_fname, addresses, lifeline != NULL ? lifeline : ""))
        give_up("mirror is installed under too long a path; install it under a shorter one", EXIT_MIRROR_FAILED);

    struct link link = {.owner = (int)raw_syscall(SYS_gettid), .fd = -1};
    if (link_open(&link) != 0)
        give_up(
            "the session's proxy is not there: it has ended (start it again with `mirror exec`), or this program is in "
            "another network namespace (run it without mirror)",
            EXIT_MIRROR_FAILED);
    uint16_t lifeline_port = lifeline != NULL ? make_lifeline(lifeline) : 0;
    int64_t was_dumpable = raw_syscall(SYS_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
    allow_tracing(true);
    be_hooked(&link, lifeline_port);
    allow_tracing(false);
    raw_syscall(SYS_prctl, PR_SET_DUMPABLE, was_dumpable, 0, 0, 0);

    session_share(&link);
    session_watch_fork();
    file_started();
    hide_environment(library.dli_fname);
    session.active = true;
}
