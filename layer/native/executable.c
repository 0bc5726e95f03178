#include "executable.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core.h"

/* linux/binfmts.h: a script's interpreter may be a script, to this depth. */
#define SCRIPTS_MAX 5

/* statfs(2). */
#ifndef ST_NOSUID
#define ST_NOSUID 2
#endif

static bool gains_capabilities(int fd) {
    return raw_syscall(SYS_fgetxattr, fd, "security.capability", NULL, 0) > 0 && raw_syscall(SYS_getuid) != 0;
}

/* Whether the kernel will tell the dynamic linker to distrust the environment (AT_SECURE, ld.so(8)). */
static bool is_privileged(int fd, const struct stat *stat) {
    int64_t uid = raw_syscall(SYS_getuid);
    int64_t gid = raw_syscall(SYS_getgid);
    bool changes_user = (stat->st_mode & S_ISUID) != 0 && stat->st_uid != uid;
    bool changes_group = (stat->st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && stat->st_gid != gid;
    if (changes_user || changes_group || gains_capabilities(fd)) {
        struct statfs filesystem;
        bool ignored = raw_syscall(SYS_prctl, PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ||
                       (raw_syscall(SYS_fstatfs, fd, &filesystem) == 0 && (filesystem.f_flags & ST_NOSUID) != 0);
        if (!ignored)
            return true;
    }
    return raw_syscall(SYS_geteuid) != uid || raw_syscall(SYS_getegid) != gid;
}

static bool is_own_libc(const char *interpreter) {
    bool is_musl = strstr(interpreter, "ld-musl") != NULL;
#ifdef __GLIBC__
    return !is_musl;
#else
    return is_musl;
#endif
}

/* The dynamic linker itself, run as a program, loads the layer like any other. */
static bool is_dynamic_linker(const char *path) {
    const char *slash = strrchr(path, '/');
    const char *name = slash != NULL ? slash + 1 : path;
    return strncmp(name, "ld-", 3) == 0 || strncmp(name, "ld.so", 5) == 0;
}

/* The linker of Go notes its build id under this name, in the first pages. */
static bool has_go_note(const char *file, size_t size, const Elf64_Phdr *segment) {
    if (segment->p_type != PT_NOTE || segment->p_offset > size || segment->p_filesz > size - segment->p_offset)
        return false;
    const char *note = file + segment->p_offset;
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) + 4 <= segment->p_filesz;) {
        Elf64_Nhdr header;
        memcpy(&header, note + at, sizeof header);
        if (header.n_namesz == 4 && memcmp(note + at + sizeof header, "Go\0", 4) == 0)
            return true;
        size_t name = ((size_t)header.n_namesz + 3) & ~(size_t)3;
        size_t content = ((size_t)header.n_descsz + 3) & ~(size_t)3;
        at += sizeof header + name + content;
    }
    return false;
}

/* `file` is the beginning of an ELF file, NUL behind it. */
static enum following inspect_elf(const char *file, size_t size, const char *path) {
    Elf64_Ehdr header;
    if (size < sizeof header)
        return NOT_FOUND;
    memcpy(&header, file, sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64)
        return NOT_64_BIT;
    if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phoff > size)
        return FOLLOWED; /* laid out as no linker does: nothing is known, and the constructor tells in time */
    const char *interpreter = NULL;
    bool is_go = false;
    for (size_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        size_t offset = header.e_phoff + i * sizeof segment;
        if (offset + sizeof segment > size)
            return FOLLOWED;
        memcpy(&segment, file + offset, sizeof segment);
        if (segment.p_type == PT_INTERP)
            interpreter = segment.p_offset < size ? file + segment.p_offset : "";
        is_go = is_go || has_go_note(file, size, &segment);
    }
    if (is_go)
        return GO;
    if (interpreter == NULL)
        return is_dynamic_linker(path) ? FOLLOWED : STATIC;
    return is_own_libc(interpreter) ? FOLLOWED : OTHER_LIBC;
}

/* Reads the beginning of the file into `buffer`; its size, or -1 if the kernel would not run it. */
static int64_t read_beginning(int dirfd, const char *path, int flags, char *buffer, enum following *following) {
    int nofollow = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? O_NOFOLLOW : 0;
    int64_t fd = raw_syscall(SYS_openat, dirfd, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | nofollow, 0);
    if (fd < 0)
        return -1;
    struct stat stat;
    int64_t size = -1;
    if (raw_syscall(SYS_fstat, fd, &stat) == 0 && S_ISREG(stat.st_mode) &&
        raw_syscall(SYS_faccessat, dirfd, path, X_OK) == 0) {
        size = raw_syscall(SYS_pread64, fd, buffer, EXECUTABLE_BUFFER_BYTES - 1, 0);
        buffer[size < 0 ? 0 : size] = '\0';
        if (is_privileged((int)fd, &stat))
            *following = PRIVILEGED;
    }
    raw_syscall(SYS_close, fd);
    return size;
}

/* The path after `#!`, in place; null if there is none. */
static char *script_interpreter(char *file) {
    char *path = file + 2;
    path += strspn(path, " \t");
    path[strcspn(path, " \t\n")] = '\0';
    return *path != '\0' ? path : NULL;
}

enum following executable_inspect(int dirfd, const char *path, int flags, char *buffer) {
    char by_number[] = "/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
    if (path[0] == '\0' && (flags & AT_EMPTY_PATH) != 0) {
        char digits[12];
        int count = 0;
        for (unsigned rest = (unsigned)dirfd; rest > 0 || count == 0; rest /= 10)
            digits[count++] = (char)('0' + rest % 10);
        for (char *at = by_number + strlen(by_number); count > 0;)
            *at++ = digits[--count];
        path = by_number;
    }
    for (int depth = 0; depth <= SCRIPTS_MAX; depth++) {
        enum following following = FOLLOWED;
        int64_t size = read_beginning(dirfd, path, flags, buffer, &following);
        if (size < 0)
            return NOT_FOUND;
        bool is_script = size > 2 && buffer[0] == '#' && buffer[1] == '!';
        if (!is_script) {
            if (size < SELFMAG || memcmp(buffer, ELFMAG, SELFMAG) != 0)
                return NOT_FOUND; /* a shell will run it, or binfmt_misc: another exec */
            return following != FOLLOWED ? following : inspect_elf(buffer, (size_t)size, path);
        }
        path = script_interpreter(buffer); /* set-user-id means nothing on a script */
        if (path == NULL || strlen(path) >= EXECUTABLE_PATH_BYTES)
            return NOT_FOUND;
        dirfd = AT_FDCWD;
        flags = 0;
        memmove(buffer + EXECUTABLE_BUFFER_BYTES, path, strlen(path) + 1);
        path = buffer + EXECUTABLE_BUFFER_BYTES;
    }
    return NOT_FOUND;
}

const char *executable_reason(enum following following) {
    switch (following) {
    case STATIC:
        return " is statically linked";
    case NOT_64_BIT:
        return " is not a 64-bit program";
    case OTHER_LIBC:
        return " uses another C library";
    case PRIVILEGED:
        return " gets privileges when it starts";
    case GO:
        return " is a Go program, which makes its system calls itself";
    case FOLLOWED:
    case NOT_FOUND:
        return NULL;
    }
    return NULL;
}
