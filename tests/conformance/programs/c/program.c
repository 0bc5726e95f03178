/* main of every C program: PROGRAM [plain|thread|fork|fork-thread] ARGUMENTS runs its function in that way. */
#include "program.h"

#include <pthread.h>

struct run {
    int argc;
    char **argv;
    int status;
};

static void *run_in_thread(void *argument)
{
    struct run *run = argument;
    run->status = program(run->argc, run->argv);
    return NULL;
}

static int run_threaded(int argc, char **argv)
{
    struct run run = {argc, argv, 0};
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_in_thread, &run) != 0)
        return 99;
    pthread_join(thread, NULL);
    return run.status;
}

int main(int argc, char **argv)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *way = argc > 1 ? argv[1] : "plain";
    if (argc > 1) {
        argv[1] = argv[0];
        argv++;
        argc--;
    }
    if (strncmp(way, "fork", 4) == 0) {
        pid_t child = fork();
        if (child != 0) {
            int status = 0;
            waitpid(child, &status, 0);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    bool threaded = strcmp(way, "thread") == 0 || strcmp(way, "fork-thread") == 0;
    int status = threaded ? run_threaded(argc, argv) : program(argc, argv);
    fflush(stdout);
    return status;
}

long say(long result, const char *what, ...)
{
    int number = errno;
    va_list arguments;
    va_start(arguments, what);
    vprintf(what, arguments);
    va_end(arguments);
    if (result == -1)
        printf(": -1 %s\n", strerrorname_np(number) ? strerrorname_np(number) : "?");
    else
        printf(": %ld\n", result);
    errno = number;
    return result;
}

uint64_t hash(uint64_t so_far, const void *data, size_t size)
{
    uint64_t value = so_far ? so_far : 14695981039346656037u;
    for (const unsigned char *byte = data; size--; byte++)
        value = (value ^ *byte) * 1099511628211u;
    return value;
}

const char *endpoint(const void *address, bool ephemeral)
{
    static _Thread_local char texts[8][128];
    static _Thread_local int next;
    char *text = texts[next++ % 8];
    char number[INET6_ADDRSTRLEN] = "?";
    const struct sockaddr *any = address;
    int port = 0;
    if (any->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = address;
        inet_ntop(AF_INET, &v4->sin_addr, number, sizeof number);
        port = ntohs(v4->sin_port);
    } else if (any->sa_family == AF_INET6) {
        const struct sockaddr_in6 *v6 = address;
        inet_ntop(AF_INET6, &v6->sin6_addr, number, sizeof number);
        port = ntohs(v6->sin6_port);
    } else {
        snprintf(text, sizeof texts[0], "family %d", any->sa_family);
        return text;
    }
    if (ephemeral)
        snprintf(text, sizeof texts[0], "%s port %s", number, port ? "some" : "none");
    else
        snprintf(text, sizeof texts[0], "%s port %d", number, port);
    return text;
}

socklen_t make_address(struct sockaddr_storage *address, const char *text, int port)
{
    memset(address, 0, sizeof *address);
    struct sockaddr_in *v4 = (struct sockaddr_in *)address;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
    inet_pton(AF_INET6, text, &v6->sin6_addr);
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons((uint16_t)port);
    return sizeof *v6;
}

int dial(const char *address, int port)
{
    struct sockaddr_storage storage;
    socklen_t size = make_address(&storage, address, port);
    int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&storage, size) != 0) {
        int number = errno;
        close(fd);
        errno = number;
        return -1;
    }
    return fd;
}

ssize_t read_fully(int fd, void *buffer, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = read(fd, (char *)buffer + done, size - done);
        if (count < 0)
            return -1;
        if (count == 0)
            break;
        done += (size_t)count;
    }
    return (ssize_t)done;
}

const char *scene(const char *name)
{
    const char *value = getenv(name);
    if (!value) {
        printf("there is no %s in the environment\n", name);
        exit(97);
    }
    return value;
}

const char *composed(const char *format, ...)
{
    char *made = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&made, format, arguments) < 0)
        exit(97);
    va_end(arguments);
    return made;
}

void cat_in_child(const char *path)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/cat", "cat", path, (char *)NULL);
        _exit(98);
    }
    int status = 0;
    waitpid(child, &status, 0);
    printf("cat of %s ended with %d\n", path, status);
}
