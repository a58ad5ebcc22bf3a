/* The index: block key -> where its bytes stand. One writer (the engine), any number of readers
 * in other processes, which map it read-only.
 *
 * Open addressing with linear probing over 64-byte slots. Each slot has a sequence lock, so a
 * reader takes no lock and sees either the old entry or the new one. A slot whose segment has
 * moved to another generation is dead without being touched. There is at most one slot a key.
 *
 * Dead slots are used again, and emptied where that ends no probe too early; so the table grows
 * with the number of live entries, and not with the number of those there have been. */
#ifndef IA_INDEX_H
#define IA_INDEX_H

#include "ia_layout.h"

struct ia_index_map; /* a reader's (or the writer's) view of one memfd */

/* Maps an index memfd read-only. 0, -EPROTO or -errno. */
int ia_index_map(int fd, struct ia_index_map **map);
void ia_index_unmap(struct ia_index_map *map);
uint64_t ia_index_epoch(const struct ia_index_map *map);

/* Copies the entry of `key` to *entry. 1: found, with a current generation (LIVE or UNVERIFIED).
 * 0: not there. No system call, no lock; about one cache miss. Any thread, any process. */
int ia_index_find(const struct ia_index_map *map, const struct ia_control *control,
                  const uint64_t key[2], struct ia_entry *entry);

/* The writer's side. All its functions may be called from any thread of the engine; they take
 * one mutex, and none of them makes a system call but ia_index_put when the table grows. */
struct ia_index;

/* The caller keeps `control` alive for as long as the index. 0 or -errno. */
int ia_index_create(struct ia_control *control, struct ia_index **index);
void ia_index_destroy(struct ia_index *index);

/* A new read-only descriptor of the current memfd, owned by the caller, or -errno. */
int ia_index_reader_fd(struct ia_index *index);

int ia_index_get(struct ia_index *index, const uint64_t key[2], struct ia_entry *entry);

/* Publishes an entry, replacing what stood under its key. 0, -EINVAL (no such segment, or a state
 * that nobody publishes) or -errno (no memory to grow). */
int ia_index_put(struct ia_index *index, const struct ia_entry *entry);

/* The same for an entry found on disk, unless one that was checked later stands under its key:
 * copies of one block may lie in several segments, and shards are recovered all at once. */
int ia_index_recover(struct ia_index *index, const struct ia_entry *entry);

/* Removes the entry of `key`, if it still stands at `at` (NULL: wherever it stands).
 * 1: removed. 0: there was none. */
int ia_index_remove(struct ia_index *index, const uint64_t key[2], const struct ia_location *at);

/* Sets checked_ms, and LIVE instead of UNVERIFIED when `verified`, if the entry still stands at
 * `at`. 1: done. 0: it does not. */
int ia_index_touch(struct ia_index *index, const uint64_t key[2], const struct ia_location *at,
                   uint64_t checked_ms, int verified);

/* Forgets all blocks of a segment and returns its new generation. */
uint32_t ia_index_forget(struct ia_index *index, uint32_t shard, uint32_t segment);

struct ia_index_usage {
    uint64_t blocks, bytes; /* live and unverified */
};
struct ia_index_usage ia_index_usage(struct ia_index *index);
struct ia_index_usage ia_index_shard_usage(struct ia_index *index, uint32_t shard);
struct ia_index_usage ia_index_segment_usage(struct ia_index *index, uint32_t shard,
                                             uint32_t segment);
#endif
