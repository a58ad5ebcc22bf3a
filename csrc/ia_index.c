#define _GNU_SOURCE
#include "ia_index.h"

#include "ia_control.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* 65,536 slots, 4 MiB of address space: enough for 5 GB of 110 KB objects without growing. */
#define FIRST_CAPACITY (1ull << 16)

/* A reader that meets an odd sequence this often has met a writer that died in the middle. */
#define MAX_SPINS 10000

struct ia_index_map {
    struct ia_index_header *header;
    struct ia_slot *slots;
    uint64_t mask;
};

static uint64_t home(const uint64_t key[2])
{
    /* Blocks of one object differ in key[1] by small numbers, so that word is mixed in. */
    uint64_t x = key[0] ^ (key[1] * 0x9e3779b97f4a7c15ull);
    return x ^ (x >> 32);
}

/* ---- slots ------------------------------------------------------------------------------- */

static uint64_t pack0(uint32_t sequence, enum ia_state state, uint32_t shard)
{
    return (uint64_t)sequence | (uint64_t)state << 32 | (uint64_t)shard << 40;
}

static enum ia_state state_of(uint64_t word0) { return (enum ia_state)(word0 >> 32 & 0xff); }

static void unpack(const uint64_t word[8], struct ia_entry *entry)
{
    *entry = (struct ia_entry){
        .key = {word[3], word[4]},
        .version = word[5],
        .object_size = word[6],
        .checked_ms = word[7],
        .at = {.shard = (uint16_t)(word[0] >> 40 & 0xff),
               .segment = (uint32_t)word[1],
               .generation = (uint32_t)(word[1] >> 32),
               .offset = (uint32_t)word[2],
               .length = (uint32_t)(word[2] >> 32)},
        .state = state_of(word[0]),
    };
}

/* 1 with a consistent copy of the slot, 0 if it stayed locked. */
static int read_slot(const struct ia_slot *slot, uint64_t word[8])
{
    for (int spin = 0; spin < MAX_SPINS; spin++) {
        word[0] = atomic_load_explicit(&slot->word[0], memory_order_acquire);
        if (word[0] & 1)
            continue;
        for (int i = 1; i < 8; i++)
            word[i] = atomic_load_explicit(&slot->word[i], memory_order_relaxed);
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load_explicit(&slot->word[0], memory_order_relaxed) == word[0])
            return 1;
    }
    return 0;
}

static void write_slot(struct ia_slot *slot, const struct ia_entry *entry)
{
    uint64_t before = atomic_load_explicit(&slot->word[0], memory_order_relaxed);
    uint32_t sequence = (uint32_t)before;
    atomic_store_explicit(&slot->word[0], before | 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    const uint64_t word[8] = {
        0,
        (uint64_t)entry->at.segment | (uint64_t)entry->at.generation << 32,
        (uint64_t)entry->at.offset | (uint64_t)entry->at.length << 32,
        entry->key[0],
        entry->key[1],
        entry->version,
        entry->object_size,
        entry->checked_ms,
    };
    for (int i = 1; i < 8; i++)
        atomic_store_explicit(&slot->word[i], word[i], memory_order_relaxed);
    atomic_store_explicit(&slot->word[0], pack0(sequence + 2, entry->state, entry->at.shard),
                          memory_order_release);
}

static int current(const struct ia_control *control, const struct ia_entry *entry)
{
    if (entry->state != IA_LIVE && entry->state != IA_UNVERIFIED)
        return 0;
    uint32_t slot = ia_segment_slot(control, entry->at.shard, entry->at.segment);
    return slot != UINT32_MAX && atomic_load_explicit(&ia_generations(control)[slot],
                                                      memory_order_relaxed) == entry->at.generation;
}

/* ---- readers ----------------------------------------------------------------------------- */

int ia_index_map(int fd, struct ia_index_map **out)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < (off_t)(IA_INDEX_HEADER_SIZE + sizeof(struct ia_slot)))
        return -EPROTO;
    void *base = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    struct ia_index_header *header = base;
    uint64_t capacity = header->capacity;
    struct ia_index_map *map = NULL;
    int error = -EPROTO;
    if (header->magic == IA_INDEX_MAGIC && header->format == IA_FORMAT && capacity &&
        !(capacity & (capacity - 1)) &&
        IA_INDEX_HEADER_SIZE + capacity * sizeof(struct ia_slot) == (uint64_t)st.st_size) {
        error = -ENOMEM;
        map = malloc(sizeof *map);
    }
    if (!map) {
        munmap(base, (size_t)st.st_size);
        return error;
    }
    *map = (struct ia_index_map){header, (struct ia_slot *)((char *)base + IA_INDEX_HEADER_SIZE),
                                 capacity - 1};
    *out = map;
    return 0;
}

void ia_index_unmap(struct ia_index_map *map)
{
    if (!map)
        return;
    munmap(map->header, IA_INDEX_HEADER_SIZE + (map->mask + 1) * sizeof(struct ia_slot));
    free(map);
}

uint64_t ia_index_epoch(const struct ia_index_map *map) { return map->header->epoch; }

/* What a writer learns on the way to a key that is not there. */
struct way {
    struct ia_slot *vacant; /* the first slot that it may take; NULL if all are live */
    struct ia_slot *end;    /* the empty slot that ended the probe; NULL if there is none */
};

/* The slot of `key`, or NULL. `way` may be NULL. */
static struct ia_slot *probe(const struct ia_index_map *map, const struct ia_control *control,
                             const uint64_t key[2], struct ia_entry *entry, struct way *way)
{
    uint64_t position = home(key);
    for (uint64_t step = 0; step <= map->mask; step++) {
        struct ia_slot *slot = &map->slots[(position + step) & map->mask];
        uint64_t word[8];
        if (!read_slot(slot, word))
            continue;
        enum ia_state state = state_of(word[0]);
        if (state != IA_EMPTY && word[3] == key[0] && word[4] == key[1]) {
            unpack(word, entry);
            return slot;
        }
        if (way && !way->vacant) {
            struct ia_entry other;
            unpack(word, &other);
            if (!current(control, &other))
                way->vacant = slot;
        }
        if (state == IA_EMPTY) {
            if (way)
                way->end = slot;
            return NULL;
        }
    }
    return NULL;
}

int ia_index_find(const struct ia_index_map *map, const struct ia_control *control,
                  const uint64_t key[2], struct ia_entry *entry)
{
    return probe(map, control, key, entry, NULL) && current(control, entry);
}

/* ---- the writer -------------------------------------------------------------------------- */

struct ia_index {
    struct ia_control *control;
    struct ia_index_map map;
    int fd;
    uint64_t used; /* slots that are not EMPTY */
    struct ia_index_usage total;
    struct ia_index_usage shards[IA_MAX_SHARDS];
    struct ia_index_usage *segments; /* by position in the generation table */
    pthread_mutex_t mutex;
};

static int make_table(uint64_t capacity, uint64_t epoch, int *fd, struct ia_index_map *map)
{
    size_t bytes = IA_INDEX_HEADER_SIZE + capacity * sizeof(struct ia_slot);
    int memfd = memfd_create("ioaccel-index", MFD_CLOEXEC);
    if (memfd < 0)
        return -errno;
    void *base = MAP_FAILED;
    if (ftruncate(memfd, (off_t)bytes) == 0)
        base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (base == MAP_FAILED) {
        int error = errno;
        close(memfd);
        return -error;
    }
    struct ia_index_header *header = base;
    *header = (struct ia_index_header){IA_INDEX_MAGIC, IA_FORMAT, 0, capacity, epoch};
    *map = (struct ia_index_map){header, (struct ia_slot *)((char *)base + IA_INDEX_HEADER_SIZE),
                                 capacity - 1};
    *fd = memfd;
    return 0;
}

static void drop_table(int fd, struct ia_index_map *map)
{
    munmap(map->header, IA_INDEX_HEADER_SIZE + (map->mask + 1) * sizeof(struct ia_slot));
    close(fd);
}

int ia_index_create(struct ia_control *control, struct ia_index **out)
{
    struct ia_index *index = calloc(1, sizeof *index);
    if (!index)
        return -ENOMEM;
    index->segments = calloc(control->total_segments, sizeof *index->segments);
    int error = index->segments ? make_table(FIRST_CAPACITY, 1, &index->fd, &index->map) : -ENOMEM;
    if (error) {
        free(index->segments);
        free(index);
        return error;
    }
    index->control = control;
    pthread_mutex_init(&index->mutex, NULL);
    atomic_store_explicit(&control->index_epoch, 1, memory_order_release);
    *out = index;
    return 0;
}

void ia_index_destroy(struct ia_index *index)
{
    if (!index)
        return;
    drop_table(index->fd, &index->map);
    pthread_mutex_destroy(&index->mutex);
    free(index->segments);
    free(index);
}

/* Above this many slots in use, probes get long: at 7 in 10, they read 2 slots on a hit and 6 on a
 * miss. */
static uint64_t most_used(uint64_t capacity) { return capacity / 10 * 7; }

/* Twice as many slots as live entries need, in a new memfd; then the epoch tells the readers. */
static int grow(struct ia_index *index)
{
    uint64_t capacity = FIRST_CAPACITY;
    while (most_used(capacity) < 2 * index->total.blocks)
        capacity *= 2;
    int fd = -1;
    struct ia_index_map map;
    uint64_t epoch = index->map.header->epoch + 1;
    int error = make_table(capacity, epoch, &fd, &map);
    if (error)
        return error;
    uint64_t used = 0;
    for (uint64_t i = 0; i <= index->map.mask; i++) {
        uint64_t word[8];
        struct ia_entry entry, none;
        if (!read_slot(&index->map.slots[i], word))
            continue;
        unpack(word, &entry);
        if (!current(index->control, &entry))
            continue;
        struct way way = {0};
        probe(&map, index->control, entry.key, &none, &way);
        write_slot(way.vacant, &entry);
        used++;
    }
    drop_table(index->fd, &index->map);
    index->fd = fd;
    index->map = map;
    index->used = used;
    atomic_store_explicit(&index->control->index_epoch, epoch, memory_order_release);
    return 0;
}

/* Empties the dead slots in front of an empty one. No live key stands behind it that they are on
 * the way to, so no reader misses anything. */
static void trim(struct ia_index *index, const struct ia_slot *empty)
{
    const struct ia_index_map *map = &index->map;
    for (uint64_t i = (uint64_t)(empty - map->slots) - 1;; i--) {
        struct ia_slot *slot = &map->slots[i & map->mask];
        uint64_t word[8];
        struct ia_entry entry;
        if (!read_slot(slot, word))
            return;
        unpack(word, &entry);
        if (entry.state == IA_EMPTY || current(index->control, &entry))
            return;
        write_slot(slot, &(struct ia_entry){.state = IA_EMPTY});
        index->used--;
    }
}

int ia_index_reader_fd(struct ia_index *index)
{
    char path[64];
    pthread_mutex_lock(&index->mutex);
    snprintf(path, sizeof path, "/proc/self/fd/%d", index->fd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int error = errno;
    pthread_mutex_unlock(&index->mutex);
    return fd < 0 ? -error : fd;
}

int ia_index_get(struct ia_index *index, const uint64_t key[2], struct ia_entry *entry)
{
    pthread_mutex_lock(&index->mutex);
    int found = ia_index_find(&index->map, index->control, key, entry);
    pthread_mutex_unlock(&index->mutex);
    return found;
}

static void add(struct ia_index_usage *usage, int64_t blocks, int64_t bytes)
{
    usage->blocks += (uint64_t)blocks;
    usage->bytes += (uint64_t)bytes;
}

static void count(struct ia_index *index, uint32_t shard, uint32_t segment, int64_t blocks,
                  int64_t bytes)
{
    add(&index->total, blocks, bytes);
    add(&index->shards[shard], blocks, bytes);
    add(&index->segments[ia_segment_slot(index->control, shard, segment)], blocks, bytes);
}

static void count_in(struct ia_index *index, const struct ia_entry *entry)
{
    count(index, entry->at.shard, entry->at.segment, 1, entry->at.length);
}

static void count_out(struct ia_index *index, const struct ia_entry *entry)
{
    count(index, entry->at.shard, entry->at.segment, -1, -(int64_t)entry->at.length);
}

static int same_place(const struct ia_location *a, const struct ia_location *b)
{
    return a->shard == b->shard && a->segment == b->segment && a->generation == b->generation &&
           a->offset == b->offset;
}

/* A slot for a key that has none, or NULL if the table is full and cannot grow. */
static struct ia_slot *take_slot(struct ia_index *index, const uint64_t key[2], struct way way,
                                 int *error)
{
    if (way.vacant != way.end) {
        if (way.end)
            trim(index, way.end);
    } else if (index->used >= most_used(index->map.mask + 1)) {
        *error = grow(index);
        if (*error && index->used < index->map.mask)
            *error = 0; /* no memory to grow, but there is room still */
        if (*error)
            return NULL;
        struct ia_entry none;
        way = (struct way){0};
        probe(&index->map, index->control, key, &none, &way);
    }
    uint64_t word0 = atomic_load_explicit(&way.vacant->word[0], memory_order_relaxed);
    index->used += state_of(word0) == IA_EMPTY;
    return way.vacant;
}

static int publish(struct ia_index *index, const struct ia_entry *entry, int recovered)
{
    if (ia_segment_slot(index->control, entry->at.shard, entry->at.segment) == UINT32_MAX ||
        (entry->state != IA_LIVE && entry->state != IA_UNVERIFIED))
        return -EINVAL;
    int error = 0;
    pthread_mutex_lock(&index->mutex);
    struct ia_entry before;
    struct way way = {0};
    struct ia_slot *slot = probe(&index->map, index->control, entry->key, &before, &way);
    int replaces = slot && current(index->control, &before);
    if (!(recovered && replaces && before.checked_ms > entry->checked_ms)) {
        if (replaces)
            count_out(index, &before);
        if (!slot)
            slot = take_slot(index, entry->key, way, &error);
        if (slot) {
            write_slot(slot, entry);
            if (current(index->control, entry))
                count_in(index, entry);
        }
    }
    pthread_mutex_unlock(&index->mutex);
    return error;
}

int ia_index_put(struct ia_index *index, const struct ia_entry *entry)
{
    return publish(index, entry, 0);
}

int ia_index_recover(struct ia_index *index, const struct ia_entry *entry)
{
    return publish(index, entry, 1);
}

int ia_index_remove(struct ia_index *index, const uint64_t key[2], const struct ia_location *at)
{
    pthread_mutex_lock(&index->mutex);
    struct ia_entry entry;
    struct ia_slot *slot = probe(&index->map, index->control, key, &entry, NULL);
    int found = slot && current(index->control, &entry) && (!at || same_place(at, &entry.at));
    if (found) {
        count_out(index, &entry);
        entry.state = IA_DEAD;
        write_slot(slot, &entry);
    }
    pthread_mutex_unlock(&index->mutex);
    return found;
}

int ia_index_touch(struct ia_index *index, const uint64_t key[2], const struct ia_location *at,
                   uint64_t checked_ms, int verified)
{
    pthread_mutex_lock(&index->mutex);
    struct ia_entry entry;
    struct ia_slot *slot = probe(&index->map, index->control, key, &entry, NULL);
    int found = slot && current(index->control, &entry) && same_place(at, &entry.at);
    if (found) {
        if (checked_ms > entry.checked_ms)
            entry.checked_ms = checked_ms;
        if (verified)
            entry.state = IA_LIVE;
        write_slot(slot, &entry);
    }
    pthread_mutex_unlock(&index->mutex);
    return found;
}

uint32_t ia_index_forget(struct ia_index *index, uint32_t shard, uint32_t segment)
{
    uint32_t slot = ia_segment_slot(index->control, shard, segment);
    if (slot == UINT32_MAX)
        return 0;
    pthread_mutex_lock(&index->mutex);
    uint32_t generation = ia_segment_forget(index->control, shard, segment);
    struct ia_index_usage gone = index->segments[slot];
    count(index, shard, segment, -(int64_t)gone.blocks, -(int64_t)gone.bytes);
    pthread_mutex_unlock(&index->mutex);
    return generation;
}

struct ia_index_usage ia_index_usage(struct ia_index *index)
{
    pthread_mutex_lock(&index->mutex);
    struct ia_index_usage usage = index->total;
    pthread_mutex_unlock(&index->mutex);
    return usage;
}

struct ia_index_usage ia_index_shard_usage(struct ia_index *index, uint32_t shard)
{
    struct ia_index_usage usage = {0, 0};
    pthread_mutex_lock(&index->mutex);
    if (shard < IA_MAX_SHARDS)
        usage = index->shards[shard];
    pthread_mutex_unlock(&index->mutex);
    return usage;
}

struct ia_index_usage ia_index_segment_usage(struct ia_index *index, uint32_t shard,
                                             uint32_t segment)
{
    struct ia_index_usage usage = {0, 0};
    uint32_t slot = ia_segment_slot(index->control, shard, segment);
    pthread_mutex_lock(&index->mutex);
    if (slot != UINT32_MAX)
        usage = index->segments[slot];
    pthread_mutex_unlock(&index->mutex);
    return usage;
}
