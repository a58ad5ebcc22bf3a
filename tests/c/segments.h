/* What the tests of segments share: blocks that are made of their number, walks whose result is
 * checked, and headers by the letter of ia_layout.h.
 */
#ifndef SEGMENTS_H
#define SEGMENTS_H

#include "fixture.h"
#include "ia_crc32c.h"
#include "ia_segment.h"

struct made {
    struct ia_block block;
    char url[IA_MAX_URL + 1], version[IA_MAX_VERSION + 1];
    uint32_t header_offset; /* filled by a walk */
};

/* Block `n`; all that it says follows from n. */
static inline void make_block(struct made *m, uint64_t n, uint32_t length)
{
    uint64_t seed = n;
    memset(m, 0, sizeof *m);
    m->block = (struct ia_block){
        .sequence = 1000 + n,
        .object_size = length + n,
        .object_offset = n << 22,
        .checked_ms = 1700000000000 + n,
        .url = m->url,
        .version = m->version,
        .length = length,
        .url_len = (uint16_t)sprintf(m->url, "s3://bucket/train/%05llu.jpg", (unsigned long long)n),
        .version_len = (uint16_t)sprintf(m->version, "etag-%llu", (unsigned long long)(n % 1000)),
    };
    m->block.key[0] = check_random(&seed);
    m->block.key[1] = check_random(&seed);
}

static inline int append(struct ia_writer *writer, struct made *m, uint64_t n, uint32_t length)
{
    uint8_t *data = malloc(length + 1);
    make_block(m, n, length);
    fill_pattern(data, n, 0, length);
    int result = ia_writer_append(writer, &m->block, data);
    free(data);
    return result;
}

static inline uint64_t version_of(const struct ia_block *block)
{
    return ia_version_hash(block->version, block->version_len);
}

static inline int verify(struct ia_extent at, const struct ia_block *block)
{
    return ia_block_verify(at, block->key, version_of(block), block->data_offset, block->length);
}

struct walked {
    uint32_t count;
    struct made made[8000];
};
static struct walked walked; /* 40 MB: too large for a stack */

static inline int collect(void *context, const struct ia_block *block, uint32_t header_offset)
{
    struct walked *all = context;
    CHECK(all->count < sizeof all->made / sizeof *all->made);
    struct made *m = &all->made[all->count++];
    CHECK(block->url_len <= IA_MAX_URL && block->version_len <= IA_MAX_VERSION);
    memcpy(m->url, block->url, block->url_len);
    memcpy(m->version, block->version, block->version_len);
    m->url[block->url_len] = m->version[block->version_len] = 0;
    m->block = *block;
    m->block.url = m->url;
    m->block.version = m->version;
    m->header_offset = header_offset;
    return 0;
}

/* Whatever the disk holds, what a walk finds lies in the segment, and headers and data of no two
 * blocks overlap: headers in front of all data. */
static inline int walk(struct ia_extent at)
{
    walked.count = 0;
    int result = ia_segment_walk(at, collect, &walked);
    uint32_t head = IA_SEGMENT_HEADER_SIZE;
    for (uint32_t i = 0; i < walked.count; i++) {
        const struct made *m = &walked.made[i];
        CHECK_EQ(m->header_offset, head);
        head += (88 + m->block.url_len + m->block.version_len + 7) / 8 * 8;
    }
    CHECK(head <= at.size);
    for (uint32_t i = 0; i < walked.count; i++) {
        const struct ia_block *block = &walked.made[i].block;
        CHECK(block->data_offset >= head);
        CHECK(block->length <= IA_BLOCK_SIZE);
        CHECK((uint64_t)block->data_offset + block->length <= at.size);
    }
    return result;
}

static inline void check_same(const struct ia_block *a, const struct ia_block *b)
{
    CHECK_EQ(a->key[0], b->key[0]);
    CHECK_EQ(a->key[1], b->key[1]);
    CHECK_EQ(a->sequence, b->sequence);
    CHECK_EQ(a->object_size, b->object_size);
    CHECK_EQ(a->object_offset, b->object_offset);
    CHECK_EQ(a->checked_ms, b->checked_ms);
    CHECK_EQ(a->length, b->length);
    CHECK_EQ(a->data_offset, b->data_offset);
    CHECK_EQ(a->url_len, b->url_len);
    CHECK_EQ(a->version_len, b->version_len);
    CHECK_MEM(a->url, b->url, a->url_len);
    CHECK_MEM(a->version, b->version, a->version_len);
}

static inline void check_data(struct ia_extent at, const struct ia_block *block, uint64_t n)
{
    static uint8_t data[IA_BLOCK_SIZE];
    CHECK_EQ(pread(at.fd, data, block->length, (off_t)(at.start + block->data_offset)),
             block->length);
    CHECK(has_pattern(data, n, 0, block->length));
    CHECK_EQ(verify(at, block), 1);
}

static inline struct ia_extent make_segment(enum medium medium, uint32_t size)
{
    struct ia_extent at = {.size = size, .start = 65536};
    at.fd = make_file(medium, (off_t)(at.start + size));
    return at;
}

static inline uint8_t *snapshot(struct ia_extent at)
{
    uint8_t *bytes = malloc(at.size);
    CHECK_EQ(pread(at.fd, bytes, at.size, (off_t)at.start), at.size);
    return bytes;
}

/* A header by the letter of ia_layout.h, at any place and saying anything. */
static inline uint32_t forge(uint8_t *to, struct ia_block_header header, const char *names)
{
    memset(to, 0, header.header_len > sizeof header ? header.header_len : sizeof header);
    memcpy(to + sizeof header, names, header.url_len + header.version_len);
    header.crc = 0;
    memcpy(to, &header, sizeof header);
    header.crc = ia_crc32c(0, to, header.header_len);
    memcpy(to, &header, sizeof header);
    return header.header_len;
}

static inline struct ia_block_header plain_header(uint64_t segment_sequence)
{
    return (struct ia_block_header){
        .magic = IA_BLOCK_MAGIC,
        .format = IA_FORMAT,
        .header_len = 88 + 8,
        .key = {1, 2},
        .segment_sequence = segment_sequence,
        .block_sequence = 3,
        .object_size = 16,
        .data_offset = 65536 - 64,
        .length = 16,
        .url_len = 4,
        .version_len = 2,
    };
}

static inline int kill(struct ia_extent at, const struct ia_block *block)
{
    struct ia_victim victim = {{block->key[0], block->key[1]}, block->data_offset};
    return ia_segment_kill(at, &victim, 1);
}

#endif
