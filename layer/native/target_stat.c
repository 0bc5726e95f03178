/* A Stat message as struct stat and struct statx. The same Stat gives both, so that every way of asking about one file
 * agrees. */
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "identity.h"

enum { STAT_FIELDS = 13, NANOSECONDS = 1000000000 };
/* linux/stat.h: STATX_MNT_ID and where stx_mnt_id is; musl's sys/stat.h has neither. */
enum { MNT_ID_MASK = 0x1000, MNT_ID_OFFSET = 0x90 };

bool target_stat_read(struct wire_reader *in, struct target_stat *stat) {
    uint32_t fields = wire_get_array(in);
    if (fields < STAT_FIELDS)
        return false;
    memset(stat, 0, sizeof *stat);
    stat->dev = wire_get_uint(in);
    stat->ino = wire_get_uint(in);
    stat->mode = (uint32_t)wire_get_uint(in);
    stat->nlink = wire_get_uint(in);
    stat->uid = (uint32_t)wire_get_uint(in);
    stat->gid = (uint32_t)wire_get_uint(in);
    stat->rdev = wire_get_uint(in);
    stat->size = wire_get_uint(in);
    stat->blksize = wire_get_uint(in);
    stat->blocks = wire_get_uint(in);
    stat->atime_ns = wire_get_int(in);
    stat->mtime_ns = wire_get_int(in);
    stat->ctime_ns = wire_get_int(in);
    uint32_t left = fields - STAT_FIELDS;
    if (left > 0 && left--) {
        stat->has_btime = !wire_get_nil(in);
        if (stat->has_btime)
            stat->btime_ns = wire_get_int(in);
    }
    if (left > 0 && left--)
        stat->attributes = wire_get_uint(in);
    if (left > 0 && left--)
        stat->attributes_mask = wire_get_uint(in);
    if (left > 0 && left--)
        stat->mnt_id = wire_get_uint(in);
    while (left-- > 0)
        wire_skip(in);
    return !in->bad;
}

/* Times before 1970 count down: the nanoseconds stay positive. */
static void split_ns(int64_t ns, int64_t *seconds, int64_t *rest) {
    *seconds = ns / NANOSECONDS;
    *rest = ns % NANOSECONDS;
    if (*rest < 0) {
        *rest += NANOSECONDS;
        *seconds -= 1;
    }
}

static struct timespec to_timespec(int64_t ns) {
    int64_t seconds;
    int64_t rest;
    split_ns(ns, &seconds, &rest);
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = (long)rest};
}

void target_stat_to_stat(const struct target_stat *from, struct stat *to) {
    memset(to, 0, sizeof *to);
    to->st_dev = from->dev;
    to->st_ino = from->ino;
    to->st_mode = from->mode;
    to->st_nlink = (nlink_t)from->nlink;
    to->st_uid = from->uid;
    to->st_gid = from->gid;
    to->st_rdev = from->rdev;
    to->st_size = (off_t)from->size;
    to->st_blksize = (blksize_t)from->blksize;
    to->st_blocks = (blkcnt_t)from->blocks;
    to->st_atim = to_timespec(from->atime_ns);
    to->st_mtim = to_timespec(from->mtime_ns);
    to->st_ctim = to_timespec(from->ctime_ns);
}

static struct statx_timestamp to_timestamp(int64_t ns) {
    int64_t seconds;
    int64_t rest;
    split_ns(ns, &seconds, &rest);
    return (struct statx_timestamp){.tv_sec = seconds, .tv_nsec = (uint32_t)rest};
}

void target_stat_to_statx(const struct target_stat *from, unsigned mask, struct statx *to) {
    memset(to, 0, sizeof *to);
    /* As the kernel: the basic fields are there whatever was asked, the time of birth only where it was. */
    to->stx_mask = STATX_BASIC_STATS;
    to->stx_blksize = (uint32_t)from->blksize;
    to->stx_attributes = from->attributes;
    to->stx_attributes_mask = from->attributes_mask;
    to->stx_nlink = (uint32_t)from->nlink;
    to->stx_uid = from->uid;
    to->stx_gid = from->gid;
    to->stx_mode = (uint16_t)from->mode;
    to->stx_ino = from->ino;
    to->stx_size = from->size;
    to->stx_blocks = from->blocks;
    to->stx_atime = to_timestamp(from->atime_ns);
    to->stx_mtime = to_timestamp(from->mtime_ns);
    to->stx_ctime = to_timestamp(from->ctime_ns);
    if ((mask & STATX_BTIME) && from->has_btime) {
        to->stx_btime = to_timestamp(from->btime_ns);
        to->stx_mask |= STATX_BTIME;
    }
    if (from->mnt_id) {
        memcpy((char *)to + MNT_ID_OFFSET, &from->mnt_id, sizeof from->mnt_id);
        to->stx_mask |= MNT_ID_MASK;
    }
    to->stx_rdev_major = major(from->rdev);
    to->stx_rdev_minor = minor(from->rdev);
    to->stx_dev_major = major(from->dev);
    to->stx_dev_minor = minor(from->dev);
}
