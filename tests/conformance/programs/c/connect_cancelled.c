/* A thread that is cancelled in connect(): what runs at its end is the program's own code and sees the target. */
#include "program.h"

#include <pthread.h>

static void tell(void *when)
{
    /* Leaves the stack beneath connect()'s caller as the cancelled call has left it. */
    char untouched[8192];
    __asm__ volatile("" : : "r"(untouched) : "memory");
    char host[65] = "";
    int fd = open("/app/config/orders.ini", O_RDONLY);
    gethostname(host, sizeof host);
    printf("%s: %s, the target's file: %s\n", (const char *)when, host, fd >= 0 ? "open" : strerrorname_np(errno));
    if (fd >= 0)
        close(fd);
}

static void *be_cancelled(void *port)
{
    struct sockaddr_storage address;
    socklen_t size = make_address(&address, INVENTORY, *(int *)port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    pthread_key_t key;
    pthread_key_create(&key, tell);
    pthread_setspecific(key, "destructor");
    pthread_cleanup_push(tell, "cleanup");
    pthread_cancel(pthread_self());
    SAY(connect(fd, (struct sockaddr *)&address, size));
    pthread_cleanup_pop(0);
    return NULL;
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int ports[] = {PORT_ECHO, PORT_NOBODY};
    for (int i = 0; i < 2; i++) {
        pthread_t thread;
        void *result = NULL;
        pthread_create(&thread, NULL, be_cancelled, &ports[i]);
        pthread_join(thread, &result);
        printf("port %d: %s\n", ports[i], result == PTHREAD_CANCELED ? "cancelled" : "ended");
    }
    return 0;
}
