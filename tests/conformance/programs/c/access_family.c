/* access, faccessat, eaccess for every permission, with the rights of the pod's process. */
#include "program.h"

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const int modes[] = {F_OK, R_OK, W_OK, X_OK, R_OK | X_OK};
    DIR *directory = opendir("/data/permissions");
    struct dirent *entry;
    char *names[64];
    int count = 0;
    while ((entry = readdir(directory)))
        names[count++] = strdup(entry->d_name);
    printf("%d names\n", count);
    for (int index = 0; index < count; index++) {
        char path[512];
        snprintf(path, sizeof path, "/data/permissions/%s", names[index]);
        printf("%s:", names[index]);
        for (size_t mode = 0; mode < sizeof modes / sizeof *modes; mode++) {
            int plain = access(path, modes[mode]);
            int at = faccessat(AT_FDCWD, path, modes[mode], 0);
            int effective = faccessat(AT_FDCWD, path, modes[mode], AT_EACCESS);
            int below = faccessat(dirfd(directory), names[index], modes[mode], 0);
            printf(" %d%d%d%d%d", plain, at, effective, below, eaccess(path, modes[mode]));
        }
        int fd = open(path, O_RDONLY);
        printf(" open %s\n", fd >= 0 ? "succeeds" : strerrorname_np(errno));
        if (fd >= 0)
            close(fd);
        snprintf(path, sizeof path, "/data/permissions/%s/inner.txt", names[index]);
        struct stat status;
        say(stat(path, &status), "  stat within");
        fd = (int)say(open(path, O_RDONLY), "  open within");
        if (fd >= 0)
            close(fd);
    }
    SAY(access("/data/missing", F_OK));
    SAY(access("/data/hello.txt/x", F_OK));
    SAY(access("/data/links/dangling", F_OK));
    SAY(faccessat(AT_FDCWD, "/data/links/dangling", F_OK, AT_SYMLINK_NOFOLLOW));
    SAY(access("/data/links/loop", R_OK));
    SAY(access("/data/hello.txt", 64));
    SAY(access("", F_OK));
    SAY(euidaccess("/data/hello.txt", R_OK));
    return 0;
}
