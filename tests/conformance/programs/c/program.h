/* What the C programs share. A program is a function, so that it can be run as the first process, from a thread and
 * after fork; it prints facts that are the same each time. */
#ifndef PROGRAM_H
#define PROGRAM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* The program. The result is its exit status. */
int program(int argc, char **argv);

/* Prints "what: result", or the error if the result is -1, and gives the result. */
long say(long result, const char *what, ...);
#define SAY(call) say((long)(call), "%s", #call)
/* A hash of bytes (FNV-1a); begin with 0. */
uint64_t hash(uint64_t so_far, const void *data, size_t size);
/* "address port" of a socket address, without the port if it is 0 or `ephemeral`. In static memory, a few at a time. */
const char *endpoint(const void *address, bool ephemeral);
/* The address of an endpoint, numeric, IPv4 or IPv6. */
socklen_t make_address(struct sockaddr_storage *address, const char *text, int port);
/* A connected stream socket, or -1. */
int dial(const char *address, int port);
/* Reads until `size` bytes, the end (less than asked) or an error (-1). */
ssize_t read_fully(int fd, void *buffer, size_t size);
/* Runs /bin/cat on a file in a child that execs, to show that children are followed as well. */
void cat_in_child(const char *path);

/* The value of a variable of the environment that must be there. */
const char *scene(const char *name);
#define INVENTORY scene("SCENE_INVENTORY")
#define INVENTORY_V6 "fd00:10:96::e05"
#define STOREFRONT scene("SCENE_STOREFRONT")
#define POD scene("SCENE_POD")
#define NAMESPACE scene("SCENE_NAMESPACE")
/* Texts put together as printf does, in memory that stays. */
const char *composed(const char *format, ...);
enum {
    PORT_ECHO = 7,
    PORT_DIALER = 7001,
    PORT_WHO = 7002,
    PORT_RESET = 7003,
    PORT_DIGEST = 7004,
    PORT_FLOOD = 7005,
    PORT_SILENT = 7006,
    PORT_NOBODY = 7009
};

#endif
