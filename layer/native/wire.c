/* MessagePack as https://github.com/msgpack/msgpack/blob/master/spec.md has it. Integers and lengths are written in
 * their shortest form, as the reference does, and read in any. The only call is to memcpy, so all of this may run in
 * a signal handler, in a child of vfork, and while libc is starting. */
#include "wire.h"

#include <string.h>

enum {
    FIXMAP = 0x80,
    FIXARRAY = 0x90,
    FIXSTR = 0xa0,
    NIL = 0xc0,
    FALSE = 0xc2,
    TRUE = 0xc3,
    BIN8 = 0xc4, /* 16 and 32 bits follow, here and below */
    EXT8 = 0xc7,
    FLOAT32 = 0xca,
    FLOAT64 = 0xcb,
    UINT8 = 0xcc, /* 16, 32 and 64 bits */
    INT8 = 0xd0,
    FIXEXT1 = 0xd4, /* 2, 4, 8 and 16 bytes */
    FIXEXT16 = 0xd8,
    STR8 = 0xd9,
    ARRAY16 = 0xdc,
    ARRAY32 = 0xdd,
    MAP16 = 0xde,
    MAP32 = 0xdf,
    NEGATIVE_FIXINT = 0xe0,
    SKIP_LEVELS = 16,
};

/* --- writing -------------------------------------------------------------------------------------------------- */

/* Room for `size_bytes`, or NULL once they would not fit. */
static uint8_t *take_room(struct wire_writer *out, size_t size_bytes) {
    if (out->overflow || size_bytes > (size_t)(out->end - out->next)) {
        out->overflow = true;
        return NULL;
    }
    uint8_t *room = out->next;
    out->next += size_bytes;
    return room;
}

/* A type byte, a big-endian number of `width` bytes, then room for `size_bytes`, all or nothing. */
static uint8_t *put_head(struct wire_writer *out, uint8_t type, uint64_t number, unsigned width, size_t size_bytes) {
    if (size_bytes > SIZE_MAX - 9) {
        out->overflow = true;
        return NULL;
    }
    uint8_t *room = take_room(out, 1 + width + size_bytes);
    if (room == NULL) {
        return NULL;
    }
    room[0] = type;
    for (unsigned i = 0; i < width; i++) {
        room[1 + i] = (uint8_t)(number >> (8 * (width - 1 - i)));
    }
    return room + 1 + width;
}

void wire_put_array(struct wire_writer *out, uint32_t count) {
    if (count < 16) {
        put_head(out, (uint8_t)(FIXARRAY | count), 0, 0, 0);
    } else if (count <= UINT16_MAX) {
        put_head(out, ARRAY16, count, 2, 0);
    } else {
        put_head(out, ARRAY32, count, 4, 0);
    }
}

void wire_put_nil(struct wire_writer *out) {
    put_head(out, NIL, 0, 0, 0);
}

void wire_put_bool(struct wire_writer *out, bool value) {
    put_head(out, value ? TRUE : FALSE, 0, 0, 0);
}

void wire_put_uint(struct wire_writer *out, uint64_t value) {
    if (value < 0x80) {
        put_head(out, (uint8_t)value, 0, 0, 0);
    } else if (value <= UINT8_MAX) {
        put_head(out, UINT8, value, 1, 0);
    } else if (value <= UINT16_MAX) {
        put_head(out, UINT8 + 1, value, 2, 0);
    } else if (value <= UINT32_MAX) {
        put_head(out, UINT8 + 2, value, 4, 0);
    } else {
        put_head(out, UINT8 + 3, value, 8, 0);
    }
}

void wire_put_int(struct wire_writer *out, int64_t value) {
    uint64_t bits = (uint64_t)value;

    if (value >= 0) {
        wire_put_uint(out, bits);
    } else if (value >= -32) {
        put_head(out, (uint8_t)bits, 0, 0, 0);
    } else if (value >= INT8_MIN) {
        put_head(out, INT8, bits, 1, 0);
    } else if (value >= INT16_MIN) {
        put_head(out, INT8 + 1, bits, 2, 0);
    } else if (value >= INT32_MIN) {
        put_head(out, INT8 + 2, bits, 4, 0);
    } else {
        put_head(out, INT8 + 3, bits, 8, 0);
    }
}

/* The contents of a str or bin whose formats with 8, 16 and 32 bits of length begin at `type`. */
static void put_bytes(struct wire_writer *out, uint8_t type, const void *data, size_t size_bytes) {
    uint8_t *room = NULL;

    if (size_bytes <= UINT8_MAX) {
        room = put_head(out, type, size_bytes, 1, size_bytes);
    } else if (size_bytes <= UINT16_MAX) {
        room = put_head(out, (uint8_t)(type + 1), size_bytes, 2, size_bytes);
    } else if (size_bytes <= UINT32_MAX) {
        room = put_head(out, (uint8_t)(type + 2), size_bytes, 4, size_bytes);
    } else {
        out->overflow = true;
    }
    if (room != NULL && size_bytes > 0) {
        memcpy(room, data, size_bytes);
    }
}

void wire_put_str(struct wire_writer *out, const char *text) {
    size_t size_bytes = 0;

    while (text[size_bytes] != '\0') {
        size_bytes++;
    }
    if (size_bytes < 32) {
        uint8_t *room = put_head(out, (uint8_t)(FIXSTR | size_bytes), 0, 0, size_bytes);
        if (room != NULL && size_bytes > 0) {
            memcpy(room, text, size_bytes);
        }
    } else {
        put_bytes(out, STR8, text, size_bytes);
    }
}

void wire_put_bin(struct wire_writer *out, const void *data, size_t size_bytes) {
    put_bytes(out, BIN8, data, size_bytes);
}

/* --- reading -------------------------------------------------------------------------------------------------- */

/* The next `size_bytes`, or NULL and `bad` if they are not there. */
static const uint8_t *take(struct wire_reader *in, uint64_t size_bytes) {
    if (in->bad || size_bytes > (uint64_t)(in->end - in->next)) {
        in->bad = true;
        return NULL;
    }
    const uint8_t *taken = in->next;
    in->next += size_bytes;
    return taken;
}

/* The next byte, a type; NIL (which no caller takes for a value) if there is none. */
static uint8_t take_type(struct wire_reader *in) {
    const uint8_t *type = take(in, 1);
    return type != NULL ? *type : NIL;
}

static uint64_t take_number(struct wire_reader *in, unsigned width) {
    const uint8_t *bytes = take(in, width);
    uint64_t number = 0;

    if (bytes == NULL) {
        return 0;
    }
    for (unsigned i = 0; i < width; i++) {
        number = number << 8 | bytes[i];
    }
    return number;
}

static uint64_t refuse(struct wire_reader *in) {
    in->bad = true;
    return 0;
}

/* How many values a collection has: never more than there are bytes for, as each takes one at least, so that a count
 * that lies cannot keep a caller's loop busy. */
static uint32_t check_count(struct wire_reader *in, uint64_t count) {
    return count <= (uint64_t)(in->end - in->next) ? (uint32_t)count : (uint32_t)refuse(in);
}

uint32_t wire_get_array(struct wire_reader *in) {
    uint8_t type = take_type(in);

    if ((type & 0xf0) == FIXARRAY) {
        return check_count(in, type & 0x0f);
    }
    if (type == ARRAY16 || type == ARRAY32) {
        return check_count(in, take_number(in, type == ARRAY16 ? 2 : 4));
    }
    return (uint32_t)refuse(in);
}

/* An integer of any format: its 64 bits, and whether they are to be read as negative. */
static uint64_t take_integer(struct wire_reader *in, bool *negative) {
    uint8_t type = take_type(in);
    uint64_t bits = 0;

    *negative = false;
    if (type < FIXMAP) {
        return type;
    }
    if (type >= UINT8 && type < INT8) {
        return take_number(in, 1U << (type - UINT8));
    }
    if (type >= NEGATIVE_FIXINT) {
        bits = (uint64_t)(int8_t)type;
    } else if (type >= INT8 && type < FIXEXT1) {
        unsigned width = 1U << (type - INT8);
        bits = take_number(in, width);
        /* The sign, from the number's top bit to that of 64. */
        uint64_t sign = UINT64_C(1) << (8 * width - 1);
        bits = (bits ^ sign) - sign;
    } else {
        return refuse(in);
    }
    *negative = bits >> 63 != 0;
    return bits;
}

uint64_t wire_get_uint(struct wire_reader *in) {
    bool negative = false;
    uint64_t bits = take_integer(in, &negative);

    return negative ? refuse(in) : bits;
}

int64_t wire_get_int(struct wire_reader *in) {
    bool negative = false;
    uint64_t bits = take_integer(in, &negative);

    if (!negative && bits > INT64_MAX) {
        bits = refuse(in);
    }
    return (int64_t)bits;
}

bool wire_get_bool(struct wire_reader *in) {
    uint8_t type = take_type(in);

    if (type != FALSE && type != TRUE) {
        refuse(in);
    }
    return type == TRUE;
}

const uint8_t *wire_get_bytes(struct wire_reader *in, size_t *size_bytes) {
    uint8_t type = take_type(in);
    uint64_t length = 0;

    if ((type & 0xe0) == FIXSTR) {
        length = type & 0x1f;
    } else if (type >= BIN8 && type < EXT8) {
        length = take_number(in, 1U << (type - BIN8));
    } else if (type >= STR8 && type < ARRAY16) {
        length = take_number(in, 1U << (type - STR8));
    } else {
        refuse(in);
    }
    const uint8_t *bytes = take(in, length);
    *size_bytes = bytes != NULL ? (size_t)length : 0;
    return bytes;
}

bool wire_get_nil(struct wire_reader *in) {
    if (in->bad || in->next == in->end || *in->next != NIL) {
        return false;
    }
    in->next++;
    return true;
}

/* Steps over one value but for what it contains; how many values that are. */
static uint64_t skip_head(struct wire_reader *in) {
    uint8_t type = take_type(in);

    if (in->bad || type < FIXMAP || type >= NEGATIVE_FIXINT || type == NIL || type == FALSE || type == TRUE) {
        return 0;
    }
    if (type < FIXARRAY) {
        return 2 * (uint64_t)(type & 0x0f);
    }
    if (type < FIXSTR) {
        return type & 0x0f;
    }
    if (type < NIL) {
        take(in, type & 0x1f);
    } else if (type >= BIN8 && type < EXT8) {
        take(in, take_number(in, 1U << (type - BIN8)));
    } else if (type >= EXT8 && type < FLOAT32) {
        take(in, 1 + take_number(in, 1U << (type - EXT8)));
    } else if (type == FLOAT32 || type == FLOAT64) {
        take(in, type == FLOAT32 ? 4 : 8);
    } else if (type >= UINT8 && type < INT8) {
        take(in, 1U << (type - UINT8));
    } else if (type >= INT8 && type < FIXEXT1) {
        take(in, 1U << (type - INT8));
    } else if (type >= FIXEXT1 && type <= FIXEXT16) {
        take(in, 1 + (1U << (type - FIXEXT1)));
    } else if (type >= STR8 && type < ARRAY16) {
        take(in, take_number(in, 1U << (type - STR8)));
    } else if (type == ARRAY16 || type == ARRAY32) {
        return take_number(in, type == ARRAY16 ? 2 : 4);
    } else if (type == MAP16 || type == MAP32) {
        return 2 * take_number(in, type == MAP16 ? 2 : 4);
    } else {
        refuse(in); /* 0xc1, which MessagePack never uses */
    }
    return 0;
}

void wire_skip(struct wire_reader *in) {
    uint64_t left[SKIP_LEVELS] = {1}; /* values still to be skipped, at each level */
    unsigned level = 0;

    while (!in->bad) {
        if (left[level] == 0) {
            if (level == 0) {
                return;
            }
            level--;
            continue;
        }
        left[level]--;
        uint64_t inside = skip_head(in);
        if (inside > 0 && level + 1 == SKIP_LEVELS) {
            refuse(in);
        } else if (inside > 0) {
            left[++level] = inside;
        }
    }
}
