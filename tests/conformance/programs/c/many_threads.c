/* Sixteen threads at the same files at once. */
#include "program.h"

#include <pthread.h>

static void *work(void *argument)
{
    long mistakes = 0;
    for (int round = 0; round < 40; round++) {
        char path[64], content[32] = "", expected[32];
        int number = (round * 7 + (int)(intptr_t)argument) % 100;
        snprintf(path, sizeof path, "/data/hundred/%03d.txt", number);
        snprintf(expected, sizeof expected, "%d\n", number);
        int fd = open(path, O_RDONLY);
        mistakes += fd < 0 || read(fd, content, strlen(expected)) < 0 || strcmp(content, expected) != 0;
        struct stat opened, named;
        mistakes += fstat(fd, &opened) != 0 || stat(path, &named) != 0 || opened.st_ino != named.st_ino;
        mistakes += opened.st_size != (off_t)(strlen(expected) * (size_t)(number + 1));
        mistakes += close(fd) != 0;
        mistakes += access("/data/missing", F_OK) != -1 || errno != ENOENT;
    }
    return (void *)(intptr_t)mistakes;
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    pthread_t threads[16];
    for (intptr_t index = 0; index < 16; index++)
        pthread_create(&threads[index], NULL, work, (void *)index);
    for (int index = 0; index < 16; index++) {
        void *mistakes = NULL;
        pthread_join(threads[index], &mistakes);
        printf("thread %d: %ld mistakes\n", index, (long)(intptr_t)mistakes);
    }
    return 0;
}
