#define _GNU_SOURCE
#include "ia_read.h"

#include "ia_io.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

/* ---- extents to pieces ------------------------------------------------------------------- */

void ia_pieces_free(struct ia_pieces *pieces)
{
    free(pieces->piece);
    *pieces = (struct ia_pieces){0};
}

static struct ia_piece *append(struct ia_pieces *pieces)
{
    if (pieces->count == pieces->capacity) {
        uint32_t capacity = pieces->capacity ? 2 * pieces->capacity : 64;
        struct ia_piece *grown = realloc(pieces->piece, capacity * sizeof *grown);
        if (!grown)
            return NULL;
        pieces->piece = grown;
        pieces->capacity = capacity;
    }
    return &pieces->piece[pieces->count++];
}

/* Cuts the extent at the end of the object; 0 if it does not lie inside. */
static int bound(struct ia_want *want)
{
    if (want->offset > want->object_size)
        return 0;
    uint64_t rest = want->object_size - want->offset;
    if (want->length == IA_TO_END)
        want->length = rest;
    return want->length <= rest;
}

static uint32_t block_length(uint64_t object_size, uint64_t block)
{
    uint64_t rest = object_size - block * IA_BLOCK_SIZE;
    return rest < IA_BLOCK_SIZE ? (uint32_t)rest : IA_BLOCK_SIZE;
}

/* Appends the piece of block number `block` that the extent wants. */
static int add_piece(struct ia_want *want, uint32_t i, uint64_t block, const struct ia_location *at,
                     struct ia_pieces *pieces)
{
    uint64_t start = block * IA_BLOCK_SIZE;
    uint64_t from = want->offset > start ? want->offset - start : 0;
    uint64_t stop = want->offset + want->length - start;
    uint32_t length = block_length(want->object_size, block);
    if (at->length != length)
        return -EPROTO;
    struct ia_piece *piece = append(pieces);
    if (!piece)
        return -ENOMEM;
    *piece = (struct ia_piece){
        .at = *at,
        .skip = (uint32_t)from,
        .length = (uint32_t)((stop < length ? stop : length) - from),
        .want = i,
    };
    want->piece_count++;
    return 0;
}

static int finish(struct ia_want *want, struct ia_pieces *pieces, int status)
{
    if (status != IA_HIT) {
        pieces->count = want->first_piece;
        want->piece_count = 0;
    }
    want->status = status;
    return status;
}

static uint64_t last_block(const struct ia_want *want)
{
    return want->length ? (want->offset + want->length - 1) / IA_BLOCK_SIZE
                        : want->offset / IA_BLOCK_SIZE;
}

int ia_resolve(const struct ia_view *view, struct ia_want *want, uint32_t i, uint64_t oldest_ms,
               struct ia_pieces *pieces)
{
    uint64_t wanted = want->length;
    uint64_t first = want->offset / IA_BLOCK_SIZE, last = first, version = want->version;
    want->first_piece = pieces->count;
    want->piece_count = 0;
    for (uint64_t block = first; block <= last; block++) {
        const uint64_t key[2] = {want->key[0], want->key[1] + block};
        struct ia_entry entry;
        int usable = ia_index_find(view->index, view->control, key, &entry) &&
                     entry.state == IA_LIVE && entry.checked_ms >= oldest_ms &&
                     (!version || entry.version == version);
        if (usable && block == first) {
            version = entry.version;
            want->object_size = entry.object_size;
            if (!bound(want)) {
                want->length = wanted;
                return finish(want, pieces, IA_PAST_END);
            }
            last = last_block(want);
        }
        int error = usable ? add_piece(want, i, block, &entry.at, pieces) : IA_MISS;
        if (error) {
            want->length = wanted;
            return finish(want, pieces, error == -ENOMEM ? error : IA_MISS);
        }
    }
    want->version = version;
    return finish(want, pieces, IA_HIT);
}

int ia_resolve_at(const struct ia_view *view, struct ia_want *want, uint32_t i,
                  const struct ia_location *locations, uint32_t count, struct ia_pieces *pieces)
{
    want->first_piece = pieces->count;
    want->piece_count = 0;
    if (!bound(want))
        return finish(want, pieces, IA_PAST_END);
    if (want->length == 0)
        return finish(want, pieces, IA_HIT);
    uint64_t first = want->offset / IA_BLOCK_SIZE, last = last_block(want);
    if (last - first + 1 != count)
        return finish(want, pieces, -EPROTO);
    for (uint32_t n = 0; n < count; n++) {
        const struct ia_location *at = &locations[n];
        int error = ia_segment_slot(view->control, at->shard, at->segment) == UINT32_MAX
                        ? -EPROTO
                        : add_piece(want, i, first + n, at, pieces);
        if (error)
            return finish(want, pieces, error);
    }
    return finish(want, pieces, IA_HIT);
}

void ia_place(const struct ia_want *wants, uint32_t count, struct ia_pieces *pieces,
              uint8_t *buffer)
{
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *to = buffer;
        for (uint32_t n = 0; n < wants[i].piece_count; n++) {
            struct ia_piece *piece = &pieces->piece[wants[i].first_piece + n];
            piece->to = to;
            to += piece->length;
        }
        buffer += wants[i].length;
    }
}

/* ---- pieces to bytes --------------------------------------------------------------------- */

static off_t file_offset(const struct ia_view *view, const struct ia_piece *piece)
{
    const struct ia_location *at = &piece->at;
    return (off_t)(IA_DATA_START + at->segment * view->control->segment_size[at->shard] +
                   at->offset + piece->skip);
}

int ia_in_memory(int fd)
{
    struct statfs file_system;
    return fstatfs(fd, &file_system) == 0 && file_system.f_type == TMPFS_MAGIC;
}

/* What is in the page cache, without waiting for a disk: 0, -EAGAIN if it is not (all) there. */
static int read_cached(const struct ia_view *view, struct ia_piece *piece)
{
    int fd = view->fd[piece->at.shard];
    if (fd < 0)
        return -EBADF;
    if (view->in_memory >> piece->at.shard & 1) {
        ssize_t got = ia_pread_some(fd, piece->to, piece->length, file_offset(view, piece));
        return got < 0 ? (int)got : got == (ssize_t)piece->length ? 0 : -EIO;
    }
    struct iovec part = {piece->to, piece->length};
    ssize_t got = preadv2(fd, &part, 1, file_offset(view, piece), RWF_NOWAIT);
    if (got == (ssize_t)piece->length)
        return 0;
    return -EAGAIN; /* in part, not at all, or a file system without RWF_NOWAIT: read it again */
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int read_waiting(const struct ia_view *view, struct ia_piece *piece)
{
    uint64_t begun = now_ns();
    ssize_t got = ia_pread_some(view->fd[piece->at.shard], piece->to, piece->length,
                                file_offset(view, piece));
    if (view->page)
        ia_client_page_add(view->page, IA_DISK_NS, now_ns() - begun);
    if (got < 0)
        return (int)got;
    return got == (ssize_t)piece->length ? 0 : -EIO;
}

void ia_hint(const struct ia_view *view, const struct ia_piece *pieces, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (pieces[i].length)
            posix_fadvise(view->fd[pieces[i].at.shard], file_offset(view, &pieces[i]),
                          pieces[i].length, POSIX_FADV_WILLNEED);
}

/* One ia_copy. On the heap, because a helper that is scheduled late finds it when the copy is over.
 */
struct work {
    const struct ia_view *view; /* the caller's: touched for a claimed piece only */
    struct ia_piece *pieces;    /* the caller's too */
    uint32_t count;
    _Atomic uint32_t next, unsettled, failed;
    _Atomic uint32_t holders; /* threads that may still look here */
    sem_t settled;            /* posted by whoever settles the last piece */
};

static void drop(struct work *work)
{
    if (atomic_fetch_sub_explicit(&work->holders, 1, memory_order_acq_rel) == 1) {
        sem_destroy(&work->settled);
        free(work);
    }
}

static void settle(struct work *work, struct ia_piece *piece)
{
    if (!piece->status && !ia_still_valid(work->view->control, &piece->at))
        piece->status = -ESTALE;
    if (piece->status)
        atomic_fetch_add_explicit(&work->failed, 1, memory_order_relaxed);
    if (atomic_fetch_sub_explicit(&work->unsettled, 1, memory_order_acq_rel) == 1)
        sem_post(&work->settled);
}

/* Claims piece after piece. What is not in the page cache is hinted to the disk and put aside, so
 * that all of it is on its way before the first of it is waited for. */
static void copy_pieces(struct work *work)
{
    struct ia_piece *cold = NULL, **last = &cold;
    uint32_t i;
    while ((i = atomic_fetch_add_explicit(&work->next, 1, memory_order_relaxed)) < work->count) {
        struct ia_piece *piece = &work->pieces[i];
        piece->status = piece->length ? read_cached(work->view, piece) : 0;
        if (piece->status != -EAGAIN) {
            settle(work, piece);
            continue;
        }
        ia_hint(work->view, piece, 1);
        piece->next_cold = NULL;
        *last = piece;
        last = &piece->next_cold;
    }
    while (cold) {
        struct ia_piece *piece = cold;
        cold = piece->next_cold; /* a settled piece is the caller's again */
        piece->status = read_waiting(work->view, piece);
        settle(work, piece);
    }
}

static void *help(void *argument)
{
    copy_pieces(argument);
    drop(argument);
    return NULL;
}

enum { MAX_HELPERS = 16 };

uint32_t ia_copy(const struct ia_view *view, struct ia_piece *pieces, uint32_t count,
                 uint32_t threads)
{
    if (count == 0)
        return 0;
    struct work alone = {.count = count}, *work = &alone;
    if (threads > 1 && count > 1) {
        work = malloc(sizeof *work);
        if (!work)
            work = &alone;
    }
    *work = (struct work){
        .view = view, .pieces = pieces, .count = count, .unsettled = count, .holders = 1};
    sem_init(&work->settled, 0, 0);

    for (uint32_t n = 1; work != &alone && n < threads && n < count && n <= MAX_HELPERS; n++) {
        pthread_t helper;
        atomic_fetch_add_explicit(&work->holders, 1, memory_order_relaxed);
        if (pthread_create(&helper, NULL, help, work) != 0) {
            atomic_fetch_sub_explicit(&work->holders, 1, memory_order_relaxed);
            break;
        }
        pthread_detach(helper);
    }
    copy_pieces(work);
    while (sem_wait(&work->settled) < 0 && errno == EINTR)
        ;
    uint32_t failed = atomic_load_explicit(&work->failed, memory_order_relaxed);
    if (work != &alone)
        drop(work);
    return failed;
}

/* ---- accounting -------------------------------------------------------------------------- */

int ia_client_page_map(int fd, struct ia_client_page **page)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < (off_t)IA_CLIENT_PAGE_SIZE)
        return -EPROTO;
    struct ia_client_page *map =
        mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    if (map->magic != IA_CLIENT_MAGIC || map->format != IA_FORMAT ||
        IA_CLIENT_PAGE_SIZE + (size_t)map->segment_count != (size_t)st.st_size) {
        munmap(map, (size_t)st.st_size);
        return -EPROTO;
    }
    *page = map;
    return 0;
}

void ia_client_page_unmap(struct ia_client_page *page)
{
    if (page)
        munmap(page, IA_CLIENT_PAGE_SIZE + (size_t)page->segment_count);
}

void ia_client_page_add(struct ia_client_page *page, enum ia_counter counter, uint64_t value)
{
    atomic_fetch_add_explicit(&page->counter[counter], value, memory_order_relaxed);
}

uint64_t ia_client_page_get(const struct ia_client_page *page, enum ia_counter counter)
{
    return atomic_load_explicit(&page->counter[counter], memory_order_relaxed);
}

void ia_account(const struct ia_view *view, const struct ia_piece *pieces, uint32_t count)
{
    struct ia_client_page *page = view->page;
    if (!page)
        return;
    uint64_t hits = 0, hit_bytes = 0, miss_bytes = 0;
    /* Atomic for the threads of this client; read first, because most are marked already. */
    _Atomic uint8_t *touched = (_Atomic uint8_t *)((char *)page + IA_CLIENT_PAGE_SIZE);
    for (uint32_t i = 0; i < count; i++) {
        if (pieces[i].at.from_store) {
            miss_bytes += pieces[i].length;
        } else {
            hits++;
            hit_bytes += pieces[i].length;
        }
        uint32_t slot = ia_segment_slot(view->control, pieces[i].at.shard, pieces[i].at.segment);
        if (slot < page->segment_count &&
            !atomic_load_explicit(&touched[slot], memory_order_relaxed))
            atomic_store_explicit(&touched[slot], 1, memory_order_relaxed);
    }
    atomic_fetch_add_explicit(&page->counter[IA_HITS], hits, memory_order_relaxed);
    atomic_fetch_add_explicit(&page->counter[IA_HIT_BYTES], hit_bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&page->counter[IA_MISSES], count - hits, memory_order_relaxed);
    atomic_fetch_add_explicit(&page->counter[IA_MISS_BYTES], miss_bytes, memory_order_relaxed);
}
