#define _GNU_SOURCE
#include "check.h"
#include "ia_control.h"
#include "ia_index.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHARDS = 3, SEGMENTS = 8 }; /* segments of each shard */

struct fixture {
    int fd;
    struct ia_control *control;
    struct ia_index *index;
};

static struct fixture make(void)
{
    static const uint32_t segments[SHARDS] = {SEGMENTS, SEGMENTS, SEGMENTS};
    static const uint64_t sizes[SHARDS] = {1 << 20, 2 << 20, 3 << 20};
    struct fixture f;
    CHECK_OK(ia_control_create(SHARDS, segments, sizes, &f.fd, &f.control));
    CHECK_OK(ia_index_create(f.control, &f.index));
    return f;
}

static void drop(struct fixture *f)
{
    ia_index_destroy(f->index);
    ia_control_unmap(f->control);
    close(f->fd);
}

static struct ia_index_map *reader(const struct fixture *f)
{
    struct ia_index_map *map;
    int fd = ia_index_reader_fd(f->index);
    CHECK_OK(fd);
    CHECK_OK(ia_index_map(fd, &map));
    close(fd);
    return map;
}

/* Keys that neighbour each other, as those of the blocks of one object do. */
static void make_key(uint64_t n, uint64_t key[2])
{
    uint64_t seed = n / 4;
    key[0] = check_random(&seed);
    key[1] = check_random(&seed) + n % 4;
}

static struct ia_entry make_entry(uint64_t n)
{
    struct ia_entry entry = {
        .version = n * 3,
        .object_size = n * 5,
        .checked_ms = n * 7,
        .at = {.shard = (uint16_t)(n % SHARDS),
               .segment = (uint32_t)(n / SHARDS % SEGMENTS),
               .generation = 1,
               .offset = (uint32_t)(n * 8),
               .length = (uint32_t)(n % 100000)},
        .state = IA_LIVE,
    };
    make_key(n, entry.key);
    return entry;
}

static void check_same(const struct ia_entry *a, const struct ia_entry *b)
{
    CHECK_EQ(a->key[0], b->key[0]);
    CHECK_EQ(a->key[1], b->key[1]);
    CHECK_EQ(a->version, b->version);
    CHECK_EQ(a->object_size, b->object_size);
    CHECK_EQ(a->checked_ms, b->checked_ms);
    CHECK_EQ(a->at.shard, b->at.shard);
    CHECK_EQ(a->at.segment, b->at.segment);
    CHECK_EQ(a->at.generation, b->at.generation);
    CHECK_EQ(a->at.offset, b->at.offset);
    CHECK_EQ(a->at.length, b->at.length);
    CHECK_EQ(a->state, b->state);
}

static void check_usage(struct ia_index_usage usage, uint64_t blocks, uint64_t bytes)
{
    CHECK_EQ(usage.blocks, blocks);
    CHECK_EQ(usage.bytes, bytes);
}

/* ---- one entry --------------------------------------------------------------------------- */

static void an_entry_comes_and_goes(void)
{
    struct fixture f = make();
    struct ia_index_map *map = reader(&f);
    struct ia_entry entry = make_entry(123456), found;
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 0);
    CHECK_EQ(ia_index_find(map, f.control, entry.key, &found), 0);
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 1);
    check_same(&found, &entry);
    CHECK_EQ(ia_index_find(map, f.control, entry.key, &found), 1);
    check_same(&found, &entry);
    check_usage(ia_index_usage(f.index), 1, entry.at.length);

    struct ia_location elsewhere = entry.at;
    elsewhere.offset += 8;
    CHECK_EQ(ia_index_remove(f.index, entry.key, &elsewhere), 0);
    elsewhere = entry.at;
    elsewhere.generation++;
    CHECK_EQ(ia_index_remove(f.index, entry.key, &elsewhere), 0);
    CHECK_EQ(ia_index_remove(f.index, entry.key, &entry.at), 1);
    CHECK_EQ(ia_index_remove(f.index, entry.key, NULL), 0);
    CHECK_EQ(ia_index_find(map, f.control, entry.key, &found), 0);
    check_usage(ia_index_usage(f.index), 0, 0);
    ia_index_unmap(map);
    drop(&f);
}

static void all_fields_hold_their_largest_values(void)
{
    struct fixture f = make();
    struct ia_entry found, entry = {
                               .key = {UINT64_MAX, UINT64_MAX},
                               .version = UINT64_MAX,
                               .object_size = UINT64_MAX,
                               .checked_ms = UINT64_MAX,
                               .at = {.shard = SHARDS - 1,
                                      .segment = SEGMENTS - 1,
                                      .generation = 1,
                                      .offset = UINT32_MAX,
                                      .length = UINT32_MAX},
                               .state = IA_UNVERIFIED,
                           };
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 1);
    check_same(&found, &entry);
    /* The key of nothing is a key as any other. */
    memset(entry.key, 0, sizeof entry.key);
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 0);
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 1);
    check_same(&found, &entry);
    check_usage(ia_index_usage(f.index), 2, 2ull * UINT32_MAX);
    drop(&f);
}

static void what_nobody_publishes_is_refused(void)
{
    struct fixture f = make();
    struct ia_entry entry = make_entry(1);
    entry.at.shard = SHARDS;
    CHECK_EQ(ia_index_put(f.index, &entry), -EINVAL);
    entry = make_entry(1);
    entry.at.segment = SEGMENTS;
    CHECK_EQ(ia_index_put(f.index, &entry), -EINVAL);
    entry = make_entry(1);
    entry.state = IA_EMPTY;
    CHECK_EQ(ia_index_put(f.index, &entry), -EINVAL);
    entry.state = IA_DEAD;
    CHECK_EQ(ia_index_recover(f.index, &entry), -EINVAL);
    check_usage(ia_index_usage(f.index), 0, 0);
    CHECK_EQ(ia_index_forget(f.index, SHARDS, 0), 0);
    CHECK_EQ(ia_index_forget(f.index, 0, SEGMENTS), 0);
    check_usage(ia_index_shard_usage(f.index, 1000), 0, 0);
    check_usage(ia_index_segment_usage(f.index, 0, 1000), 0, 0);
    drop(&f);
}

static void touch_verifies_and_never_goes_back_in_time(void)
{
    struct fixture f = make();
    struct ia_entry entry = make_entry(5), found;
    entry.state = IA_UNVERIFIED;
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_touch(f.index, entry.key, &entry.at, 100, 0), 1);
    ia_index_get(f.index, entry.key, &found);
    CHECK_EQ(found.checked_ms, 100);
    CHECK_EQ(found.state, IA_UNVERIFIED);
    CHECK_EQ(ia_index_touch(f.index, entry.key, &entry.at, 99, 1), 1);
    ia_index_get(f.index, entry.key, &found);
    CHECK_EQ(found.checked_ms, 100);
    CHECK_EQ(found.state, IA_LIVE);
    CHECK_EQ(ia_index_touch(f.index, entry.key, &entry.at, 101, 0), 1);
    ia_index_get(f.index, entry.key, &found);
    CHECK_EQ(found.state, IA_LIVE);

    struct ia_location elsewhere = entry.at;
    elsewhere.segment++;
    CHECK_EQ(ia_index_touch(f.index, entry.key, &elsewhere, 200, 1), 0);
    ia_index_forget(f.index, entry.at.shard, entry.at.segment);
    CHECK_EQ(ia_index_touch(f.index, entry.key, &entry.at, 200, 1), 0);
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 0);
    drop(&f);
}

static void a_late_entry_of_a_forgotten_segment_does_not_count(void)
{
    struct fixture f = make();
    struct ia_entry entry = make_entry(9), found;
    CHECK_EQ(ia_index_forget(f.index, entry.at.shard, entry.at.segment), 2);
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 0);
    check_usage(ia_index_usage(f.index), 0, 0);
    CHECK_EQ(ia_index_remove(f.index, entry.key, NULL), 0);
    entry.at.generation = 2;
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 1);
    check_usage(ia_index_usage(f.index), 1, entry.at.length);
    drop(&f);
}

static void recovery_keeps_the_copy_that_was_checked_last(void)
{
    struct fixture f = make();
    struct ia_entry old = make_entry(3), new = old, found;
    old.state = new.state = IA_UNVERIFIED;
    new.at.segment++;
    new.version++;
    new.checked_ms = old.checked_ms + 1;
    for (int order = 0; order < 2; order++) {
        CHECK_OK(ia_index_recover(f.index, order ? &new : &old));
        CHECK_OK(ia_index_recover(f.index, order ? &old : &new));
        CHECK_EQ(ia_index_get(f.index, new.key, &found), 1);
        check_same(&found, &new);
        check_usage(ia_index_usage(f.index), 1, new.at.length);
        CHECK_EQ(ia_index_remove(f.index, new.key, NULL), 1);
    }
    /* One that is gone is not compared with. */
    CHECK_OK(ia_index_recover(f.index, &new));
    ia_index_forget(f.index, new.at.shard, new.at.segment);
    CHECK_OK(ia_index_recover(f.index, &old));
    CHECK_EQ(ia_index_get(f.index, old.key, &found), 1);
    check_same(&found, &old);
    /* What the store has just said replaces anything. */
    old.checked_ms = 0;
    CHECK_OK(ia_index_put(f.index, &old));
    CHECK_EQ(ia_index_get(f.index, old.key, &found), 1);
    check_same(&found, &old);
    drop(&f);
}

/* ---- many entries ------------------------------------------------------------------------ */

/* Reads the memfd as it is: no key may stand in two slots, and probes must find every live one. */
static void check_table(const struct fixture *f)
{
    int fd = ia_index_reader_fd(f->index);
    CHECK_OK(fd);
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    uint8_t *base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(base != MAP_FAILED);
    uint64_t slots = ((uint64_t)st.st_size - 4096) / 64;

    /* A plain table of the keys that were seen. */
    uint64_t (*seen)[2] = calloc(2 * slots, sizeof *seen);
    uint8_t *taken = calloc(2 * slots, 1);
    uint64_t blocks = 0, bytes = 0;
    for (uint64_t i = 0; i < slots; i++) {
        uint64_t word[8];
        memcpy(word, base + 4096 + 64 * i, sizeof word);
        CHECK_EQ(word[0] & 1, 0);
        uint32_t state = word[0] >> 32 & 0xff;
        CHECK(state <= IA_DEAD);
        if (state == IA_EMPTY)
            continue;
        uint64_t at = (word[3] ^ word[4]) * 0x9e3779b97f4a7c15 % (2 * slots);
        for (; taken[at]; at = (at + 1) % (2 * slots))
            CHECK(seen[at][0] != word[3] || seen[at][1] != word[4]);
        taken[at] = 1;
        memcpy(seen[at], &word[3], 16);

        struct ia_entry found;
        uint32_t generation = word[1] >> 32, shard = word[0] >> 40 & 0xff;
        uint32_t place = ia_segment_slot(f->control, shard, (uint32_t)word[1]);
        int live = state != IA_DEAD && ia_generations(f->control)[place] == generation;
        CHECK_EQ(ia_index_get(f->index, &word[3], &found), live);
        blocks += live;
        bytes += live ? word[2] >> 32 : 0;
    }
    check_usage(ia_index_usage(f->index), blocks, bytes);
    free(seen);
    free(taken);
    munmap(base, (size_t)st.st_size);
    close(fd);
}

static void a_million_entries(void)
{
    enum { COUNT = 1100000 };
    struct fixture f = make();
    struct ia_index_map *first = reader(&f);
    uint64_t bytes = 0;
    for (uint64_t n = 0; n < COUNT; n++) {
        struct ia_entry entry = make_entry(n);
        CHECK_OK(ia_index_put(f.index, &entry));
        bytes += entry.at.length;
    }
    check_usage(ia_index_usage(f.index), COUNT, bytes);

    struct ia_index_map *map = reader(&f);
    CHECK_EQ(ia_index_epoch(map), ia_current_epoch(f.control));
    CHECK(ia_index_epoch(map) > ia_index_epoch(first));
    for (uint64_t n = 0; n < COUNT + 1000; n++) {
        struct ia_entry entry = make_entry(n), found;
        CHECK_EQ(ia_index_find(map, f.control, entry.key, &found), n < COUNT);
        if (n < COUNT)
            check_same(&found, &entry);
    }
    check_table(&f);

    /* It doubles: 2^16 slots, of which 7 in 10 are used, up to 2^21. */
    struct stat st;
    int fd = ia_index_reader_fd(f.index);
    CHECK_EQ(fstat(fd, &st), 0);
    CHECK_EQ(st.st_size, 4096 + (64ll << 21));
    CHECK_EQ(ia_index_epoch(map), 1 + 5);
    close(fd);

    /* A reader of the first index still finds what stood there. */
    struct ia_entry entry = make_entry(0), found;
    CHECK_EQ(ia_index_find(first, f.control, entry.key, &found), 1);
    for (uint32_t shard = 0; shard < SHARDS; shard++)
        for (uint32_t segment = 0; segment < SEGMENTS; segment++)
            CHECK_EQ(ia_index_forget(f.index, shard, segment), 2);
    check_usage(ia_index_usage(f.index), 0, 0);
    CHECK_EQ(ia_index_find(first, f.control, entry.key, &found), 0);
    CHECK_EQ(ia_index_find(map, f.control, entry.key, &found), 0);
    ia_index_unmap(first);
    ia_index_unmap(map);
    drop(&f);
}

/* A cache of constant size through which data streams, evicted by segments or one by one: a client
 * keeps every index it has mapped, so there must not be a new one for every few blocks. */
static void a_full_cache_does_not_grow_its_index(void)
{
    enum { BLOCKS = 1000, ROUNDS = 25 }; /* blocks of one segment */
    for (int by_segment = 0; by_segment < 2; by_segment++) {
        struct fixture f = make();
        uint64_t n = 0;
        for (uint32_t round = 0; round < ROUNDS; round++) {
            for (uint32_t place = 0; place < SHARDS * SEGMENTS; place++) {
                uint32_t generation = 1;
                if (by_segment)
                    generation = ia_index_forget(f.index, place % SHARDS, place / SHARDS);
                for (int i = 0; i < BLOCKS; i++, n++) {
                    struct ia_entry entry = make_entry(n), old;
                    entry.at.shard = (uint16_t)(place % SHARDS);
                    entry.at.segment = place / SHARDS;
                    entry.at.generation = generation;
                    if (!by_segment && round > 0) {
                        make_key(n - SHARDS * SEGMENTS * BLOCKS, old.key);
                        CHECK_EQ(ia_index_remove(f.index, old.key, NULL), 1);
                    }
                    CHECK_OK(ia_index_put(f.index, &entry));
                }
            }
        }
        CHECK_EQ(ia_index_usage(f.index).blocks, SHARDS * SEGMENTS * BLOCKS);
        check_table(&f);
        CHECK(ia_current_epoch(f.control) <= 2); /* 24,000 live blocks fit the first table */
        drop(&f);
    }
}

static void a_table_that_cannot_grow_fills_up_and_stays_right(void)
{
    enum { MOST = 65536 - 1 }; /* one slot stays empty: it ends the probes */
    struct fixture f = make();
    struct rlimit before, none;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &none), 0); /* no memfd can be made */
    uint64_t n = 0;
    int error = 0;
    while (!error) {
        struct ia_entry entry = make_entry(n);
        error = ia_index_put(f.index, &entry);
        n += !error;
    }
    CHECK_EQ(error, -EMFILE);
    CHECK_EQ(n, MOST);
    CHECK_EQ(ia_index_usage(f.index).blocks, MOST);
    struct ia_entry entry, found;
    for (uint64_t i = n % 32; i <= n; i += 32) { /* probes are long now */
        entry = make_entry(i);
        CHECK_EQ(ia_index_get(f.index, entry.key, &found), i < n);
    }
    /* Replacing needs no slot, and a removed entry leaves one. */
    entry = make_entry(7);
    entry.version++;
    CHECK_OK(ia_index_put(f.index, &entry));
    CHECK_EQ(ia_index_remove(f.index, entry.key, NULL), 1);
    entry = make_entry(n);
    for (uint64_t i = 0; i < n && ia_index_put(f.index, &entry) < 0; i++) {
        struct ia_entry victim = make_entry(i); /* one of them stands on the new key's way */
        ia_index_remove(f.index, victim.key, NULL);
    }
    CHECK_EQ(ia_index_get(f.index, entry.key, &found), 1);

    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
    uint64_t left = ia_index_usage(f.index).blocks;
    for (uint64_t i = n + 1; i < n + 1000; i++) {
        entry = make_entry(i);
        CHECK_OK(ia_index_put(f.index, &entry));
    }
    CHECK_EQ(ia_index_usage(f.index).blocks, left + 999);
    check_table(&f);
    drop(&f);
}

/* ---- against a model --------------------------------------------------------------------- */

enum { KEYS = 3000 };

struct model {
    struct ia_entry entry[KEYS];
    uint8_t present[KEYS];
    uint32_t generation[SHARDS][SEGMENTS];
};

static void check_model(const struct fixture *f, const struct model *m)
{
    struct ia_index_usage total = {0}, shards[SHARDS] = {0}, segments[SHARDS][SEGMENTS] = {0};
    struct ia_index_map *map = reader(f);
    for (uint64_t n = 0; n < KEYS; n++) {
        uint64_t key[2];
        struct ia_entry found;
        make_key(n, key);
        CHECK_EQ(ia_index_find(map, f->control, key, &found), m->present[n]);
        if (!m->present[n])
            continue;
        const struct ia_entry *entry = &m->entry[n];
        check_same(&found, entry);
        struct ia_index_usage *places[] = {&total, &shards[entry->at.shard],
                                           &segments[entry->at.shard][entry->at.segment]};
        for (int i = 0; i < 3; i++) {
            places[i]->blocks++;
            places[i]->bytes += entry->at.length;
        }
    }
    ia_index_unmap(map);
    check_usage(ia_index_usage(f->index), total.blocks, total.bytes);
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        check_usage(ia_index_shard_usage(f->index, shard), shards[shard].blocks,
                    shards[shard].bytes);
        for (uint32_t segment = 0; segment < SEGMENTS; segment++)
            check_usage(ia_index_segment_usage(f->index, shard, segment),
                        segments[shard][segment].blocks, segments[shard][segment].bytes);
    }
    check_table(f);
}

static void forget_in_model(struct model *m, uint32_t shard, uint32_t segment)
{
    m->generation[shard][segment]++;
    for (uint64_t n = 0; n < KEYS; n++)
        if (m->entry[n].at.shard == shard && m->entry[n].at.segment == segment)
            m->present[n] = 0;
}

static void random_operation(struct fixture *f, struct model *m, uint64_t *seed)
{
    uint64_t n = check_random(seed) % KEYS, choice = check_random(seed) % 1000;
    uint32_t shard = check_random(seed) % SHARDS, segment = check_random(seed) % SEGMENTS;
    struct ia_entry *kept = &m->entry[n];
    struct ia_location at = kept->at;
    at.offset += check_random(seed) % 4 == 0; /* sometimes somewhere else */
    int there = m->present[n] && at.offset == kept->at.offset;
    uint64_t key[2];
    make_key(n, key);

    if (choice < 600) {
        struct ia_entry entry = make_entry(check_random(seed) % (1ull << 40));
        memcpy(entry.key, key, sizeof key);
        entry.at.shard = (uint16_t)shard;
        entry.at.segment = segment;
        entry.at.generation = m->generation[shard][segment];
        entry.state = check_random(seed) % 2 ? IA_LIVE : IA_UNVERIFIED;
        if (check_random(seed) % 16 == 0)
            entry.at.generation--; /* written while its segment was forgotten */
        int recovered = check_random(seed) % 4 == 0;
        CHECK_OK((recovered ? ia_index_recover : ia_index_put)(f->index, &entry));
        if (recovered && m->present[n] && kept->checked_ms > entry.checked_ms)
            return;
        *kept = entry;
        m->present[n] = entry.at.generation == m->generation[shard][segment];
    } else if (choice < 750) {
        int anywhere = check_random(seed) % 2;
        int removed = ia_index_remove(f->index, key, anywhere ? NULL : &at);
        CHECK_EQ(removed, anywhere ? m->present[n] : there);
        m->present[n] &= !removed;
    } else if (choice < 998) {
        uint64_t checked_ms = check_random(seed) % (1ull << 42);
        int verified = check_random(seed) % 2;
        CHECK_EQ(ia_index_touch(f->index, key, &at, checked_ms, verified), there);
        if (there && checked_ms > kept->checked_ms)
            kept->checked_ms = checked_ms;
        if (there && verified)
            kept->state = IA_LIVE;
    } else {
        forget_in_model(m, shard, segment);
        CHECK_EQ(ia_index_forget(f->index, shard, segment), m->generation[shard][segment]);
    }
}

static void random_operations_agree_with_a_model(void)
{
    static struct model m;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        struct fixture f = make();
        uint64_t state = seed;
        memset(&m, 0, sizeof m);
        for (int i = 0; i < SHARDS * SEGMENTS; i++)
            m.generation[i / SEGMENTS][i % SEGMENTS] = 1;
        for (int i = 0; i < 40000; i++) {
            random_operation(&f, &m, &state);
            if (i % 4000 == 3999)
                check_model(&f, &m);
        }
        drop(&f);
    }
}

/* ---- descriptors ------------------------------------------------------------------------- */

static void a_reader_cannot_write(void)
{
    struct fixture f = make();
    int fd = ia_index_reader_fd(f.index);
    CHECK_OK(fd);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED);
    CHECK(write(fd, "x", 1) < 0);
    CHECK(ftruncate(fd, 0) < 0);
    close(fd);
    drop(&f);
}

static void what_is_no_index_is_not_mapped(void)
{
    struct fixture f = make();
    struct ia_index_map *map;
    CHECK_EQ(ia_index_map(-1, &map), -EBADF);
    CHECK_EQ(ia_index_map(f.fd, &map), -EPROTO); /* the control page */
    int fd = ia_index_reader_fd(f.index);
    struct stat st;
    CHECK_EQ(fstat(fd, &st), 0);
    uint8_t header[32];
    CHECK_EQ(pread(fd, header, sizeof header, 0), sizeof header);
    close(fd);

    /* Every byte of magic, format and capacity counts, and the size of the file. */
    for (size_t i = 0; i < 24; i++) {
        if (i >= 12 && i < 16)
            continue; /* reserved */
        int other = memfd_create("index", 0);
        CHECK_EQ(ftruncate(other, st.st_size), 0);
        CHECK_EQ(pwrite(other, header, sizeof header, 0), sizeof header);
        CHECK_OK(ia_index_map(other, &map));
        ia_index_unmap(map);
        uint8_t wrong = header[i] ^ 0x40;
        CHECK_EQ(pwrite(other, &wrong, 1, (off_t)i), 1);
        CHECK_EQ(ia_index_map(other, &map), -EPROTO);
        CHECK_EQ(pwrite(other, header, sizeof header, 0), sizeof header);
        CHECK_EQ(ftruncate(other, st.st_size - 1), 0);
        CHECK_EQ(ia_index_map(other, &map), -EPROTO);
        CHECK_EQ(ftruncate(other, 100), 0);
        CHECK_EQ(ia_index_map(other, &map), -EPROTO);
        close(other);
    }
    drop(&f);
}

int main(void)
{
    RUN(an_entry_comes_and_goes);
    RUN(all_fields_hold_their_largest_values);
    RUN(what_nobody_publishes_is_refused);
    RUN(touch_verifies_and_never_goes_back_in_time);
    RUN(a_late_entry_of_a_forgotten_segment_does_not_count);
    RUN(recovery_keeps_the_copy_that_was_checked_last);
    RUN(a_million_entries);
    RUN(a_full_cache_does_not_grow_its_index);
    RUN(a_table_that_cannot_grow_fills_up_and_stays_right);
    RUN(random_operations_agree_with_a_model);
    RUN(a_reader_cannot_write);
    RUN(what_is_no_index_is_not_mapped);
    return 0;
}
