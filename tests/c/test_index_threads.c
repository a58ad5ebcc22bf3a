#define _GNU_SOURCE
#include "check.h"
#include "ia_control.h"
#include "ia_index.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

enum {
    READERS = 3,
    SEGMENTS = 4,
    STEADY = 500, /* keys that are replaced and never removed */
    LOOSE = 500,  /* keys that come and go */
    ROUNDS = 100,
    MORE = 550, /* new keys in every round: the table grows, twice */
    PATIENCE = 100000,
};

static struct ia_control *control;
static struct ia_index *index_;
static _Atomic int done;
static _Atomic uint64_t found_in_all;

/* All that an entry says follows from its key and its version, so that a mixture of two shows. */
static struct ia_entry make_entry(uint64_t n, uint64_t version, uint32_t segment)
{
    uint64_t seed = n;
    struct ia_entry entry = {.version = version, .state = IA_LIVE};
    entry.key[0] = check_random(&seed);
    entry.key[1] = check_random(&seed);
    seed ^= version;
    entry.object_size = check_random(&seed);
    entry.checked_ms = check_random(&seed);
    entry.at.offset = (uint32_t)check_random(&seed);
    entry.at.length = (uint32_t)check_random(&seed);
    entry.at.segment = segment;
    entry.at.generation = (uint32_t)atomic_load(&ia_generations(control)[segment]);
    return entry;
}

static void check_whole(uint64_t n, const struct ia_entry *found)
{
    struct ia_entry expected = make_entry(n, found->version, found->at.segment);
    CHECK_EQ(found->key[0], expected.key[0]);
    CHECK_EQ(found->key[1], expected.key[1]);
    CHECK_EQ(found->object_size, expected.object_size);
    CHECK_EQ(found->checked_ms, expected.checked_ms);
    CHECK_EQ(found->at.offset, expected.at.offset);
    CHECK_EQ(found->at.length, expected.at.length);
    CHECK_EQ(found->at.shard, 0);
    CHECK_EQ(found->state, IA_LIVE);
}

static struct ia_index_map *map_current(struct ia_index_map *map)
{
    if (map && ia_index_epoch(map) == ia_current_epoch(control))
        return map;
    ia_index_unmap(map);
    int fd = ia_index_reader_fd(index_);
    CHECK_OK(fd);
    CHECK_OK(ia_index_map(fd, &map));
    close(fd);
    return map;
}

/* Steady keys stand in segment 0, which is never forgotten. A reader may meet one that a writer has
 * just locked, and was put to sleep with; then it looks again. */
static void *read_all(void *argument)
{
    struct ia_index_map *map = NULL;
    uint64_t seed = (uint64_t)(uintptr_t)argument, found_count = 0;
    uint64_t last[STEADY] = {0};
    for (int stop = 0; !stop;) {
        stop = atomic_load(&done);
        map = map_current(map);
        struct ia_entry found;
        for (int i = 0; i < 2000; i++) {
            uint64_t n = check_random(&seed) % (STEADY + LOOSE + ROUNDS * MORE);
            struct ia_entry wanted = make_entry(n, 0, 0);
            int tries = 0;
            while (!ia_index_find(map, control, wanted.key, &found) && n < STEADY) {
                CHECK(++tries < PATIENCE);
                sched_yield();
                map = map_current(map);
            }
            if (n < STEADY || ia_index_find(map, control, wanted.key, &found)) {
                check_whole(n, &found);
                found_count++;
            }
            if (n < STEADY) {
                CHECK(found.version >= last[n]); /* never back to an old one */
                last[n] = found.version;
            }
        }
    }
    ia_index_unmap(map);
    atomic_fetch_add(&found_in_all, found_count);
    return NULL;
}

static void put(uint64_t n, uint64_t version, uint32_t segment)
{
    struct ia_entry entry = make_entry(n, version, segment);
    CHECK_OK(ia_index_put(index_, &entry));
}

static void write_rounds(void)
{
    uint64_t seed = 99;
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        for (uint64_t n = 0; n < STEADY; n++)
            put(n, round, 0);
        for (int i = 0; i < LOOSE; i++) {
            uint64_t n = STEADY + check_random(&seed) % LOOSE;
            struct ia_entry entry = make_entry(n, 0, 0);
            if (check_random(&seed) % 3 == 0)
                ia_index_remove(index_, entry.key, NULL);
            else
                put(n, round, 1 + (uint32_t)(check_random(&seed) % 2));
        }
        for (uint64_t n = 0; n < MORE; n++)
            put(STEADY + LOOSE + (round - 1) * MORE + n, round, 3);
        if (round % 8 == 0)
            ia_index_forget(index_, 0, 1 + (uint32_t)(round / 8 % 2));
    }
}

static void readers_see_whole_entries_while_they_change_and_the_table_grows(void)
{
    int fd;
    CHECK_OK(ia_control_create(1, (uint32_t[]){SEGMENTS}, (uint64_t[]){1 << 20}, &fd, &control));
    CHECK_OK(ia_index_create(control, &index_));
    for (uint64_t n = 0; n < STEADY; n++)
        put(n, 0, 0);
    /* So full that it has to grow soon. */
    for (uint64_t n = 0; n < 40000; n++)
        put(1000000 + n, 0, 3);
    pthread_t thread[READERS];
    for (uintptr_t i = 0; i < READERS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, read_all, (void *)(i + 1)), 0);
    write_rounds();
    atomic_store(&done, 1);
    for (int i = 0; i < READERS; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    CHECK_EQ(ia_current_epoch(control), 1 + 2);
    printf("    %llu entries read\n", (unsigned long long)found_in_all);
    ia_index_destroy(index_);
    ia_control_unmap(control);
    close(fd);
}

/* ---- one slot ---------------------------------------------------------------------------- */

enum { HOT_ROUNDS = 50000 };

static void *read_hot(void *argument)
{
    struct ia_index_map *map = map_current(NULL);
    struct ia_entry wanted = make_entry(0, 0, 0), found;
    uint64_t last = 0;
    (void)argument;
    while (!atomic_load(&done)) {
        if (!ia_index_find(map, control, wanted.key, &found))
            continue; /* locked for too long: a miss */
        check_whole(0, &found);
        CHECK(found.version >= last);
        last = found.version;
        atomic_fetch_add_explicit(&found_in_all, 1, memory_order_relaxed);
    }
    ia_index_unmap(map);
    return NULL;
}

static void a_slot_that_changes_all_the_time(void)
{
    int fd;
    CHECK_OK(ia_control_create(1, (uint32_t[]){SEGMENTS}, (uint64_t[]){1 << 20}, &fd, &control));
    CHECK_OK(ia_index_create(control, &index_));
    put(0, 0, 0);
    atomic_store(&done, 0);
    atomic_store(&found_in_all, 0);
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, read_hot, NULL), 0);
    for (uint64_t version = 1; version < HOT_ROUNDS || atomic_load(&found_in_all) < 10000;
         version++)
        put(0, version, 0);
    atomic_store(&done, 1);
    for (int i = 0; i < 2; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    printf("    %llu entries read\n", (unsigned long long)found_in_all);
    ia_index_destroy(index_);
    ia_control_unmap(control);
    close(fd);
}

/* ---- several writers --------------------------------------------------------------------- */

enum { WRITERS = 4, OWN = 3000 };

static void *write_own(void *argument)
{
    uint64_t base = (uint64_t)(uintptr_t)argument * OWN;
    uint32_t segment = (uint32_t)(uintptr_t)argument % SEGMENTS;
    for (uint64_t n = base; n < base + OWN; n++) {
        put(n, 1, segment);
        put(n, 2, segment);
        if (n % 3 == 0) {
            struct ia_entry entry = make_entry(n, 2, segment);
            CHECK_EQ(ia_index_remove(index_, entry.key, &entry.at), 1);
        } else if (n % 3 == 1) {
            struct ia_entry entry = make_entry(n, 2, segment);
            CHECK_EQ(ia_index_touch(index_, entry.key, &entry.at, UINT64_MAX, 1), 1);
        }
    }
    return NULL;
}

static void writers_do_not_disturb_each_other(void)
{
    int fd;
    CHECK_OK(ia_control_create(1, (uint32_t[]){SEGMENTS}, (uint64_t[]){1 << 20}, &fd, &control));
    CHECK_OK(ia_index_create(control, &index_));
    pthread_t thread[WRITERS];
    for (uintptr_t i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, write_own, (void *)i), 0);
    for (int i = 0; i < WRITERS; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    uint64_t blocks = 0, bytes = 0;
    for (uint64_t n = 0; n < WRITERS * OWN; n++) {
        struct ia_entry wanted = make_entry(n, 2, (uint32_t)(n / OWN) % SEGMENTS), found;
        CHECK_EQ(ia_index_get(index_, wanted.key, &found), n % 3 != 0);
        if (n % 3 != 0) {
            CHECK_EQ(found.checked_ms, n % 3 == 1 ? UINT64_MAX : wanted.checked_ms);
            blocks++;
            bytes += wanted.at.length;
        }
    }
    CHECK_EQ(ia_index_usage(index_).blocks, blocks);
    CHECK_EQ(ia_index_usage(index_).bytes, bytes);
    ia_index_destroy(index_);
    ia_control_unmap(control);
    close(fd);
}

int main(void)
{
    RUN(readers_see_whole_entries_while_they_change_and_the_table_grows);
    RUN(a_slot_that_changes_all_the_time);
    RUN(writers_do_not_disturb_each_other);
    return 0;
}
