/* opendir and its kin: entries, their order and kinds, moving about, descriptors of directories, scandir. */
#include "program.h"

static void list(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory) {
        printf("%s: %s\n", path, strerrorname_np(errno));
        return;
    }
    uint64_t order = 0;
    int count = 0, agreeing = 0, kinds[16] = {0};
    struct dirent *entry;
    errno = 0;
    while ((entry = readdir(directory))) {
        order = hash(order, entry->d_name, strlen(entry->d_name) + 1);
        count++;
        kinds[entry->d_type & 15]++;
        struct stat status;
        if (fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0)
            agreeing += strcmp(entry->d_name, "..") == 0 || status.st_ino == entry->d_ino;
    }
    printf("%s: %d entries in order %016jx, errno %d, %d with the right inode; files %d directories %d links %d fifos %d "
           "sockets %d unknown %d\n",
           path, count, (uintmax_t)order, errno, agreeing, kinds[DT_REG], kinds[DT_DIR], kinds[DT_LNK], kinds[DT_FIFO],
           kinds[DT_SOCK], kinds[DT_UNKNOWN]);
    rewinddir(directory);
    int again = 0;
    while (readdir(directory))
        again++;
    printf("  after rewinddir %d\n", again);
    SAY(closedir(directory));
}

static int no_dots(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    static const char *const paths[] = {"/data", "/data/hundred", "/data/bare", "/data/links", "/data/names",
                                        "/data/permissions", "/app/config", "/data/links/to-directory",
                                        "/data/hello.txt", "/data/missing", "/data/permissions/directory-0000",
                                        "/data/permissions/directory-0111", "/data/permissions/directory-0444", ""};
    for (size_t index = 0; index < sizeof paths / sizeof *paths; index++)
        list(paths[index]);

    DIR *directory = opendir("/data/hundred");
    for (int skip = 0; skip < 10; skip++)
        readdir(directory);
    long place = telldir(directory);
    char eleventh[256];
    strcpy(eleventh, readdir(directory)->d_name);
    for (int skip = 0; skip < 20; skip++)
        readdir(directory);
    seekdir(directory, place);
    printf("seekdir comes back: %d\n", strcmp(eleventh, readdir(directory)->d_name) == 0);
    printf("dirfd %d\n", dirfd(directory));
    int file = openat(dirfd(directory), "003.txt", O_RDONLY);
    char content[32] = "";
    SAY(read(file, content, sizeof content));
    close(file);
    closedir(directory);

    int fd = open("/data/hundred", O_RDONLY | O_DIRECTORY);
    directory = fdopendir(fd);
    int count = 0;
    while (readdir(directory))
        count++;
    printf("fdopendir %d, the same descriptor %d\n", count, dirfd(directory) == fd);
    closedir(directory);
    SAY(fcntl(fd, F_GETFD));
    fd = open("/data/hello.txt", O_RDONLY);
    printf("fdopendir of a file: %s\n", fdopendir(fd) ? "works" : strerrorname_np(errno));
    close(fd);

    struct dirent **names;
    count = scandir("/data/hundred", &names, no_dots, alphasort);
    printf("scandir %d, first %s, last %s\n", count, names[0]->d_name, names[count - 1]->d_name);
    count = scandir("/data/names", &names, no_dots, versionsort);
    printf("scandir %d\n", count);
    SAY(scandir("/data/missing", &names, NULL, alphasort));
    int at = open("/data", O_RDONLY | O_DIRECTORY);
    SAY(scandirat(at, "links", &names, NULL, alphasort));
    close(at);

    DIR *first = opendir("/data"), *second = opendir("/data");
    readdir(first), readdir(first);
    int rest = 0;
    while (readdir(second))
        rest++;
    int remaining = 0;
    while (readdir(first))
        remaining++;
    printf("two at once: %d and %d\n", rest, remaining);
    closedir(first);
    closedir(second);
    struct dirent storage, *result;
    directory = opendir("/data/deep");
    int passes = 0;
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    while (readdir_r(directory, &storage, &result) == 0 && result)
        passes++;
    printf("readdir_r %d\n", passes);
    closedir(directory);
    return 0;
}
