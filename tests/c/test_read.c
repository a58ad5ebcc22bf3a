#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_read.h"
#include "ia_segment.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* ---- what the kernel answers ------------------------------------------------------------- */

/* The core reads through these two: here, so that a test can say what they answer. */
static enum { AS_IT_IS, NOT_SUPPORTED, NOT_CACHED, IN_PART } nowait;
static enum { SOUND, INTERRUPTED, PIECEMEAL, BAD_DISK } disk;
static int waited; /* reads that went to pread */

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags)
{
    switch (nowait) {
    case NOT_SUPPORTED:
        errno = EOPNOTSUPP;
        return -1;
    case NOT_CACHED:
        errno = EAGAIN;
        return -1;
    case IN_PART:
        return syscall(SYS_pread64, fd, parts[0].iov_base, parts[0].iov_len / 2, offset);
    default:
        return syscall(SYS_preadv2, fd, parts, (long)count, (long)offset, 0l, (long)flags);
    }
}

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    static int calls;
    waited++;
    if (disk == BAD_DISK) {
        errno = EIO;
        return -1;
    }
    if (disk == INTERRUPTED && ++calls % 3) {
        errno = EINTR;
        return -1;
    }
    if (disk == PIECEMEAL)
        length = 1 + length / 3;
    return syscall(SYS_pread64, fd, buffer, length, offset);
}

/* ---- a cache ----------------------------------------------------------------------------- */

enum { SHARDS = 2, SEGMENTS = 2, SEGMENT_SIZE = 24 << 20, NOW = 5000 };

struct cache {
    int control_fd;
    struct ia_control *control;
    struct ia_index *index;
    struct ia_index_map *map;
    struct ia_view view;
    struct ia_writer *writer[SHARDS];
    uint32_t segment;
};

static struct ia_extent place(const struct cache *c, uint32_t shard, uint32_t segment)
{
    return (struct ia_extent){c->view.fd[shard], SEGMENT_SIZE,
                              IA_DATA_START + (uint64_t)segment * SEGMENT_SIZE};
}

static struct cache make(enum medium medium)
{
    static const uint32_t segments[SHARDS] = {SEGMENTS, SEGMENTS};
    static const uint64_t sizes[SHARDS] = {SEGMENT_SIZE, SEGMENT_SIZE};
    struct cache c = {0};
    CHECK_OK(ia_control_create(SHARDS, segments, sizes, &c.control_fd, &c.control));
    atomic_store(&c.control->owner, 1); /* alive, as far as a reader can see */
    CHECK_OK(ia_index_create(c.control, &c.index));
    int fd = ia_index_reader_fd(c.index);
    CHECK_OK(ia_index_map(fd, &c.map));
    close(fd);
    c.view.control = c.control;
    c.view.index = c.map;
    for (uint32_t i = 0; i < IA_MAX_SHARDS; i++)
        c.view.fd[i] = -1;
    c.segment = SEGMENTS - 1; /* not the first, so that offsets in the file count */
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        c.view.fd[shard] = make_file(medium, IA_DATA_START + (off_t)SEGMENTS * SEGMENT_SIZE);
        CHECK_OK(ia_writer_open(place(&c, shard, c.segment), 1, &c.writer[shard]));
    }
    return c;
}

static void drop(struct cache *c)
{
    for (int i = 0; i < SHARDS; i++) {
        ia_writer_close(c->writer[i]);
        close(c->view.fd[i]);
    }
    ia_index_unmap(c->map);
    ia_index_destroy(c->index);
    ia_control_unmap(c->control);
    close(c->control_fd);
    nowait = AS_IT_IS;
    disk = SOUND;
}

static void key_of(uint64_t object, uint64_t block, uint64_t key[2])
{
    uint64_t seed = object;
    key[0] = check_random(&seed);
    key[1] = check_random(&seed) + block;
}

/* Appends and publishes one block of an object of `size` bytes; its pattern tells object, version
 * and offset. */
static struct ia_entry add_block(struct cache *c, uint64_t object, uint64_t version, uint64_t size,
                                 uint64_t number)
{
    static uint8_t data[IA_BLOCK_SIZE];
    uint64_t start = number * IA_BLOCK_SIZE;
    uint32_t shard = (object + number) % SHARDS;
    struct ia_block block = {.url = "s3://b/o", .version = "v", .url_len = 8, .version_len = 1};
    key_of(object, number, block.key);
    block.object_size = size;
    block.object_offset = start;
    block.length = size - start < IA_BLOCK_SIZE ? (uint32_t)(size - start) : IA_BLOCK_SIZE;
    fill_pattern(data, object * 1000 + version, start, block.length);
    CHECK_EQ(ia_writer_append(c->writer[shard], &block, data), 0);
    struct ia_entry entry = {
        .key = {block.key[0], block.key[1]},
        .version = version,
        .object_size = size,
        .checked_ms = NOW,
        .at = {.shard = (uint16_t)shard,
               .segment = c->segment,
               .generation =
                   ia_generations(c->control)[ia_segment_slot(c->control, shard, c->segment)],
               .offset = block.data_offset,
               .length = block.length},
        .state = IA_LIVE,
    };
    CHECK_OK(ia_index_put(c->index, &entry));
    return entry;
}

static uint64_t block_count(uint64_t size) { return size ? (size - 1) / IA_BLOCK_SIZE + 1 : 1; }

static void add_object(struct cache *c, uint64_t object, uint64_t size)
{
    for (uint64_t number = 0; number < block_count(size); number++)
        add_block(c, object, 1, size, number);
}

static struct ia_want want_of(uint64_t object, uint64_t offset, uint64_t length)
{
    struct ia_want want = {.offset = offset, .length = length};
    key_of(object, 0, want.key);
    return want;
}

/* Resolves, places and copies one extent, and compares every byte. */
static void check_read(struct cache *c, uint64_t object, uint64_t offset, uint64_t length,
                       uint64_t expected, uint32_t threads)
{
    enum { GUARD = 64 };
    struct ia_want want = want_of(object, offset, length);
    struct ia_pieces pieces = {0};
    CHECK_EQ(ia_resolve(&c->view, &want, 0, 0, &pieces), IA_HIT);
    CHECK_EQ(want.status, IA_HIT);
    CHECK_EQ(want.length, expected);
    uint8_t *buffer = malloc(expected + 2 * GUARD);
    memset(buffer, 0xaa, expected + 2 * GUARD);
    ia_place(&want, 1, &pieces, buffer + GUARD);
    CHECK_EQ(ia_copy(&c->view, pieces.piece, pieces.count, threads), 0);
    CHECK(has_pattern(buffer + GUARD, object * 1000 + 1, offset, expected));
    for (int i = 0; i < GUARD; i++)
        CHECK(buffer[i] == 0xaa && buffer[GUARD + expected + (uint64_t)i] == 0xaa);
    free(buffer);
    ia_pieces_free(&pieces);
}

static uint64_t pinned; /* the only version that will do, if it is not 0 */

static int resolve(struct cache *c, uint64_t object, uint64_t offset, uint64_t length,
                   uint64_t oldest_ms)
{
    struct ia_want want = want_of(object, offset, length);
    struct ia_pieces pieces = {0};
    want.version = pinned;
    int status = ia_resolve(&c->view, &want, 0, oldest_ms, &pieces);
    CHECK_EQ(want.status, status);
    if (status != IA_HIT) {
        CHECK_EQ(pieces.count, 0);
        CHECK_EQ(want.piece_count, 0);
        CHECK_EQ(want.length, length); /* as they were asked, for the engine */
        CHECK_EQ(want.version, pinned);
    }
    ia_pieces_free(&pieces);
    return status;
}

/* ---- extents ----------------------------------------------------------------------------- */

static const uint64_t BLOCK = IA_BLOCK_SIZE;

static void extents_of_every_kind(void)
{
    const uint64_t sizes[] = {0,     1,         100000,    BLOCK - 1,
                              BLOCK, BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 777};
    for (enum medium medium = DISK; medium <= MEMORY; medium++) {
        struct cache c = make(medium);
        for (uint64_t object = 0; object < sizeof sizes / sizeof *sizes; object++) {
            uint64_t size = sizes[object];
            add_object(&c, object, size);
            check_read(&c, object, 0, IA_TO_END, size, 1);
            check_read(&c, object, 0, size, size, 4);
            if (size == 0)
                continue;
            check_read(&c, object, 0, 0, 0, 1);
            check_read(&c, object, size - 1, 1, 1, 1);
            check_read(&c, object, size - 1, IA_TO_END, 1, 1);
            check_read(&c, object, size / 2, 0, 0, 1);
            check_read(&c, object, size / 3, size / 3, size / 3, 2);
            if (size > BLOCK) {
                check_read(&c, object, BLOCK - 1, 2, 2, 1);
                check_read(&c, object, BLOCK, 1, 1, 1);
                check_read(&c, object, BLOCK - 5, IA_TO_END, size - BLOCK + 5, 2);
            }
            if (size > 2 * BLOCK)
                check_read(&c, object, BLOCK - 1, BLOCK + 2, BLOCK + 2, 3); /* three blocks */
        }
        drop(&c);
    }
}

static void extents_outside_the_object(void)
{
    struct cache c = make(MEMORY);
    add_object(&c, 1, 1000);
    add_object(&c, 2, 2 * BLOCK);
    CHECK_EQ(resolve(&c, 1, 1000, IA_TO_END, 0), IA_HIT); /* nothing, at the end */
    CHECK_EQ(resolve(&c, 1, 1000, 0, 0), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 1000, 1, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 1, 1001, 0, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 1, 1001, IA_TO_END, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 1, 0, 1001, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 1, 1, UINT64_MAX - 1, 0), IA_PAST_END); /* the sum overflows */
    CHECK_EQ(resolve(&c, 1, 999, UINT64_MAX - 998, 0), IA_PAST_END);
    /* In a block that does not exist, the engine knows what there is. */
    CHECK_EQ(resolve(&c, 1, BLOCK, 1, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 1, UINT64_MAX, 1, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 1, UINT64_MAX, IA_TO_END, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 2, 2 * BLOCK, 0, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 2, BLOCK, BLOCK + 1, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 3, 0, IA_TO_END, 0), IA_MISS);
    drop(&c);
}

static void what_does_not_count_is_missing(void)
{
    struct cache c = make(MEMORY);
    struct ia_entry entry;
    add_object(&c, 1, 2 * BLOCK + 5);
    CHECK_EQ(resolve(&c, 1, 0, IA_TO_END, NOW), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 0, IA_TO_END, NOW + 1), IA_MISS);

    /* Checked lately enough in its first block only. */
    uint64_t key[2];
    key_of(1, 0, key);
    CHECK_EQ(ia_index_get(c.index, key, &entry), 1);
    CHECK_EQ(ia_index_touch(c.index, key, &entry.at, NOW + 1, 0), 1);
    CHECK_EQ(resolve(&c, 1, 0, 1000, NOW + 1), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 0, IA_TO_END, NOW + 1), IA_MISS);
    CHECK_EQ(resolve(&c, 1, BLOCK, 1, NOW + 1), IA_MISS);

    /* Not verified since a restart. */
    key_of(1, 1, key);
    CHECK_EQ(ia_index_get(c.index, key, &entry), 1);
    entry.state = IA_UNVERIFIED;
    CHECK_OK(ia_index_put(c.index, &entry));
    CHECK_EQ(resolve(&c, 1, 0, BLOCK, 0), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 0, BLOCK + 1, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 1, 2 * BLOCK, 5, 0), IA_HIT);
    CHECK_EQ(ia_index_touch(c.index, key, &entry.at, 0, 1), 1);
    CHECK_EQ(resolve(&c, 1, 0, BLOCK + 1, 0), IA_HIT);

    /* Of two versions, though each is there. */
    add_block(&c, 1, 2, 2 * BLOCK + 5, 2);
    CHECK_EQ(resolve(&c, 1, 0, IA_TO_END, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 1, 0, 2 * BLOCK, 0), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 2 * BLOCK, 5, 0), IA_HIT);
    pinned = 2;
    CHECK_EQ(resolve(&c, 1, 2 * BLOCK, 5, 0), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 0, 1, 0), IA_MISS);
    pinned = 1;
    CHECK_EQ(resolve(&c, 1, 0, 1, 0), IA_HIT);
    CHECK_EQ(resolve(&c, 1, 0, UINT64_MAX - 1, 0), IA_PAST_END);
    CHECK_EQ(resolve(&c, 1, BLOCK, BLOCK + 5, 0), IA_MISS);
    pinned = 0;

    /* A block of a length that the object does not have there. */
    add_block(&c, 5, 1, 1000, 0);
    key_of(5, 0, key);
    CHECK_EQ(ia_index_get(c.index, key, &entry), 1);
    entry.object_size = 2000;
    CHECK_OK(ia_index_put(c.index, &entry));
    CHECK_EQ(resolve(&c, 5, 0, IA_TO_END, 0), IA_MISS);

    /* Removed, and forgotten. */
    key_of(1, 1, key);
    CHECK_EQ(ia_index_remove(c.index, key, NULL), 1);
    CHECK_EQ(resolve(&c, 1, BLOCK, 10, 0), IA_MISS);
    CHECK_EQ(resolve(&c, 1, 0, 10, 0), IA_HIT);
    ia_index_forget(c.index, 1 % SHARDS, c.segment);
    CHECK_EQ(resolve(&c, 1, 0, 10, 0), IA_MISS);
    drop(&c);
}

static void the_answer_of_the_engine(void)
{
    struct cache c = make(MEMORY);
    const uint64_t size = 2 * BLOCK + 77;
    struct ia_location at[4];
    for (uint64_t number = 0; number < 3; number++)
        at[number] = add_block(&c, 1, 1, size, number).at;
    for (uint64_t number = 0; number < 3; number++) { /* transit: never in the index */
        uint64_t key[2];
        key_of(1, number, key);
        CHECK_EQ(ia_index_remove(c.index, key, NULL), 1);
    }
    struct ia_pieces pieces = {0};
    struct ia_want want = want_of(1, 10, IA_TO_END);
    want.object_size = size;
    CHECK_EQ(ia_resolve_at(&c.view, &want, 3, at, 3, &pieces), IA_HIT);
    CHECK_EQ(want.length, size - 10);
    CHECK_EQ(pieces.count, 3);
    CHECK_EQ(pieces.piece[2].want, 3);
    uint8_t *buffer = malloc(size);
    ia_place(&want, 1, &pieces, buffer);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 3, 2), 0);
    CHECK(has_pattern(buffer, 1001, 10, size - 10));

    static const struct {
        uint64_t offset, length;
        uint32_t first, count;
        int status;
    } cases[] = {
        {0, BLOCK, 0, 1, IA_HIT},
        {BLOCK, BLOCK, 1, 1, IA_HIT},
        {BLOCK - 1, BLOCK + 2, 0, 3, IA_HIT},
        {2 * BLOCK, IA_TO_END, 2, 1, IA_HIT},
        {5, 0, 0, 0, IA_HIT}, /* nothing is asked, and nothing is answered */
        {2 * BLOCK + 77, 0, 0, 0, IA_HIT},
        {2 * BLOCK + 78, 0, 0, 0, IA_PAST_END},
        {2 * BLOCK, 78, 2, 1, IA_PAST_END},
        {1, UINT64_MAX - 1, 0, 3, IA_PAST_END},
        {0, BLOCK, 0, 2, -EPROTO},
        {0, BLOCK + 1, 0, 1, -EPROTO},
        {0, BLOCK, 0, 0, -EPROTO},
        {0, BLOCK, 2, 1, -EPROTO}, /* a block of another length */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        want = want_of(1, cases[i].offset, cases[i].length);
        want.object_size = size;
        uint32_t before = pieces.count;
        CHECK_EQ(ia_resolve_at(&c.view, &want, 0, at + cases[i].first, cases[i].count, &pieces),
                 cases[i].status);
        CHECK_EQ(want.status, cases[i].status);
        CHECK_EQ(pieces.count - before, cases[i].status == IA_HIT ? cases[i].count : 0);
        CHECK_EQ(want.first_piece, before);
    }
    want = want_of(1, 0, BLOCK);
    want.object_size = size;
    at[0].shard = SHARDS;
    CHECK_EQ(ia_resolve_at(&c.view, &want, 0, at, 1, &pieces), -EPROTO);
    at[0].shard = 0;
    at[0].segment = SEGMENTS;
    CHECK_EQ(ia_resolve_at(&c.view, &want, 0, at, 1, &pieces), -EPROTO);
    free(buffer);
    ia_pieces_free(&pieces);
    drop(&c);
}

/* ---- batches ----------------------------------------------------------------------------- */

enum { OBJECTS = 600 };

static uint64_t size_of_object(uint64_t object)
{
    uint64_t seed = object;
    return object % 50 == 0 ? 0 : check_random(&seed) % 60000;
}

/* A batch of random extents, some of which come from the engine, resolved in any order. */
static void read_batch(struct cache *c, uint64_t *seed, uint32_t count, uint32_t threads)
{
    struct ia_want *wants = calloc(count, sizeof *wants);
    uint64_t *objects = calloc(count, sizeof *objects);
    struct ia_pieces pieces = {0};
    uint64_t total = 0;
    for (int late = 0; late < 2; late++) {
        uint64_t order = check_random(seed);
        for (uint32_t i = 0; i < count; i++) {
            uint64_t own = order + i;
            if (late != (int)(i % 5 == 0))
                continue;
            uint64_t object = check_random(&own) % OBJECTS, size = size_of_object(object);
            uint64_t offset = check_random(&own) % (size + 1);
            uint64_t length = check_random(&own) % (size - offset + 1);
            if (check_random(&own) % 2)
                offset = 0, length = IA_TO_END;
            objects[i] = object;
            wants[i] = want_of(object, offset, length);
            if (late) {
                struct ia_entry entry;
                CHECK_EQ(ia_index_get(c->index, wants[i].key, &entry), 1);
                wants[i].object_size = size;
                CHECK_EQ(ia_resolve_at(&c->view, &wants[i], i, &entry.at, length && size - offset,
                                       &pieces),
                         IA_HIT);
            } else {
                CHECK_EQ(ia_resolve(&c->view, &wants[i], i, 0, &pieces), IA_HIT);
            }
            CHECK_EQ(wants[i].length, length == IA_TO_END ? size - offset : length);
            total += wants[i].length;
        }
    }
    uint8_t *buffer = malloc(total + 1);
    memset(buffer, 0xaa, total + 1);
    ia_place(wants, count, &pieces, buffer);
    CHECK_EQ(ia_copy(&c->view, pieces.piece, pieces.count, threads), 0);
    uint8_t *at = buffer;
    for (uint32_t i = 0; i < count; i++) {
        CHECK(has_pattern(at, objects[i] * 1000 + 1, wants[i].offset, wants[i].length));
        at += wants[i].length;
    }
    CHECK_EQ(at - buffer, total);
    CHECK_EQ(*at, 0xaa);
    free(buffer);
    free(wants);
    free(objects);
    ia_pieces_free(&pieces);
}

static void batches_come_back_to_back(void)
{
    static const uint32_t counts[] = {1, 2, 7, 8, 9, 16, 17, 64, 200, 1000};
    for (enum medium medium = DISK; medium <= MEMORY; medium++) {
        struct cache c = make(medium);
        uint64_t seed = 3;
        for (uint64_t object = 0; object < OBJECTS; object++)
            add_object(&c, object, size_of_object(object));
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (uint32_t threads = 0; threads <= 8; threads++)
                read_batch(&c, &seed, counts[i], threads);
        read_batch(&c, &seed, 50, UINT32_MAX);
        drop(&c);
    }
}

static void whatever_the_kernel_answers(void)
{
    struct cache c = make(DISK);
    uint64_t seed = 5;
    for (uint64_t object = 0; object < OBJECTS; object++)
        add_object(&c, object, size_of_object(object));
    for (int a = AS_IT_IS; a <= IN_PART; a++) {
        for (int b = SOUND; b < BAD_DISK; b++) {
            nowait = a;
            disk = b;
            waited = 0;
            read_batch(&c, &seed, 100, 1);
            CHECK(a == AS_IT_IS || waited > 50);
        }
    }
    drop(&c);
}

/* Here for a look at what this machine does, not for a result. */
static void reads_that_had_to_wait(void)
{
    for (enum medium medium = DISK; medium <= MEMORY; medium++) {
        struct cache c = make(medium);
        uint64_t seed = 5;
        for (uint64_t object = 0; object < OBJECTS; object++)
            add_object(&c, object, size_of_object(object));
        waited = 0;
        read_batch(&c, &seed, 100, 1);
        printf("    %s: %d of 100\n", medium == DISK ? "disk" : "memory", waited);
        drop(&c);
    }
}

/* ---- failures ---------------------------------------------------------------------------- */

static void a_segment_that_is_forgotten_during_the_copy(void)
{
    struct cache c = make(MEMORY);
    static uint8_t buffer[3000];
    for (uint64_t object = 0; object < 3; object++)
        add_object(&c, object, 1000); /* 0 and 2 in shard 0, 1 in shard 1 */
    struct ia_pieces pieces = {0};
    struct ia_want wants[3];
    for (uint32_t i = 0; i < 3; i++) {
        wants[i] = want_of(i, 0, IA_TO_END);
        CHECK_EQ(ia_resolve(&c.view, &wants[i], i, 0, &pieces), IA_HIT);
    }
    ia_place(wants, 3, &pieces, buffer);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 3, 1), 0);
    ia_index_forget(c.index, 1, c.segment);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 3, 1), 1);
    CHECK_EQ(pieces.piece[0].status, 0);
    CHECK_EQ(pieces.piece[1].status, -ESTALE);
    CHECK_EQ(pieces.piece[2].status, 0);
    ia_index_forget(c.index, 0, 0); /* another segment */
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 3, 1), 1);
    /* The engine is gone: its successor may write anywhere. */
    ia_owner_release(c.control);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 3, 2), 3);
    for (int i = 0; i < 3; i++)
        CHECK_EQ(pieces.piece[i].status, -ESTALE);
    ia_pieces_free(&pieces);
    drop(&c);
}

static void disks_that_fail(void)
{
    struct cache c = make(DISK);
    static uint8_t buffer[4096];
    for (uint64_t object = 0; object < 4; object++)
        add_object(&c, object, 1000);
    add_object(&c, 4, 0);
    struct ia_pieces pieces = {0};
    struct ia_want wants[5];
    for (uint32_t i = 0; i < 5; i++) {
        wants[i] = want_of(i, 0, IA_TO_END);
        CHECK_EQ(ia_resolve(&c.view, &wants[i], i, 0, &pieces), IA_HIT);
    }
    ia_place(wants, 5, &pieces, buffer);

    /* The file of shard 1 cannot be read, was never opened, or is too short. */
    nowait = NOT_CACHED;
    disk = BAD_DISK;
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 1), 4);
    for (int i = 0; i < 5; i++)
        CHECK_EQ(pieces.piece[i].status, i < 4 ? -EIO : 0); /* nothing is read of nothing */
    nowait = AS_IT_IS;
    disk = SOUND;
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 1), 0);
    int fd = c.view.fd[1];
    c.view.fd[1] = -1;
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 2), 2);
    CHECK_EQ(pieces.piece[1].status, -EBADF);
    CHECK_EQ(pieces.piece[3].status, -EBADF);
    CHECK_EQ(pieces.piece[0].status, 0);
    c.view.fd[1] = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
    close(c.view.fd[1]);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 1), 2);
    CHECK_EQ(pieces.piece[1].status, -EBADF);
    c.view.fd[1] = fd;
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(ftruncate(fd, st.st_size - 500), 0);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 1), 1); /* object 1 was written first: at the end */
    CHECK_EQ(pieces.piece[1].status, -EIO);
    CHECK_EQ(pieces.piece[3].status, 0);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(ia_copy(&c.view, pieces.piece, 5, 1), 2);
    CHECK_EQ(pieces.piece[3].status, -EIO);
    ia_pieces_free(&pieces);
    drop(&c);
}

/* ---- the client's page ------------------------------------------------------------------- */

static void the_page_counts_and_marks(void)
{
    struct cache c = make(MEMORY);
    int fd = make_file(MEMORY, IA_CLIENT_PAGE_SIZE + SHARDS * SEGMENTS);
    struct ia_client_page header = {
        .magic = IA_CLIENT_MAGIC, .format = IA_FORMAT, .segment_count = SHARDS * SEGMENTS};
    CHECK_EQ(pwrite(fd, &header, sizeof header, 0), sizeof header);
    CHECK_OK(ia_client_page_map(fd, &c.view.page));
    const uint8_t *marks = (const uint8_t *)c.view.page + IA_CLIENT_PAGE_SIZE;

    add_object(&c, 1, 1000);      /* shard 1 */
    add_object(&c, 2, BLOCK + 1); /* shards 0 and 1 */
    struct ia_pieces pieces = {0};
    struct ia_want wants[2] = {want_of(1, 0, 100), want_of(2, 10, IA_TO_END)};
    CHECK_EQ(ia_resolve(&c.view, &wants[0], 0, 0, &pieces), IA_HIT);
    ia_account(&c.view, pieces.piece, pieces.count);
    CHECK_EQ(c.view.page->counter[IA_HITS], 1);
    CHECK_EQ(c.view.page->counter[IA_HIT_BYTES], 100);
    CHECK_EQ(marks[0] | marks[1] | marks[2], 0);
    CHECK_EQ(marks[3], 1);
    CHECK_EQ(ia_resolve(&c.view, &wants[1], 1, 0, &pieces), IA_HIT);
    pieces.piece[1].at.from_store = 1;
    ia_account(&c.view, pieces.piece, pieces.count);
    CHECK_EQ(marks[1], 1);
    CHECK_EQ(c.view.page->counter[IA_HITS], 3);
    CHECK_EQ(c.view.page->counter[IA_HIT_BYTES], 201);
    CHECK_EQ(c.view.page->counter[IA_MISSES], 1);
    CHECK_EQ(c.view.page->counter[IA_MISS_BYTES], BLOCK - 10);
    ia_client_page_add(c.view.page, IA_DIRECT_BYTES, 1ull << 40);
    CHECK_EQ(c.view.page->counter[IA_DIRECT_BYTES], 1ll << 40);

    /* A page of an engine with fewer segments is not written behind its end. */
    c.view.page->segment_count = 3;
    ((uint8_t *)c.view.page)[IA_CLIENT_PAGE_SIZE + 3] = 0;
    ia_account(&c.view, pieces.piece, pieces.count);
    CHECK_EQ(marks[3], 0);
    c.view.page->segment_count = SHARDS * SEGMENTS;
    ia_pieces_free(&pieces);
    ia_client_page_unmap(c.view.page);
    c.view.page = NULL;
    ia_account(&c.view, NULL, 0); /* no page: nothing is counted */

    struct ia_client_page *page;
    CHECK_EQ(ia_client_page_map(-1, &page), -EBADF);
    header.segment_count++;
    CHECK_EQ(pwrite(fd, &header, sizeof header, 0), sizeof header);
    CHECK_EQ(ia_client_page_map(fd, &page), -EPROTO);
    header.segment_count = UINT32_MAX;
    CHECK_EQ(pwrite(fd, &header, sizeof header, 0), sizeof header);
    CHECK_EQ(ia_client_page_map(fd, &page), -EPROTO);
    header.segment_count = SHARDS * SEGMENTS;
    header.magic++;
    CHECK_EQ(pwrite(fd, &header, sizeof header, 0), sizeof header);
    CHECK_EQ(ia_client_page_map(fd, &page), -EPROTO);
    CHECK_EQ(ftruncate(fd, 100), 0);
    CHECK_EQ(ia_client_page_map(fd, &page), -EPROTO);
    close(fd);
    drop(&c);
}

int main(void)
{
    RUN(extents_of_every_kind);
    RUN(extents_outside_the_object);
    RUN(what_does_not_count_is_missing);
    RUN(the_answer_of_the_engine);
    RUN(batches_come_back_to_back);
    RUN(whatever_the_kernel_answers);
    RUN(reads_that_had_to_wait);
    RUN(a_segment_that_is_forgotten_during_the_copy);
    RUN(disks_that_fail);
    RUN(the_page_counts_and_marks);
    return 0;
}
