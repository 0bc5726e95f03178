/* Which place a path means: the session's ordered table of rules, first match wins.
 *
 * A local call pays for this on every path, so a row that does not match must cost about a nanosecond: each row
 * carries the first (for suffixes: last) eight bytes of its pattern in lower case as one word, and the path's own
 * first and last words are computed once. Only where the words agree is the whole pattern compared. */
#include <string.h>
#include <sys/mman.h>

#include "layer.h"

enum kind { KIND_PREFIX, KIND_EXACT, KIND_SUFFIX, KIND_CONTAINS, KIND_ANY };

enum { WORD_BYTES = 8, MAX_RULES = 4096 };

struct row {
    uint64_t word;
    uint64_t mask; /* 0xff for each byte of `word` that the pattern fills */
    const char *pattern;
    uint16_t length;
    uint8_t kind;
    uint8_t access_mask; /* bit 1 << enum access */
    uint8_t verdict;
};

static struct row *rows;
static uint32_t row_count;

/* ASCII only, eight bytes at once: 0x20 is added to the bytes between 'A' and 'Z'. */
static uint64_t word_lower(uint64_t word) {
    const uint64_t ones = 0x0101010101010101U;
    uint64_t low = word & (0x7f * ones);
    uint64_t from_a = low + ((0x80 - 'A') * ones);
    uint64_t past_z = low + ((0x80 - 'Z' - 1) * ones);
    uint64_t upper = (from_a & ~past_z & ~word) & (0x80 * ones);
    return word | (upper >> 2);
}

static uint64_t word_load(const char *text, size_t length) {
    uint64_t word = 0;
    memcpy(&word, text, length < WORD_BYTES ? length : WORD_BYTES);
    return word;
}

/* The last bytes of a text, aligned so that its end is at the word's most significant byte: a text of any length
 * then compares with a longer one's end (both supported architectures are little-endian). */
static uint64_t word_load_end(const char *text, size_t length) {
    if (length >= WORD_BYTES)
        return word_load(text + length - WORD_BYTES, WORD_BYTES);
    return length == 0 ? 0 : word_load(text, length) << (8 * (WORD_BYTES - length));
}

static char byte_lower(char byte) {
    return byte >= 'A' && byte <= 'Z' ? (char)(byte | 0x20) : byte;
}

/* `pattern` is in lower case already. */
static bool bytes_match(const char *path, const char *pattern, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (byte_lower(path[i]) != pattern[i])
            return false;
    return true;
}

static bool bytes_contain(const char *path, size_t path_length, const char *pattern, size_t length) {
    if (length == 0)
        return true;
    for (size_t i = 0; i + length <= path_length; i++)
        if (byte_lower(path[i]) == pattern[0] && bytes_match(path + i, pattern, length))
            return true;
    return false;
}

static bool row_matches(const struct row *row, const char *path, size_t length) {
    switch (row->kind) {
    case KIND_PREFIX:
        return length >= row->length && (length == row->length || path[row->length] == '/') &&
               bytes_match(path, row->pattern, row->length);
    case KIND_EXACT:
        return length == row->length && bytes_match(path, row->pattern, length);
    case KIND_SUFFIX:
        return length >= row->length && bytes_match(path + length - row->length, row->pattern, row->length);
    case KIND_CONTAINS:
        return bytes_contain(path, length, row->pattern, row->length);
    default:
        return true;
    }
}

enum verdict decide_path(const char *path, size_t length, enum access access) {
    uint64_t first = word_lower(word_load(path, length));
    uint64_t last = word_lower(word_load_end(path, length));
    unsigned bit = 1U << access;
    for (const struct row *row = rows, *end = rows + row_count; row < end; row++) {
        uint64_t word = row->kind == KIND_SUFFIX ? last : first;
        if (((word ^ row->word) & row->mask) == 0 && (row->access_mask & bit) && row_matches(row, path, length))
            return (enum verdict)row->verdict;
    }
    return VERDICT_LOCAL;
}

/* --- loading ---------------------------------------------------------------------------------------------- */

static int keyword_find(const char *const *words, int count, const uint8_t *text, size_t length) {
    for (int i = 0; i < count; i++)
        if (text && strlen(words[i]) == length && memcmp(words[i], text, length) == 0)
            return i;
    return -1;
}

static int keyword_read(struct wire_reader *in, const char *const *words, int count) {
    size_t length = 0;
    const uint8_t *text = wire_get_bytes(in, &length);
    return keyword_find(words, count, text, length);
}

static void row_index(struct row *row) {
    size_t used = row->length < WORD_BYTES ? row->length : WORD_BYTES;
    uint64_t filled = used == 0 ? 0 : UINT64_MAX >> (8 * (WORD_BYTES - used));
    if (row->kind == KIND_ANY || row->kind == KIND_CONTAINS) {
        row->word = row->mask = 0;
    } else if (row->kind == KIND_SUFFIX) {
        row->word = word_load_end(row->pattern, row->length);
        row->mask = used == 0 ? 0 : filled << (8 * (WORD_BYTES - used));
    } else {
        row->word = word_load(row->pattern, row->length);
        row->mask = filled;
    }
}

/* Reads one Rule; its pattern goes to `text`, in lower case. */
static bool row_read(struct wire_reader *in, struct row *row, char *text) {
    static const char *const kinds[] = {"prefix", "exact", "suffix", "contains", "any"};
    static const char *const accesses[] = {"read", "write", "any"};
    static const char *const verdicts[] = {"local", "remote", "absent", "read-only"};
    static const uint8_t access_masks[] = {1U << ACCESS_READ, 1U << ACCESS_WRITE,
                                           1U << ACCESS_READ | 1U << ACCESS_WRITE};
    static const uint8_t verdict_values[] = {VERDICT_LOCAL, VERDICT_REMOTE, VERDICT_ABSENT, VERDICT_READ_ONLY};

    uint32_t fields = wire_get_array(in);
    int kind = keyword_read(in, kinds, 5);
    size_t length = 0;
    const uint8_t *pattern = wire_get_bytes(in, &length);
    int access = keyword_read(in, accesses, 3);
    int verdict = keyword_read(in, verdicts, 4);
    if (in->bad || fields < 5 || kind < 0 || access < 0 || verdict < 0 || length > UINT16_MAX)
        return false;
    for (uint32_t i = 4; i < fields; i++)
        wire_skip(in);
    /* A prefix matches at a component's end: "/" and "/app/" become "" and "/app". */
    while (kind == KIND_PREFIX && length > 0 && pattern[length - 1] == '/')
        length--;
    for (size_t i = 0; i < length; i++)
        text[i] = byte_lower((char)pattern[i]);
    row->pattern = text;
    row->length = (uint16_t)length;
    row->kind = (uint8_t)kind;
    row->access_mask = access_masks[access];
    row->verdict = verdict_values[verdict];
    row_index(row);
    return !in->bad;
}

bool decide_load(struct wire_reader *rules) {
    size_t text_bytes = (size_t)(rules->end - rules->next); /* no pattern is longer than its message */
    uint32_t count = wire_get_array(rules);
    if (rules->bad || count > MAX_RULES)
        return false;
    size_t size = count * sizeof(struct row) + text_bytes;
    struct row *table = mmap(NULL, size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        return false;
    char *text = (char *)(table + count);
    for (uint32_t i = 0; i < count; i++) {
        if (!row_read(rules, &table[i], text)) {
            munmap(table, size + 1);
            return false;
        }
        text += table[i].length;
    }
    (void)mprotect(table, size + 1, PROT_READ); /* a program that writes here by mistake is told by its kernel */
    rows = table;
    row_count = count;
    return true;
}
