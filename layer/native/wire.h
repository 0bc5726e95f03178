/* MessagePack and frames, both ways, without allocation. `messages.py` says what the messages mean; a frame is
 * a 32-bit big-endian length (at most 1 MiB, itself not counted), then the array [request id, [message name,
 * fields...]]. The id of a request is positive, its answer carries the same id negated, a notification 0 (frame.py).
 * A name or a string field is str, a bytes field is bin, None is nil; fields that are missing at the end have their
 * default, further ones are to be skipped. Nothing here does I/O. */
#ifndef MIRROR_WIRE_H
#define MIRROR_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes never pass `end`; the first that would sets `overflow` and the writer then ignores all others. */
struct wire_writer {
    uint8_t *next;
    uint8_t *end;
    bool overflow;
};

void wire_put_array(struct wire_writer *out, uint32_t count);
void wire_put_nil(struct wire_writer *out);
void wire_put_bool(struct wire_writer *out, bool value);
void wire_put_uint(struct wire_writer *out, uint64_t value);
void wire_put_int(struct wire_writer *out, int64_t value);
void wire_put_str(struct wire_writer *out, const char *text);
void wire_put_bin(struct wire_writer *out, const void *data, size_t size_bytes);

/* Reads never pass `end`; the first value that is missing or of another type sets `bad`, and every read then
 * gives zero, so that a caller checks once, at the end. */
struct wire_reader {
    const uint8_t *next;
    const uint8_t *end;
    bool bad;
};

uint32_t wire_get_array(struct wire_reader *in);
uint64_t wire_get_uint(struct wire_reader *in);
int64_t wire_get_int(struct wire_reader *in);
bool wire_get_bool(struct wire_reader *in);
/* str or bin; the pointer is into the frame. */
const uint8_t *wire_get_bytes(struct wire_reader *in, size_t *size_bytes);
/* Takes a nil if one is next, and says so. */
bool wire_get_nil(struct wire_reader *in);
/* Steps over one value of any type, nested to at most 16 levels. */
void wire_skip(struct wire_reader *in);

#endif
