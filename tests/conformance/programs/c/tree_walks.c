/* libc's walkers: nftw, fts, glob, wordexp. */
#include "program.h"

#include <fts.h>
#include <ftw.h>
#include <glob.h>
#include <wordexp.h>

static uint64_t seen;
static int counts[8];

static int visit(const char *path, const struct stat *status, int kind, struct FTW *place)
{
    counts[kind & 7]++;
    seen += hash(0, path, strlen(path)) ^ (uint64_t)place->level;
    if (kind != FTW_NS) /* else the attributes are undefined */
        seen += status->st_mode;
    return 0;
}

static void walk(const char *root, int flags)
{
    seen = 0;
    memset(counts, 0, sizeof counts);
    say(nftw(root, visit, 8, flags), "nftw %s %d", root, flags);
    printf("  F %d D %d DNR %d NS %d SL %d DP %d SLN %d sum %016jx\n", counts[FTW_F], counts[FTW_D], counts[FTW_DNR],
           counts[FTW_NS], counts[FTW_SL], counts[FTW_DP], counts[FTW_SLN], (uintmax_t)seen);
}

static int by_name(const FTSENT **left, const FTSENT **right)
{
    return strcmp((*left)->fts_name, (*right)->fts_name);
}

static void fts_walk(const char *root, int options)
{
    char *roots[] = {(char *)root, NULL};
    FTS *walk = fts_open(roots, options, by_name);
    if (!walk) {
        printf("fts_open %s: %s\n", root, strerrorname_np(errno));
        return;
    }
    uint64_t sum = 0;
    int entries = 0;
    for (FTSENT *entry; (entry = fts_read(walk)); entries++) {
        sum = hash(sum, entry->fts_path, entry->fts_pathlen);
        sum = hash(sum, &entry->fts_info, sizeof entry->fts_info);
    }
    printf("fts %s: %d entries %016jx errno %d\n", root, entries, (uintmax_t)sum, errno);
    SAY(fts_close(walk));
}

static void expand(const char *pattern, int flags)
{
    glob_t found;
    int result = glob(pattern, flags, NULL, &found);
    printf("glob %s: %d", pattern, result);
    for (size_t index = 0; result == 0 && index < found.gl_pathc && index < 6; index++)
        printf(" %s", found.gl_pathv[index]);
    if (result == 0)
        printf(" (%zu)", found.gl_pathc), globfree(&found);
    printf("\n");
}

int program(int argc, char **argv)
{
    (void)argc, (void)argv;
    walk("/data", FTW_PHYS);
    walk("/data/links", 0);
    walk("/data/deep", FTW_PHYS | FTW_DEPTH);
    walk("/app", FTW_PHYS | FTW_MOUNT);
    walk("/data/missing", FTW_PHYS);
    fts_walk("/data/deep", FTS_PHYSICAL | FTS_NOCHDIR);
    fts_walk("/data/links", FTS_LOGICAL | FTS_NOCHDIR);
    fts_walk("/data/missing", FTS_PHYSICAL | FTS_NOCHDIR);
    expand("/data/*.txt", 0);
    expand("/data/hundred/00?.txt", 0);
    expand("/data/*/0[0-4]1.txt", 0);
    expand("/data/{hello,old,missing}.txt", GLOB_BRACE);
    expand("/data/nothing*", 0);
    expand("/data/nothing*", GLOB_NOCHECK);
    expand("/data/d*", GLOB_MARK);
    expand("/data/d*", GLOB_ONLYDIR);
    wordexp_t words;
    int result = wordexp("/data/h*.txt /app/config/*.ini", &words, WRDE_NOCMD);
    printf("wordexp %d:", result);
    for (size_t index = 0; result == 0 && index < words.we_wordc; index++)
        printf(" %s", words.we_wordv[index]);
    printf("\n");
    return 0;
}
