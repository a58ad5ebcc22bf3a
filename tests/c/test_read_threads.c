#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_read.h"
#include "ia_segment.h"

#include <pthread.h>
#include <stdatomic.h>

/* An engine that reuses its segments as fast as it can, and clients that read meanwhile. What a
 * copy gives out as right must be right: all of it, of the object that was asked for, and of one
 * version. */

enum {
    READERS = 3,
    SEGMENTS = 3,
    SEGMENT_SIZE = 256 << 10,
    OBJECTS = 64,
    LARGEST = 20000,
    LIVES = 400, /* of segments */
    BATCH = 12,
};

static struct ia_control *control;
static struct ia_index *index_;
static struct ia_view view;
static _Atomic int done;
static _Atomic uint64_t right, stale, missing;

static void key_of(uint64_t object, uint64_t key[2])
{
    uint64_t seed = object;
    key[0] = check_random(&seed);
    key[1] = check_random(&seed);
}

/* The first 16 bytes tell object and version, the rest is the pattern of both. */
static void fill(uint8_t *data, uint64_t object, uint64_t version, uint32_t length)
{
    memcpy(data, &object, 8);
    memcpy(data + 8, &version, 8);
    fill_pattern(data + 16, object ^ version << 20, 16, length - 16);
}

static void check_whole(const uint8_t *data, uint64_t expected, uint64_t length)
{
    uint64_t object, version;
    memcpy(&object, data, 8);
    memcpy(&version, data + 8, 8);
    CHECK_EQ(object, expected);
    CHECK(has_pattern(data + 16, object ^ version << 20, 16, length - 16));
}

static void *serve(void *argument)
{
    (void)argument;
    uint8_t *data = malloc(LARGEST);
    uint64_t seed = 1, version = 0;
    for (uint32_t life = 0; life < LIVES; life++) {
        uint32_t segment = life % SEGMENTS;
        struct ia_extent at = {view.fd[0], SEGMENT_SIZE,
                               IA_DATA_START + (uint64_t)segment * SEGMENT_SIZE};
        uint32_t generation = ia_index_forget(index_, 0, segment);
        struct ia_writer *writer;
        CHECK_OK(ia_writer_open(at, life + 1, &writer));
        for (int result = 0; !result;) {
            uint64_t object = check_random(&seed) % OBJECTS;
            uint32_t length = 16 + (uint32_t)(check_random(&seed) % (LARGEST - 16));
            fill(data, object, ++version, length);
            struct ia_block block = {
                .object_size = length, .url = "u", .version = "v", .url_len = 1, .version_len = 1};
            key_of(object, block.key);
            block.length = length;
            result = ia_writer_append(writer, &block, data);
            struct ia_entry entry = {
                .key = {block.key[0], block.key[1]},
                .version = version,
                .object_size = length,
                .at = {0, 0, segment, generation, block.data_offset, length, 0},
                .state = IA_LIVE,
            };
            if (!result)
                CHECK_OK(ia_index_put(index_, &entry));
        }
        ia_writer_close(writer);
    }
    atomic_store(&done, 1);
    free(data);
    return NULL;
}

static void *read_batches(void *argument)
{
    uint64_t seed = 100 + (uintptr_t)argument;
    uint8_t *buffer = malloc(BATCH * LARGEST);
    struct ia_pieces pieces = {0};
    for (int stop = 0; !stop;) {
        stop = atomic_load(&done);
        struct ia_want wants[BATCH];
        uint64_t objects[BATCH];
        uint32_t count = 0;
        pieces.count = 0;
        for (int i = 0; i < BATCH; i++) {
            uint64_t object = check_random(&seed) % OBJECTS;
            wants[count] = (struct ia_want){.length = IA_TO_END};
            key_of(object, wants[count].key);
            objects[count] = object;
            int status = ia_resolve(&view, &wants[count], count, 0, &pieces);
            CHECK(status == IA_HIT || status == IA_MISS);
            count += status == IA_HIT;
            atomic_fetch_add_explicit(&missing, status != IA_HIT, memory_order_relaxed);
        }
        ia_place(wants, count, &pieces, buffer);
        uint32_t failed = ia_copy(&view, pieces.piece, pieces.count, 1 + check_random(&seed) % 3);
        const uint8_t *at = buffer;
        for (uint32_t i = 0; i < count; i++) {
            int status = pieces.piece[i].status;
            CHECK(status == 0 || status == -ESTALE);
            failed -= status != 0;
            if (status == 0)
                check_whole(at, objects[i], wants[i].length);
            atomic_fetch_add_explicit(status ? &stale : &right, 1, memory_order_relaxed);
            at += wants[i].length;
        }
        CHECK_EQ(failed, 0);
        ia_account(&view, pieces.piece, pieces.count);
    }
    ia_pieces_free(&pieces);
    free(buffer);
    return NULL;
}

static void what_is_copied_is_right_while_segments_are_reused(void)
{
    int fd, page_fd = make_file(MEMORY, IA_CLIENT_PAGE_SIZE + SEGMENTS);
    struct ia_index_map *map;
    CHECK_OK(
        ia_control_create(1, (uint32_t[]){SEGMENTS}, (uint64_t[]){SEGMENT_SIZE}, &fd, &control));
    atomic_store(&control->owner, 1);
    CHECK_OK(ia_index_create(control, &index_));
    struct ia_client_page header = {
        .magic = IA_CLIENT_MAGIC, .format = IA_FORMAT, .segment_count = SEGMENTS};
    CHECK_EQ(pwrite(page_fd, &header, sizeof header, 0), sizeof header);
    CHECK_OK(ia_client_page_map(page_fd, &view.page));
    int index_fd = ia_index_reader_fd(index_);
    CHECK_OK(ia_index_map(index_fd, &map));
    close(index_fd);
    view.control = control;
    view.index = map;
    view.fd[0] = make_file(MEMORY, IA_DATA_START + SEGMENTS * SEGMENT_SIZE);

    pthread_t engine, reader[READERS];
    CHECK_EQ(pthread_create(&engine, NULL, serve, NULL), 0);
    for (uintptr_t i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&reader[i], NULL, read_batches, (void *)i), 0);
    CHECK_EQ(pthread_join(engine, NULL), 0);
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_join(reader[i], NULL), 0);
    printf("    %llu right, %llu stale, %llu missing\n", (unsigned long long)right,
           (unsigned long long)stale, (unsigned long long)missing);
    CHECK(right > 0);
    CHECK_EQ(view.page->counter[IA_HITS], right + stale);

    ia_client_page_unmap(view.page);
    ia_index_unmap(map);
    ia_index_destroy(index_);
    ia_control_unmap(control);
    close(view.fd[0]);
    close(page_fd);
    close(fd);
}

int main(void)
{
    RUN(what_is_copied_is_right_while_segments_are_reused);
    return 0;
}
