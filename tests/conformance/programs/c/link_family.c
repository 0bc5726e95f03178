/* readlink and realpath of links of every kind. */
#include "program.h"

static void follow(const char *path)
{
    char target[4096];
    ssize_t size = readlink(path, target, sizeof target);
    printf("%s\n  readlink %zd %.*s\n", path, size, size > 60 ? 60 : (int)(size < 0 ? 0 : size), target);
    if (size < 0)
        printf("  readlink %s\n", strerrorname_np(errno));
    char *real = realpath(path, NULL);
    printf("  realpath %s\n", real ? real : strerrorname_np(errno));
    free(real);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const paths[] = {
        "/data/links/relative", "/data/links/absolute", "/data/links/to-directory", "/data/links/to-link",
        "/data/links/over-root", "/data/links/absolute-config", "/data/links/dangling", "/data/links/loop",
        "/data/links/ping", "/data/links/long", "/data/links/to-directory/042.txt", "/app/config/orders.ini",
        "/app/config/..data", "/data/hello.txt", "/data", "/data/missing", "/data/hello.txt/more", "/data/../app/config",
        "/data/links/../links/./relative", "//data//hello.txt", "/data/hundred/", "/data/permissions/directory-0000/x",
    };
    for (size_t index = 0; index < sizeof paths / sizeof *paths; index++)
        follow(paths[index]);
    char small[4];
    SAY(readlink("/data/links/relative", small, sizeof small));
    printf("cut: %.4s\n", small);
    SAY(readlink("/data/links/relative", small, 0));
    int directory = open("/data/links", O_RDONLY | O_DIRECTORY);
    char target[256] = "";
    SAY(readlinkat(directory, "absolute", target, sizeof target));
    printf("%s\n", target);
    SAY(readlinkat(directory, "missing", target, sizeof target));
    SAY(readlinkat(directory, "", target, sizeof target));
    close(directory);
    char resolved[4096];
    printf("realpath into a buffer: %s\n", realpath("/data/links/to-link", resolved) == resolved ? resolved : "no");
    char *real = canonicalize_file_name("/data/links/absolute-config");
    printf("canonicalize_file_name: %s\n", real ? real : strerrorname_np(errno));
    return 0;
}
