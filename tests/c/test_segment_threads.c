#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_segment.h"

#include <pthread.h>
#include <stdatomic.h>

enum { WRITERS = 8, MOST = 20000, LARGEST = 12000 };

static struct ia_extent at;
static struct ia_writer *writer;
static _Atomic uint32_t appended;
static _Atomic int done;
static uint32_t offsets[MOST]; /* by number, written by whoever appended it */

static uint32_t length_of(uint64_t n)
{
    uint64_t seed = n;
    return (uint32_t)(check_random(&seed) % LARGEST);
}

static struct ia_block make_block(uint64_t n, char url[64])
{
    struct ia_block block = {
        .key = {n, ~n},
        .sequence = n,
        .object_size = length_of(n),
        .checked_ms = n,
        .url = url,
        .version = "v",
        .url_len = (uint16_t)snprintf(url, 64, "s3://b/%llu/%0*d", (unsigned long long)n % 7,
                                      (int)(n % 40) + 1, 0),
        .version_len = 1,
        .length = length_of(n),
    };
    return block;
}

static void *append_until_full(void *argument)
{
    uint8_t *data = malloc(LARGEST);
    for (uint64_t n = (uintptr_t)argument;; n += WRITERS) {
        CHECK(n < MOST);
        char url[64];
        struct ia_block block = make_block(n, url);
        fill_pattern(data, n, 0, block.length);
        int result = ia_writer_append(writer, &block, data);
        if (result == IA_SEGMENT_FULL)
            break;
        CHECK_EQ(result, 0);
        offsets[n] = block.data_offset;
        atomic_fetch_add(&appended, 1);
    }
    free(data);
    return NULL;
}

struct seen {
    uint32_t count;
    uint64_t bytes;
};

static int verify(void *context, const struct ia_block *block, uint32_t header_offset)
{
    struct seen *seen = context;
    char url[64];
    struct ia_block expected = make_block(block->sequence, url);
    CHECK_EQ(block->key[0], expected.key[0]);
    CHECK_EQ(block->length, expected.length);
    CHECK_EQ(block->url_len, expected.url_len);
    CHECK_MEM(block->url, url, block->url_len);
    CHECK(header_offset < block->data_offset);
    CHECK_EQ(
        ia_block_verify(at, block->key, ia_version_hash("v", 1), block->data_offset, block->length),
        1);
    seen->count++;
    seen->bytes += ia_block_footprint(block->url_len, block->version_len, block->length);
    return 0;
}

/* What a walk finds while others append is whole, and is there in the next walk, too. */
static void *walk_meanwhile(void *argument)
{
    (void)argument;
    uint32_t last = 0;
    for (int stop = 0; !stop;) {
        stop = atomic_load(&done);
        struct seen seen = {0};
        CHECK_EQ(ia_segment_walk(at, verify, &seen), 0);
        CHECK(seen.count >= last);
        last = seen.count;
        char prefix[IA_SEGMENT_HEADER_SIZE];
        CHECK(ia_writer_prefix(writer, prefix) <= 64);
        CHECK(ia_writer_room(writer) <= at.size);
    }
    return NULL;
}

static void appends_from_many_threads_are_all_found(void)
{
    at = (struct ia_extent){.fd = make_file(DISK, 17 << 20), .size = 16 << 20, .start = 1 << 20};
    CHECK_OK(ia_writer_open(at, 1, &writer));
    pthread_t thread[WRITERS], walker;
    CHECK_EQ(pthread_create(&walker, NULL, walk_meanwhile, NULL), 0);
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, append_until_full, (void *)i), 0);
    for (int i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    atomic_store(&done, 1);
    CHECK_EQ(pthread_join(walker, NULL), 0);

    struct seen seen = {0};
    CHECK_EQ(ia_segment_walk(at, verify, &seen), 0);
    CHECK_EQ(seen.count, appended);
    CHECK(seen.count > 100);
    CHECK_EQ(ia_writer_room(writer), at.size - IA_SEGMENT_HEADER_SIZE - seen.bytes);
    ia_writer_close(writer);

    /* Nothing lies over another's bytes. */
    uint8_t *data = malloc(LARGEST);
    uint32_t right = 0;
    for (uint64_t n = 0; n < MOST; n++) {
        if (!offsets[n])
            continue;
        CHECK_EQ(pread(at.fd, data, length_of(n), (off_t)(at.start + offsets[n])), length_of(n));
        CHECK(has_pattern(data, n, 0, length_of(n)));
        right++;
    }
    CHECK_EQ(right, appended);
    free(data);
    uint8_t before; /* the segment in front of this one */
    for (off_t i = 65536; i < 1 << 20; i += 4096)
        CHECK(pread(at.fd, &before, 1, i) == 1 && before == 0);
    close(at.fd);
}

int main(void)
{
    RUN(appends_from_many_threads_are_all_found);
    return 0;
}
