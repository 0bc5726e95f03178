/* File names that are hard to quote: spaces, newlines, bytes that are no UTF-8, 255 bytes. */
#include "program.h"

static int compare(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    DIR *directory = opendir("/data/names");
    char *names[64];
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory));)
        names[count++] = strdup(entry->d_name);
    qsort(names, count, sizeof *names, compare);
    for (size_t index = 0; index < count; index++) {
        char path[1024], content[300] = "";
        snprintf(path, sizeof path, "/data/names/%s", names[index]);
        struct stat status;
        int stated = stat(path, &status);
        int fd = open(path, O_RDONLY);
        ssize_t size = read(fd, content, sizeof content - 1);
        printf("%zu %016jx: stat %d open %d read %zd, the content is the name: %d\n", strlen(names[index]),
               (uintmax_t)hash(0, names[index], strlen(names[index])), stated, fd >= 0, size,
               size >= 0 && strcmp(content, names[index]) == 0);
        char *real = realpath(path, NULL);
        printf("  realpath %d access %d\n", real && strcmp(real, path) == 0, access(path, R_OK));
        if (fd >= 0)
            close(fd);
    }
    closedir(directory);
    return 0;
}
