#define _GNU_SOURCE
#include "ia_segment.h"

#include "ia_crc32c.h"
#include "ia_io.h"
#include "ia_siphash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static uint32_t round_up(uint32_t value, uint32_t unit) { return (value + unit - 1) / unit * unit; }

static uint32_t crc_count(uint32_t length) { return (length + IA_CRC_SPAN - 1) / IA_CRC_SPAN; }

static uint32_t header_length(uint32_t url_len, uint32_t version_len)
{
    return round_up((uint32_t)sizeof(struct ia_block_header) + url_len + version_len, 8);
}

/* The data, padded, and its CRCs. */
static uint32_t stored_length(uint32_t length)
{
    return round_up(length, 4) + 4 * crc_count(length);
}

static uint32_t data_length(uint32_t length) { return round_up(stored_length(length), 8); }

uint64_t ia_version_hash(const char *version, size_t len)
{
    static const uint8_t zero[16];
    uint64_t out[2];
    ia_siphash128(zero, version, len, out);
    return out[0];
}

uint64_t ia_block_footprint(uint32_t url_len, uint32_t version_len, uint32_t length)
{
    if (url_len > IA_MAX_URL || version_len > IA_MAX_VERSION || length > IA_BLOCK_SIZE)
        return UINT64_MAX;
    return (uint64_t)header_length(url_len, version_len) + data_length(length);
}

/* The CRCs of a block start from this: data that stands at the wrong place, or belongs to
 * another version, never verifies. */
static uint32_t crc_seed(const uint64_t key[2], uint64_t version)
{
    uint64_t mix = key[0] ^ key[1] ^ version;
    return (uint32_t)(mix ^ mix >> 32);
}

static uint32_t span_crc(uint32_t seed, const uint8_t *data, uint32_t length, uint32_t span)
{
    uint32_t start = span * IA_CRC_SPAN;
    uint32_t rest = length - start;
    return ia_crc32c(seed, data + start, rest < IA_CRC_SPAN ? rest : IA_CRC_SPAN);
}

static uint32_t segment_header_crc(const struct ia_segment_header *header)
{
    struct ia_segment_header copy = *header;
    copy.crc = 0;
    return ia_crc32c(0, &copy, sizeof copy);
}

static uint32_t block_header_crc(const struct ia_block_header *header)
{
    struct ia_block_header copy = *header;
    copy.crc = 0;
    copy.dead = 0;
    uint32_t crc = ia_crc32c(0, &copy, sizeof copy);
    return ia_crc32c(crc, header + 1, header->header_len - sizeof *header);
}

/* ---- writing ----------------------------------------------------------------------------- */

/* Stands behind the last header, where there is room for another: whatever the disk held there, a
 * header of an earlier life or data made to look like one, the run ends here. */
static const uint8_t END_OF_RUN[8];

struct ia_writer {
    struct ia_extent at;
    pthread_mutex_t mutex;
    uint32_t head;     /* where the next header goes */
    uint32_t tail;     /* where the data begins */
    uint32_t promised; /* header bytes of blocks whose data is being written */
    int started;       /* a block was appended: the prefix is meaningful */
    struct ia_segment_header header;
};

static int write_segment_header(struct ia_extent at, struct ia_segment_header *header)
{
    header->crc = segment_header_crc(header);
    return ia_pwrite_all(at.fd, header, sizeof *header, (off_t)at.start);
}

/* Writes what belongs at writer->head, and the end of the run behind it. */
static int write_run(struct ia_writer *writer, void *header, uint32_t length)
{
    uint32_t room = writer->tail - writer->head - length;
    uint32_t end = room < sizeof END_OF_RUN ? room : sizeof END_OF_RUN;
    struct iovec parts[2] = {{header, length}, {(void *)END_OF_RUN, end}};
    return ia_pwritev_all(writer->at.fd, parts, 2, (off_t)(writer->at.start + writer->head));
}

int ia_writer_open(struct ia_extent at, uint64_t sequence, struct ia_writer **out)
{
    if (at.size < IA_SEGMENT_HEADER_SIZE)
        return -EINVAL;
    struct ia_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return -ENOMEM;
    writer->at = at;
    writer->head = IA_SEGMENT_HEADER_SIZE;
    writer->tail = at.size;
    writer->header.magic = IA_SEGMENT_MAGIC;
    writer->header.format = IA_FORMAT;
    writer->header.sequence = sequence;
    int error = write_segment_header(at, &writer->header);
    if (!error)
        error = write_run(writer, NULL, 0);
    if (error) {
        free(writer);
        return error;
    }
    pthread_mutex_init(&writer->mutex, NULL);
    *out = writer;
    return 0;
}

void ia_writer_close(struct ia_writer *writer)
{
    if (!writer)
        return;
    pthread_mutex_destroy(&writer->mutex);
    free(writer);
}

uint32_t ia_writer_room(struct ia_writer *writer)
{
    pthread_mutex_lock(&writer->mutex);
    uint32_t room = writer->tail - writer->head - writer->promised;
    pthread_mutex_unlock(&writer->mutex);
    return room;
}

uint32_t ia_writer_prefix(struct ia_writer *writer, char prefix[IA_SEGMENT_HEADER_SIZE])
{
    pthread_mutex_lock(&writer->mutex);
    uint32_t length = writer->header.prefix_len;
    memcpy(prefix, writer->header.prefix, length);
    pthread_mutex_unlock(&writer->mutex);
    return length;
}

/* Shortens the segment's prefix to what it shares with `url`; the caller holds the mutex. */
static int narrow_prefix(struct ia_writer *writer, const char *url, uint32_t url_len)
{
    struct ia_segment_header header = writer->header; /* stays as it is if the write fails */
    uint32_t length = 0;
    if (!writer->started) {
        length = url_len < sizeof header.prefix ? url_len : (uint32_t)sizeof header.prefix;
        memcpy(header.prefix, url, length);
    } else {
        uint32_t most = url_len < header.prefix_len ? url_len : header.prefix_len;
        while (length < most && header.prefix[length] == (uint8_t)url[length])
            length++;
        if (length == header.prefix_len)
            return 0;
        memset(header.prefix + length, 0, header.prefix_len - length);
    }
    header.prefix_len = length;
    int error = write_segment_header(writer->at, &header);
    if (!error) {
        writer->header = header;
        writer->started = 1;
    }
    return error;
}

static int write_block_header(struct ia_writer *writer, const struct ia_block *block,
                              uint32_t length)
{
    _Alignas(8) uint8_t buffer[sizeof(struct ia_block_header) + IA_MAX_URL + IA_MAX_VERSION + 8];
    memset(buffer, 0, length);
    struct ia_block_header *header = (struct ia_block_header *)buffer;
    *header = (struct ia_block_header){
        .magic = IA_BLOCK_MAGIC,
        .format = IA_FORMAT,
        .header_len = length,
        .key = {block->key[0], block->key[1]},
        .segment_sequence = writer->header.sequence,
        .block_sequence = block->sequence,
        .object_size = block->object_size,
        .object_offset = block->object_offset,
        .checked_ms = block->checked_ms,
        .data_offset = block->data_offset,
        .length = block->length,
        .url_len = block->url_len,
        .version_len = block->version_len,
    };
    memcpy(buffer + sizeof *header, block->url, block->url_len);
    memcpy(buffer + sizeof *header + block->url_len, block->version, block->version_len);
    header->crc = block_header_crc(header);
    return write_run(writer, buffer, length);
}

static int write_data(struct ia_writer *writer, const struct ia_block *block, const void *data)
{
    uint32_t crcs[IA_BLOCK_SIZE / IA_CRC_SPAN];
    uint32_t count = crc_count(block->length);
    uint32_t seed = crc_seed(block->key, ia_version_hash(block->version, block->version_len));
    for (uint32_t span = 0; span < count; span++)
        crcs[span] = span_crc(seed, data, block->length, span);
    uint32_t padding = round_up(block->length, 4) - block->length;
    struct iovec parts[3] = {{(void *)data, block->length}, {"\0\0\0", padding}, {crcs, 4 * count}};
    return ia_pwritev_all(writer->at.fd, parts, 3, (off_t)(writer->at.start + block->data_offset));
}

int ia_writer_append(struct ia_writer *writer, struct ia_block *block, const void *data)
{
    if (block->length > IA_BLOCK_SIZE || block->url_len > IA_MAX_URL ||
        block->version_len > IA_MAX_VERSION)
        return -EINVAL;
    uint32_t header_len = header_length(block->url_len, block->version_len);
    uint32_t data_len = data_length(block->length);

    pthread_mutex_lock(&writer->mutex);
    uint32_t free_bytes = writer->tail - writer->head - writer->promised;
    int fits = (uint64_t)header_len + data_len <= free_bytes;
    if (fits) {
        writer->tail -= data_len;
        writer->promised += header_len;
        block->data_offset = writer->tail;
    }
    pthread_mutex_unlock(&writer->mutex);
    if (!fits)
        return IA_SEGMENT_FULL;

    int error = write_data(writer, block, data);

    pthread_mutex_lock(&writer->mutex);
    if (!error)
        error = narrow_prefix(writer, block->url, block->url_len);
    if (!error)
        error = write_block_header(writer, block, header_len);
    if (!error)
        writer->head += header_len;
    writer->promised -= header_len;
    pthread_mutex_unlock(&writer->mutex);
    return error;
}

/* ---- reading ----------------------------------------------------------------------------- */

int ia_segment_probe(struct ia_extent at, struct ia_segment_header *header)
{
    if (at.size < IA_SEGMENT_HEADER_SIZE)
        return -EINVAL;
    ssize_t got = ia_pread_some(at.fd, header, sizeof *header, (off_t)at.start);
    if (got < 0)
        return (int)got;
    return got == (ssize_t)sizeof *header && header->magic == IA_SEGMENT_MAGIC &&
           header->format == IA_FORMAT && header->prefix_len <= sizeof header->prefix &&
           header->crc == segment_header_crc(header);
}

/* Whether the bytes at `header` are a sound block header of this segment; `left` are readable. It
 * stands at `head`, and the data of the blocks before it begins at `tail`. */
static int sound(const struct ia_block_header *header, size_t left, struct ia_extent at,
                 uint64_t sequence, uint32_t head, uint32_t tail)
{
    return left >= sizeof *header && header->magic == IA_BLOCK_MAGIC &&
           header->format == IA_FORMAT && header->segment_sequence == sequence &&
           header->header_len <= left && header->url_len <= IA_MAX_URL &&
           header->version_len <= IA_MAX_VERSION &&
           header->header_len == header_length(header->url_len, header->version_len) &&
           header->length <= IA_BLOCK_SIZE && head + header->header_len <= tail &&
           head + header->header_len <= header->data_offset &&
           (uint64_t)header->data_offset + data_length(header->length) <= at.size &&
           header->crc == block_header_crc(header);
}

int ia_segment_walk(struct ia_extent at, ia_visit visit, void *context)
{
    /* Headers are read in pieces of 256 KiB: a thousand of them, in one disk request. */
    enum { WINDOW = 256 << 10 };
    struct ia_segment_header segment;
    int valid = ia_segment_probe(at, &segment);
    if (valid <= 0)
        return valid;
    uint8_t *window = malloc(WINDOW);
    if (!window)
        return -ENOMEM;

    int result = 0;
    uint32_t head = IA_SEGMENT_HEADER_SIZE; /* of the next header */
    uint32_t tail = at.size;                /* of the data */
    uint32_t from = head;                   /* where the window begins */
    size_t filled = 0;
    for (;;) {
        const struct ia_block_header *header =
            (const struct ia_block_header *)(window + (head - from));
        size_t left = filled - (head - from);
        if (!sound(header, left, at, segment.sequence, head, tail)) {
            if (from == head && filled)
                break; /* a full window begins here, and still there is no header */
            uint32_t rest = tail - head;
            ssize_t got = ia_pread_some(at.fd, window, rest < WINDOW ? rest : WINDOW,
                                        (off_t)(at.start + head));
            if (got <= 0) {
                result = (int)got;
                break;
            }
            from = head;
            filled = (size_t)got;
            continue;
        }
        struct ia_block block = {
            .key = {header->key[0], header->key[1]},
            .sequence = header->block_sequence,
            .object_size = header->object_size,
            .object_offset = header->object_offset,
            .checked_ms = header->checked_ms,
            .url = (const char *)(header + 1),
            .version = (const char *)(header + 1) + header->url_len,
            .url_len = header->url_len,
            .version_len = header->version_len,
            .dead = header->dead,
            .length = header->length,
            .data_offset = header->data_offset,
        };
        result = visit(context, &block, head);
        if (result)
            break;
        head += header->header_len;
        if (header->data_offset < tail)
            tail = header->data_offset;
    }
    free(window);
    return result;
}

struct killing {
    struct ia_extent at;
    const struct ia_victim *victims; /* by key */
    size_t count;
    int marked;
};

static int compare_keys(const void *left, const void *right)
{
    const struct ia_victim *a = left, *b = right;
    if (a->key[0] != b->key[0])
        return a->key[0] < b->key[0] ? -1 : 1;
    return a->key[1] < b->key[1] ? -1 : a->key[1] > b->key[1];
}

static int kill_if_victim(void *context, const struct ia_block *block, uint32_t header_offset)
{
    static const uint16_t dead = 1;
    struct killing *killing = context;
    if (block->dead)
        return 0;
    struct ia_victim wanted = {.key = {block->key[0], block->key[1]}};
    const struct ia_victim *victim =
        bsearch(&wanted, killing->victims, killing->count, sizeof wanted, compare_keys);
    if (!victim || block->data_offset < victim->data_offset)
        return 0;
    uint64_t field = header_offset + offsetof(struct ia_block_header, dead);
    int error =
        ia_pwrite_all(killing->at.fd, &dead, sizeof dead, (off_t)(killing->at.start + field));
    killing->marked += !error;
    return error;
}

int ia_segment_kill(struct ia_extent at, struct ia_victim *victims, size_t count)
{
    if (count)
        qsort(victims, count, sizeof *victims, compare_keys);
    struct killing killing = {at, victims, count, 0};
    int error = count ? ia_segment_walk(at, kill_if_victim, &killing) : 0;
    return error ? error : killing.marked;
}

int ia_block_verify(struct ia_extent at, const uint64_t key[2], uint64_t version,
                    uint32_t data_offset, uint32_t length)
{
    uint32_t bytes = stored_length(length);
    if (length > IA_BLOCK_SIZE || (uint64_t)data_offset + bytes > at.size)
        return 0;
    if (length == 0)
        return 1;
    uint8_t *data = malloc(bytes);
    if (!data)
        return -ENOMEM;
    ssize_t got = ia_pread_some(at.fd, data, bytes, (off_t)(at.start + data_offset));
    int result = got < 0 ? (int)got : got == (ssize_t)bytes;
    const uint8_t *crcs = data + round_up(length, 4);
    uint32_t seed = crc_seed(key, version);
    for (uint32_t span = 0; result == 1 && span < crc_count(length); span++) {
        uint32_t stored;
        memcpy(&stored, crcs + 4 * span, sizeof stored);
        if (span_crc(seed, data, length, span) != stored)
            result = 0;
    }
    free(data);
    return result;
}

struct span {
    uint32_t head, tail;
};

static int note_span(void *context, const struct ia_block *block, uint32_t header_offset)
{
    struct span *span = context;
    span->head = header_offset + header_length(block->url_len, block->version_len);
    if (block->data_offset < span->tail)
        span->tail = block->data_offset;
    return 0;
}

int ia_writer_resume(struct ia_extent at, struct ia_writer **out)
{
    struct ia_writer *writer = calloc(1, sizeof *writer);
    if (!writer)
        return -ENOMEM;
    struct span span = {IA_SEGMENT_HEADER_SIZE, at.size};
    int found = ia_segment_probe(at, &writer->header);
    int error = found == 1 ? ia_segment_walk(at, note_span, &span) : found == 0 ? -ENOENT : found;
    if (error) {
        free(writer);
        return error;
    }
    writer->at = at;
    writer->head = span.head;
    writer->tail = span.tail;
    writer->started = span.head > IA_SEGMENT_HEADER_SIZE;
    pthread_mutex_init(&writer->mutex, NULL);
    *out = writer;
    return 0;
}
