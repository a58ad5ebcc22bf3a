/* The control page: who owns the cache, which index is current, which segments are still what
 * an index says they are. Made by the engine, mapped read-only by every client. */
#ifndef IA_CONTROL_H
#define IA_CONTROL_H

#include "ia_layout.h"

/* Makes a memfd for `count` shards (segments[i] segments of segment_size[i] bytes each) and maps
 * it writable. Every generation starts at 1. The caller owns *fd and the mapping.
 * 0, -EINVAL (count or total out of range) or -errno. */
int ia_control_create(uint32_t count, const uint32_t *segments, const uint64_t *segment_size,
                      int *fd, struct ia_control **control);

/* Maps a control memfd read-only and checks it. 0, -EPROTO (not one of ours) or -errno. */
int ia_control_map(int fd, const struct ia_control **control);

void ia_control_unmap(const struct ia_control *control);
size_t ia_control_bytes(const struct ia_control *control);

static inline _Atomic uint32_t *ia_generations(const struct ia_control *control)
{
    return (_Atomic uint32_t *)((char *)control + IA_CONTROL_SIZE);
}

/* Position of a segment in the generation table; UINT32_MAX when there is no such segment. */
static inline uint32_t ia_segment_slot(const struct ia_control *control, uint32_t shard,
                                       uint32_t segment)
{
    if (shard >= control->shard_count || segment >= control->shards[shard].segment_count)
        return UINT32_MAX;
    return control->shards[shard].first_segment + segment;
}

/* Whether what stood at `at` when its generation was noted stands there still. To be asked after
 * the bytes were copied: the acquire fence keeps the copy before the loads. No system call. */
int ia_still_valid(const struct ia_control *control, const struct ia_location *at);

/* Whether the engine that made the page is alive. */
int ia_owner_alive(const struct ia_control *control);

/* The epoch of the index that the engine writes now. */
uint64_t ia_current_epoch(const struct ia_control *control);

/* Engine: makes this process the owner until it ends, however it ends. Starts one thread that
 * only sleeps; the kernel marks the word when that thread is gone, before any file lock of the
 * process is released (set_robust_list(2)). From here on the page must stay mapped: the kernel
 * looks for the word there. To be called once a page. 0, -EALREADY or -errno. */
int ia_owner_hold(struct ia_control *control);

/* Engine: gives up, for readers as if the process had ended. To be called before a file lock is let
 * go of by anything but the end of the process. */
void ia_owner_release(struct ia_control *control);

/* Engine: forgets all blocks of a segment. Returns the new generation. */
uint32_t ia_segment_forget(struct ia_control *control, uint32_t shard, uint32_t segment);

#endif
