/* Open files that children inherit, by fork, by exec and by a message over a unix socket. */
#include "program.h"

static void show(const char *who, int fd)
{
    char buffer[10] = "";
    ssize_t count = read(fd, buffer, 5);
    struct stat status;
    int result = fstat(fd, &status);
    printf("%s: read %zd '%.5s', fstat %d size %jd mode %o links %ju inode %ju modified %jd.%09ld, at %jd\n", who, count,
           buffer, result, (intmax_t)status.st_size, status.st_mode, (uintmax_t)status.st_nlink,
           (uintmax_t)status.st_ino, (intmax_t)status.st_mtim.tv_sec, status.st_mtim.tv_nsec,
           (intmax_t)lseek(fd, 0, SEEK_CUR));
    fflush(stdout);
}

static void wait_for(pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    printf("child ended with %d\n", status);
}

static ssize_t pass(int channel, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char byte = 'x';
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    return sendmsg(channel, &message, 0);
}

static int receive(int channel)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char byte;
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    if (recvmsg(channel, &message, 0) != 1)
        return -1;
    int fd;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    return fd;
}

int program(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "child") == 0) {
        int fd = atoi(argv[2]);
        show("after exec", fd);
        SAY(fcntl(fd, F_GETFL) & O_ACCMODE);
        SAY(open("/data/hello.txt", O_RDONLY));
        return 7;
    }
    int fd = open("/data/hello.txt", O_RDONLY);
    show("parent", fd);
    pid_t child = fork();
    if (child == 0) {
        show("forked child", fd);
        _exit(0);
    }
    wait_for(child);
    show("parent after child", fd);
    char number[12];
    snprintf(number, sizeof number, "%d", fd);
    if ((child = fork()) == 0) {
        execl(argv[0], argv[0], "plain", "child", number, (char *)NULL);
        _exit(98);
    }
    wait_for(child);
    SAY(lseek(fd, 0, SEEK_CUR));
    int sockets[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, sockets);
    if ((child = fork()) == 0) {
        close(fd);
        int mine = receive(sockets[1]);
        show("by message", mine);
        _exit(0);
    }
    lseek(fd, 0, SEEK_SET);
    ssize_t passed = pass(sockets[0], fd);
    wait_for(child); /* which prints too: the order of lines must not depend on who is faster */
    SAY(passed);
    SAY(lseek(fd, 0, SEEK_CUR));
    int closing = open("/data/kilobyte.bin", O_RDONLY | O_CLOEXEC);
    snprintf(number, sizeof number, "%d", closing);
    if ((child = fork()) == 0) {
        execl(argv[0], argv[0], "plain", "child", number, (char *)NULL);
        _exit(98);
    }
    wait_for(child);
    return 0;
}
