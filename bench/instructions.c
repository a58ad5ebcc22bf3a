/* The hot paths of csrc, each run once between two marks for valgrind's callgrind.
 *
 * `python -m bench instructions` builds it with the flags of a release and reads the counts. All input
 * is the same in every run, there is one thread, and what the kernel answers does not depend on the
 * state of a page cache: files are memory, and the read that must not wait always succeeds.
 */
#define _GNU_SOURCE
#include "ia_control.h"
#include "ia_crc32c.h"
#include "ia_index.h"
#include "ia_read.h"
#include "ia_segment.h"
#include "ia_siphash.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

/* Newer kernels know RWF_NOWAIT on tmpfs, older ones do not: the core would take another way. */
ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    (void)flags;
    return syscall(SYS_preadv, fd, parts, (long)count, (long)offset, 0l);
}

#define MUST(condition)                                                                \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                   \
        }                                                                              \
    } while (0)

/* Counts what stands between; the second time: the first one may do what is done once. */
#define COUNT(name, ...)                    \
    do {                                    \
        __VA_ARGS__;                        \
        COUNT_ONCE(name, __VA_ARGS__);      \
    } while (0)

/* The same for what cannot be done twice. */
#define COUNT_ONCE(name, ...)               \
    do {                                    \
        CALLGRIND_ZERO_STATS;               \
        CALLGRIND_TOGGLE_COLLECT;           \
        __VA_ARGS__;                        \
        CALLGRIND_TOGGLE_COLLECT;           \
        CALLGRIND_DUMP_STATS_AT(name);      \
    } while (0)

enum { SEGMENT_SIZE = 24 << 20, SEGMENTS = 2, BATCH = 64, IMAGE = 110000, TINY = 500 };

static uint8_t bytes[IMAGE + 8], buffer[(size_t)BATCH * IMAGE];

/* SplitMix64. */
static uint64_t mix(uint64_t seed)
{
    uint64_t z = seed * 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

/* ---- hashes ------------------------------------------------------------------------------- */

static void hashes(void)
{
    static const uint8_t key[16] = {1, 2, 3};
    static const char url[] = "s3://bucket/imagenet/train/n01440764/n01440764_10026.JPEG";
    uint64_t out[2];
    volatile uint32_t crc;
    COUNT("siphash of a URL of 57 bytes", ia_siphash128(key, url, sizeof url - 1, out));
    const struct ia_crc32c_implementation *one;
    char name[96];
    for (unsigned n = 0; (one = ia_crc32c_implementation(n)) != NULL; n++) {
        snprintf(name, sizeof name, "crc32c of 110,000 bytes, %s", one->name);
        COUNT(name, crc = one->update(0, bytes, IMAGE));
        snprintf(name, sizeof name, "crc32c of 100 bytes, %s", one->name);
        COUNT(name, crc = one->update(0, bytes, 100));
    }
    (void)crc;
}

/* ---- a cache ------------------------------------------------------------------------------ */

static struct ia_control *control;
static struct ia_index *index;
static struct ia_index_map *map;
static struct ia_view view;
static int shard;

static struct ia_extent segment_at(uint32_t number)
{
    return (struct ia_extent){shard, SEGMENT_SIZE, IA_DATA_START + (uint64_t)number * SEGMENT_SIZE};
}

static void make_cache(void)
{
    static const uint32_t segments[1] = {SEGMENTS};
    static const uint64_t sizes[1] = {SEGMENT_SIZE};
    int fd;
    MUST(ia_control_create(1, segments, sizes, &fd, &control) == 0);
    close(fd);
    atomic_store(&control->owner, 1); /* alive, as far as a reader can see */
    MUST(ia_index_create(control, &index) == 0);
    MUST((shard = memfd_create("shard", MFD_CLOEXEC)) >= 0);
    MUST(ftruncate(shard, IA_DATA_START + (off_t)SEGMENTS * SEGMENT_SIZE) == 0);
    int page = memfd_create("page", MFD_CLOEXEC);
    struct ia_client_page head = {
        .magic = IA_CLIENT_MAGIC, .format = IA_FORMAT, .segment_count = SEGMENTS};
    MUST(page >= 0 && ftruncate(page, IA_CLIENT_PAGE_SIZE + SEGMENTS) == 0);
    MUST(pwrite(page, &head, sizeof head, 0) == sizeof head);
    for (uint32_t i = 0; i < IA_MAX_SHARDS; i++)
        view.fd[i] = -1;
    view.fd[0] = shard;
    view.control = control;
    MUST(ia_client_page_map(page, &view.page) == 0);
    close(page);
}

/* Readers map the index after it has grown. */
static void map_index(void)
{
    int fd = ia_index_reader_fd(index);
    MUST(fd >= 0);
    if (map)
        ia_index_unmap(map);
    MUST(ia_index_map(fd, &map) == 0);
    close(fd);
    view.index = map;
}

static char urls[BATCH + TINY + 8][64];

static struct ia_block block_of(uint32_t n, uint32_t length)
{
    int len = snprintf(urls[n], sizeof urls[n], "s3://bucket/train/n01440764/%08u.JPEG", n);
    return (struct ia_block){
        .key = {mix(2 * n + 1), mix(2 * n + 2)},
        .sequence = n + 1,
        .object_size = length,
        .checked_ms = 1700000000000,
        .url = urls[n],
        .url_len = (uint16_t)len,
        .version = "\"d41d8cd98f00b204e9800998ecf8427e\"",
        .version_len = 34,
        .length = length,
    };
}

static struct ia_entry entry_of(const struct ia_block *block, uint32_t segment)
{
    return (struct ia_entry){
        .key = {block->key[0], block->key[1]},
        .version = ia_version_hash(block->version, block->version_len),
        .object_size = block->object_size,
        .checked_ms = block->checked_ms,
        .at = {.segment = segment,
               .generation = ia_generations(control)[segment],
               .offset = block->data_offset,
               .length = block->length},
        .state = IA_LIVE,
    };
}

static int add(struct ia_writer *writer, uint32_t n, uint32_t length, uint32_t segment)
{
    struct ia_block block = block_of(n, length);
    int result = ia_writer_append(writer, &block, bytes);
    struct ia_entry entry = entry_of(&block, segment);
    return result ? result : ia_index_put(index, &entry);
}

/* ---- writing: segment 0 has images, segment 1 many small blocks ----------------------------- */

static void writing(void)
{
    struct ia_writer *images, *tiny, *again;
    COUNT("start a segment", MUST(ia_writer_open(segment_at(0), 1, &images) == 0));
    for (uint32_t n = 0; n < BATCH; n++)
        MUST(add(images, n, IMAGE, 0) == 0);
    struct ia_block block = block_of(BATCH, IMAGE);
    COUNT("append 110,000 bytes", MUST(ia_writer_append(images, &block, bytes) == 0));
    struct ia_entry entry = entry_of(&block, 0);
    COUNT_ONCE("publish a new block", MUST(ia_index_put(index, &entry) == 0));
    COUNT("publish a block again", MUST(ia_index_put(index, &entry) == 0));
    COUNT("touch a block", MUST(ia_index_touch(index, entry.key, &entry.at, 1, 1) == 1));
    COUNT_ONCE("remove a block", MUST(ia_index_remove(index, entry.key, &entry.at) == 1));
    MUST(ia_writer_open(segment_at(1), 2, &tiny) == 0);
    for (uint32_t n = 0; n < TINY; n++)
        MUST(add(tiny, BATCH + 1 + n, 100, 1) == 0);
    struct ia_block small = block_of(BATCH + TINY + 1, 100);
    COUNT("append 100 bytes", MUST(ia_writer_append(tiny, &small, bytes) == 0));
    COUNT("go on with a segment of 502 blocks", MUST(ia_writer_resume(segment_at(1), &again) == 0));
}

/* ---- recovery ----------------------------------------------------------------------------- */

static int publish(void *context, const struct ia_block *block, uint32_t header_offset)
{
    (void)header_offset;
    struct ia_entry entry = entry_of(block, 1);
    entry.state = IA_UNVERIFIED;
    return ia_index_recover(context, &entry);
}

static void recovery(void)
{
    struct ia_index *fresh;
    MUST(ia_index_create(control, &fresh) == 0);
    COUNT_ONCE("recover a segment of 502 blocks",
               MUST(ia_segment_walk(segment_at(1), publish, fresh) == 0));
    MUST(ia_index_usage(fresh).blocks == TINY + 1); /* one was appended twice */
    ia_index_destroy(fresh);
    struct ia_entry image;
    struct ia_block block = block_of(3, IMAGE);
    MUST(ia_index_get(index, block.key, &image) == 1);
    COUNT("verify a block of 110,000 bytes",
          MUST(ia_block_verify(segment_at(0), image.key, image.version, image.at.offset, IMAGE) == 1));
    struct ia_victim victims[16];
    for (uint32_t n = 0; n < 16; n++) {
        struct ia_entry entry;
        struct ia_block tiny = block_of(BATCH + 1 + n * 30, 100);
        MUST(ia_index_get(index, tiny.key, &entry) == 1);
        victims[n] = (struct ia_victim){{tiny.key[0], tiny.key[1]}, entry.at.offset};
    }
    COUNT_ONCE("mark 16 of 502 blocks dead", MUST(ia_segment_kill(segment_at(1), victims, 16) == 16));
}

/* ---- reading ------------------------------------------------------------------------------ */

static struct ia_want wants[BATCH];
static struct ia_pieces pieces;

static void want(uint32_t count, uint64_t offset, uint64_t length)
{
    for (uint32_t n = 0; n < count; n++) {
        struct ia_block block = block_of(n * 37 % BATCH, IMAGE);
        wants[n] = (struct ia_want){
            .key = {block.key[0], block.key[1]}, .offset = offset, .length = length};
    }
    pieces.count = 0;
}

static void resolve(uint32_t count)
{
    pieces.count = 0;
    for (uint32_t n = 0; n < count; n++)
        MUST(ia_resolve(&view, &wants[n], n, 0, &pieces) == IA_HIT);
}

static void copy(uint32_t count)
{
    ia_place(wants, count, &pieces, buffer);
    MUST(ia_copy(&view, pieces.piece, pieces.count, 1) == 0);
    ia_account(&view, pieces.piece, pieces.count);
}

static void reading(void)
{
    struct ia_entry entry;
    struct ia_block there = block_of(7, IMAGE);
    static const uint64_t absent[2] = {12345, 67890};
    map_index();
    COUNT("find a block", MUST(ia_index_find(map, control, there.key, &entry) == 1));
    COUNT("find no block", MUST(ia_index_find(map, control, absent, &entry) == 0));
    COUNT("is what was copied still valid", MUST(ia_still_valid(control, &entry.at)));
    want(1, 8192, 4096);
    COUNT("hit of 4 KB: look up", resolve(1));
    COUNT("hit of 4 KB: copy and count", copy(1));
    want(BATCH, 0, IA_TO_END);
    COUNT("hit of 64 images: look up", resolve(BATCH));
    COUNT("hit of 64 images: copy and count", copy(BATCH));
    COUNT("hint of 64 images", ia_hint(&view, pieces.piece, pieces.count));
    COUNT_ONCE("forget a segment", ia_index_forget(index, 0, 1));
}

int main(void)
{
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(mix(i / 8) >> i % 8 * 8);
    hashes();
    make_cache();
    writing();
    recovery();
    reading();
    return 0;
}
