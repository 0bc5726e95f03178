/* What the kernel will run for a path, and whether the layer gets into it. Safe between vfork and exec. */
#ifndef MIRROR_EXECUTABLE_H
#define MIRROR_EXECUTABLE_H

enum following {
    FOLLOWED,
    NOT_FOUND,  /* or not executable, or not a regular file: the kernel has the word */
    STATIC,     /* no dynamic linker, which would load the layer */
    NOT_64_BIT, /* the layer is */
    OTHER_LIBC,
    PRIVILEGED, /* set-user-id and the like: the dynamic linker ignores LD_PRELOAD */
    GO,         /* makes its system calls itself */
};

/* For the beginning of a file, and behind it for the path of a script's interpreter (the kernel reads 256 bytes). */
#define EXECUTABLE_BUFFER_BYTES 4096
#define EXECUTABLE_PATH_BYTES   512

/* `path`, `dirfd` and `flags` as for execveat(2), AT_EMPTY_PATH included. `buffer` has room for both. */
enum following executable_inspect(int dirfd, const char *path, int flags, char *buffer);

/* Why, as the end of a sentence that begins with the program's name; null for FOLLOWED and NOT_FOUND. */
const char *executable_reason(enum following following);

#endif
