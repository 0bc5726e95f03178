/* Sixteen children at once, each reading a file of its own, then their grandchildren. */
#include "program.h"

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    int ends[16][2];
    pid_t children[16];
    for (int index = 0; index < 16; index++) {
        if (pipe(ends[index]) != 0)
            return 1;
        children[index] = fork();
        if (children[index] == 0) {
            char command[128];
            snprintf(command, sizeof command, "cat /data/hundred/%03d.txt | (read line; echo $line; exit %d)", index, index);
            dup2(ends[index][1], 1);
            closefrom(3);
            execl("/bin/sh", "sh", "-c", command, (char *)NULL);
            _exit(98);
        }
        close(ends[index][1]);
    }
    for (int index = 0; index < 16; index++) {
        char output[64] = "";
        ssize_t size = read_fully(ends[index][0], output, sizeof output - 1);
        int status = -1;
        waitpid(children[index], &status, 0);
        printf("%d: %zd %s  status %d\n", index, size, output, status);
    }
    return 0;
}
