/* Every way of starting a child; each child reads a remote file. */
#include "program.h"

#include <spawn.h>

extern char **environ;
#define FILE_OF_POD "/data/hello.txt"

static void finish(const char *how, pid_t child)
{
    int status = -1;
    if (waitpid(child, &status, 0) != child)
        printf("%s: no child\n", how);
    printf("%s: %d\n", how, status);
    fflush(stdout);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    char *arguments[] = {"cat", FILE_OF_POD, NULL};
    char *few[] = {"ONLY=this", NULL}, *none[] = {NULL};
    fflush(stdout);
#define CHILD(how, exec)                                                                                               \
    do {                                                                                                               \
        pid_t child = fork();                                                                                          \
        if (child == 0) {                                                                                              \
            exec;                                                                                                      \
            _exit(98);                                                                                                 \
        }                                                                                                              \
        finish(how, child);                                                                                            \
    } while (0)
    CHILD("execv", execv("/bin/cat", arguments));
    CHILD("execvp", execvp("cat", arguments));
    CHILD("execve", execve("/bin/cat", arguments, environ));
    CHILD("execve with few", execve("/bin/cat", arguments, few));
    CHILD("execve with no environment", execve("/bin/cat", arguments, none));
    CHILD("execve with NULL", execve("/bin/cat", arguments, NULL));
    CHILD("execvpe", execvpe("cat", arguments, few));
    CHILD("execl", execl("/bin/cat", "cat", FILE_OF_POD, (char *)NULL));
    CHILD("execlp", execlp("cat", "cat", FILE_OF_POD, (char *)NULL));
    CHILD("execle", execle("/bin/cat", "cat", FILE_OF_POD, (char *)NULL, few));
    int fd = open("/bin/cat", O_RDONLY | O_CLOEXEC);
    CHILD("fexecve", fexecve(fd, arguments, environ));
    CHILD("execveat", execveat(AT_FDCWD, "/bin/cat", arguments, environ, 0));
    CHILD("execveat of a descriptor", execveat(fd, "", arguments, environ, AT_EMPTY_PATH));
    pid_t child = vfork();
    if (child == 0) {
        execv("/bin/cat", arguments);
        _exit(98);
    }
    finish("vfork", child);
    child = vfork();
    if (child == 0) {
        execvp("no-such-program", arguments);
        _exit(96);
    }
    finish("vfork of nothing", child);
    int spawned = posix_spawn(&child, "/bin/cat", NULL, NULL, arguments, environ);
    finish("posix_spawn", child);
    printf("posix_spawn of nothing %d\n", posix_spawn(&child, "/bin/no-such-program", NULL, NULL, arguments, environ));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, FILE_OF_POD, O_RDONLY, 0);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    char *plain[] = {"cat", NULL};
    spawned = posix_spawnp(&child, "cat", &actions, NULL, plain, environ);
    finish("posix_spawnp with a remote standard input", child);
    printf("posix_spawnp %d\n", spawned);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF);
    spawned = posix_spawn(&child, "/bin/cat", NULL, &attributes, arguments, none);
    finish("posix_spawn in a group of its own", child);
    SAY(system("cat /data/hello.txt"));
    FILE *output = popen("cat /data/hello.txt; exit 5", "r");
    char line[64] = "";
    printf("popen %s", fgets(line, sizeof line, output) ? line : "nothing\n");
    SAY(pclose(output));
    fflush(stdout);
    CHILD("a script", execl("/bin/sh", "sh", "-c", "for n in 1 2; do sh -c 'cat /data/hello.txt'; done", (char *)NULL));
    for (int number = 1; number <= 5; number++)
        CHILD("again", execv("/bin/cat", arguments));
    SAY(wait(NULL));
    return 0;
}
