/* Paths that do not work, by every call that takes one: the errors must be the kernel's own. */
#include "program.h"

#include <sys/vfs.h>

static void try(const char *what, const char *path)
{
    struct stat status;
    struct statx extended;
    struct statfs facts;
    char buffer[4096];
#define RESULT(call) ((call) == -1 ? strerrorname_np(errno) : "0")
    printf("%s: open %s", what, RESULT(open(path, O_RDONLY)));
    printf(" openat %s", RESULT(openat(AT_FDCWD, path, O_RDONLY | O_DIRECTORY)));
    printf(" stat %s", RESULT(stat(path, &status)));
    printf(" lstat %s", RESULT(lstat(path, &status)));
    printf(" fstatat %s", RESULT(fstatat(AT_FDCWD, path, &status, 0)));
    printf(" statx %s", RESULT(statx(AT_FDCWD, path, 0, STATX_BASIC_STATS, &extended)));
    printf(" access %s", RESULT(access(path, R_OK)));
    printf(" readlink %s", readlink(path, buffer, sizeof buffer) == -1 ? strerrorname_np(errno) : "0");
    printf(" realpath %s", realpath(path, buffer) ? "0" : strerrorname_np(errno));
    printf(" opendir %s", opendir(path) ? "0" : strerrorname_np(errno));
    printf(" statfs %s", RESULT(statfs(path, &facts)));
    printf(" chdir %s", RESULT(chdir(path)));
    FILE *file = fopen(path, "r");
    printf(" fopen %s\n", file ? "0" : strerrorname_np(errno));
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static char long_name[300 + 16], long_path[5000];
    strcpy(long_name, "/data/");
    memset(long_name + 6, 'n', 256);
    strcpy(long_path, "/data");
    while (strlen(long_path) < 4090)
        strcat(long_path, "/hundred/..");
    static char longer_path[5000];
    strcpy(longer_path, long_path);
    while (strlen(longer_path) < 4200)
        strcat(longer_path, "/.");
    try("missing", "/data/missing");
    try("missing directory", "/data/missing/file");
    try("below a file", "/data/hello.txt/file");
    try("file with a slash", "/data/hello.txt/");
    try("file with a slash and a dot", "/data/hello.txt/.");
    try("loop", "/data/links/loop");
    try("two links in a circle", "/data/links/ping");
    try("below a loop", "/data/links/loop/x");
    try("dangling", "/data/links/dangling");
    try("name of 256", long_name);
    long_name[6 + 255] = 0;
    try("name of 255", long_name);
    try("path of 4096 and more", longer_path);
    try("path of nearly 4096", long_path);
    try("unreadable file", "/data/permissions/file-0000");
    try("unreadable directory", "/data/permissions/directory-0000");
    try("below an unreadable directory", "/data/permissions/directory-0000/inner.txt");
    try("unsearchable directory", "/data/permissions/directory-0444/inner.txt");
    try("unlistable directory", "/data/permissions/directory-0111");
    try("socket", "/data/socket");
    try("empty", "");
    try("many dots", "/data/../../../../data/./hundred/../hello.txt");
    try("upper case", "/DATA/HELLO.TXT");
    SAY(open((const char *)8, O_RDONLY));
    struct stat status;
    SAY(stat((const char *)8, &status));
    SAY(access((const char *)8, R_OK));
    return 0;
}
