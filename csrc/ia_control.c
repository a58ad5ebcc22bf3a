#define _GNU_SOURCE
#include "ia_control.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

size_t ia_control_bytes(const struct ia_control *control)
{
    return IA_CONTROL_SIZE + (size_t)control->total_segments * sizeof(uint32_t);
}

int ia_control_create(uint32_t count, const uint32_t *segments, const uint64_t *segment_size,
                      int *fd, struct ia_control **control)
{
    if (count == 0 || count > IA_MAX_SHARDS)
        return -EINVAL;
    uint64_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += segments[i];
    if (total == 0 || total >= UINT32_MAX)
        return -EINVAL;

    size_t bytes = IA_CONTROL_SIZE + (size_t)total * sizeof(uint32_t);
    int memfd = memfd_create("ioaccel-control", MFD_CLOEXEC);
    if (memfd < 0)
        return -errno;
    if (ftruncate(memfd, (off_t)bytes) < 0)
        goto fail;
    struct ia_control *made = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (made == MAP_FAILED)
        goto fail;

    made->format = IA_FORMAT;
    made->shard_count = count;
    made->total_segments = (uint32_t)total;
    uint32_t first = 0;
    for (uint32_t i = 0; i < count; i++) {
        made->shards[i] = (struct ia_shard_entry){first, segments[i]};
        made->segment_size[i] = segment_size[i];
        first += segments[i];
    }
    _Atomic uint32_t *generation = ia_generations(made);
    for (uint64_t i = 0; i < total; i++)
        atomic_store_explicit(&generation[i], 1, memory_order_relaxed);
    made->magic = IA_CONTROL_MAGIC;
    *fd = memfd;
    *control = made;
    return 0;

fail:;
    int error = errno;
    close(memfd);
    return -error;
}

/* Whether every segment has a place in the generation table. */
static int shards_fit(const struct ia_control *control)
{
    uint64_t first = 0;
    for (uint32_t i = 0; i < control->shard_count; i++) {
        if (control->shards[i].first_segment != first)
            return 0;
        first += control->shards[i].segment_count;
    }
    return first == control->total_segments;
}

int ia_control_map(int fd, const struct ia_control **control)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < (off_t)IA_CONTROL_SIZE)
        return -EPROTO;
    struct ia_control *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    if (map->magic != IA_CONTROL_MAGIC || map->format != IA_FORMAT ||
        map->shard_count > IA_MAX_SHARDS || ia_control_bytes(map) != (size_t)st.st_size ||
        !shards_fit(map)) {
        munmap(map, (size_t)st.st_size);
        return -EPROTO;
    }
    *control = map;
    return 0;
}

void ia_control_unmap(const struct ia_control *control)
{
    if (control)
        munmap((void *)control, ia_control_bytes(control));
}

int ia_owner_alive(const struct ia_control *control)
{
    uint32_t word = atomic_load_explicit(&control->owner, memory_order_acquire);
    return (word & FUTEX_TID_MASK) != 0 && !(word & FUTEX_OWNER_DIED);
}

uint64_t ia_current_epoch(const struct ia_control *control)
{
    return atomic_load_explicit(&control->index_epoch, memory_order_acquire);
}

int ia_still_valid(const struct ia_control *control, const struct ia_location *at)
{
    uint32_t slot = ia_segment_slot(control, at->shard, at->segment);
    if (slot == UINT32_MAX)
        return 0;
    atomic_thread_fence(memory_order_acquire);
    uint32_t now = atomic_load_explicit(&ia_generations(control)[slot], memory_order_acquire);
    return now == at->generation && ia_owner_alive(control);
}

uint32_t ia_segment_forget(struct ia_control *control, uint32_t shard, uint32_t segment)
{
    uint32_t slot = ia_segment_slot(control, shard, segment);
    if (slot == UINT32_MAX)
        return 0;
    _Atomic uint32_t *generation = &ia_generations(control)[slot];
    uint32_t now = atomic_fetch_add_explicit(generation, 1, memory_order_relaxed) + 1;
    /* Before any byte that is written to the segment from here on: it meets the acquire fence of
     * ia_still_valid. The addition alone, however it is ordered, does not do that on arm64. */
    atomic_thread_fence(memory_order_seq_cst);
    return now;
}

/* The robust list of the owner thread: a head and one node, both inside the shared page, because
 * the OOM reaper takes private memory away before the kernel walks the list. */
struct robust {
    struct robust_list_head head;
    struct robust_list node;
};
_Static_assert(sizeof(struct robust) <= sizeof(((struct ia_control *)0)->robust), "must fit");

struct hold {
    struct ia_control *control;
    sem_t ready;
    int error;
};

static void *hold_until_death(void *argument)
{
    struct hold *hold = argument;
    struct ia_control *control = hold->control;
    struct robust *robust = (struct robust *)control->robust;
    robust->node.next = &robust->head.list;
    robust->head.list.next = &robust->node;
    robust->head.futex_offset = (long)((char *)&control->owner - (char *)&robust->node);
    robust->head.list_op_pending = NULL;
    /* Replaces the list that libc registered for this thread, which takes no robust mutex. */
    if (syscall(SYS_set_robust_list, &robust->head, sizeof robust->head) < 0) {
        hold->error = errno;
        sem_post(&hold->ready);
        return NULL;
    }
    atomic_store_explicit(&control->owner, (uint32_t)syscall(SYS_gettid), memory_order_release);
    sem_post(&hold->ready);
    for (;;)
        pause();
}

int ia_owner_hold(struct ia_control *control)
{
    if (atomic_load_explicit(&control->owner, memory_order_relaxed) != 0)
        return -EALREADY;
    struct hold hold = {.control = control};
    sem_init(&hold.ready, 0, 0);
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited: signals go to the other threads */
    pthread_t thread;
    int error = pthread_create(&thread, NULL, hold_until_death, &hold);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        sem_destroy(&hold.ready);
        return -error;
    }
    while (sem_wait(&hold.ready) < 0 && errno == EINTR)
        ;
    sem_destroy(&hold.ready);
    pthread_detach(thread);
    return -hold.error;
}

void ia_owner_release(struct ia_control *control)
{
    /* What the kernel stores; the thread sleeps on, and is no owner any more when it ends. */
    atomic_store_explicit(&control->owner, FUTEX_OWNER_DIED, memory_order_seq_cst);
}
