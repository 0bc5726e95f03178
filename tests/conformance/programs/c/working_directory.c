/* A working directory in the target: relative paths, getcwd, `..`, fchdir, and children that inherit it. */
#include "program.h"

static void where(void)
{
    char *cwd = getcwd(NULL, 0);
    printf("  cwd %s", cwd ? cwd : strerrorname_np(errno));
    free(cwd);
    char *real = realpath(".", NULL);
    printf(", realpath %s", real ? real : strerrorname_np(errno));
    free(real);
    struct stat status;
    printf(", stat %s\n", stat(".", &status) == 0 && S_ISDIR(status.st_mode) ? "directory" : "failed");
}

static void peek(const char *path)
{
    char content[16] = "";
    int fd = open(path, O_RDONLY);
    printf("  %s: %s", path, fd < 0 ? strerrorname_np(errno) : "open");
    if (fd >= 0 && read(fd, content, 10) > 0)
        printf(" %.5s", content);
    printf(", access %d\n", access(path, R_OK));
    if (fd >= 0)
        close(fd);
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int home = open(".", O_RDONLY | O_DIRECTORY);
    SAY(chdir("/data"));
    where();
    peek("hello.txt");
    peek("./links/relative");
    peek("missing");
    peek("../app/config/orders.ini");
    SAY(chdir("hundred"));
    where();
    peek("003.txt");
    peek("../hello.txt");
    peek("../../data/hello.txt");
    SAY(chdir(".."));
    where();
    SAY(chdir("links/to-directory"));
    where();
    peek("004.txt");
    SAY(chdir("missing"));
    SAY(chdir("004.txt"));
    SAY(chdir("/data/permissions/directory-0000"));
    SAY(chdir("/data/permissions/directory-0111"));
    peek("inner.txt");
    where();
    int directory = open("/data/deep/level0", O_RDONLY | O_DIRECTORY);
    SAY(fchdir(directory));
    where();
    peek("level1/level2/level3/level4/level5/level6/level7/level8/level9/level10/level11/bottom.txt");
    DIR *here = opendir(".");
    int count = 0;
    while (here && readdir(here))
        count++;
    printf("opendir of . has %d\n", count);
    if (here)
        closedir(here);
    fflush(stdout);
    SAY(system("/bin/pwd; cat ../../hello.txt; cd level1 && /bin/pwd && ls"));
    char small[3];
    printf("getcwd into 3 bytes: %s\n", getcwd(small, sizeof small) ? small : strerrorname_np(errno));
    int file = open("/data/hello.txt", O_RDONLY);
    SAY(fchdir(file));
    SAY(fchdir(-1));
    where();
    SAY(chdir("/"));
    where();
    peek("data/hello.txt");
    SAY(fchdir(home));
    SAY(access("..", F_OK));
    return 0;
}
