/* Reading: extents of objects -> pieces of shard files -> the caller's buffer.
 *
 * A *view* is what a process maps and opens to read one engine's cache. Nothing here takes a lock
 * or writes anything but the caller's memory and the client's own page. */
#ifndef IA_READ_H
#define IA_READ_H

#include "ia_control.h"
#include "ia_index.h"

struct ia_view {
    const struct ia_control *control;
    const struct ia_index_map *index;
    struct ia_client_page *page; /* may be NULL */
    int fd[IA_MAX_SHARDS];       /* one a shard, -1 where it could not be opened */
    uint64_t in_memory;          /* a bit a shard whose file is in memory: no disk to wait for */
};
_Static_assert(IA_MAX_SHARDS <= 64, "a bit each");

/* Whether a file is in memory (tmpfs, memfd). Such files refuse RWF_NOWAIT. One system call. */
int ia_in_memory(int fd);

#define IA_TO_END UINT64_MAX

/* One extent that a caller wants, and what became of it. */
struct ia_want {
    uint64_t key[2]; /* of block 0 */
    uint64_t offset;
    uint64_t length;      /* IA_TO_END: to the end of the object; resolved by ia_resolve */
    uint64_t version;     /* its hash; 0: of any. Out of IA_HIT: the one that was found */
    uint64_t object_size; /* out */
    uint32_t first_piece; /* out */
    uint32_t piece_count; /* out */
    int status;           /* out: enum ia_outcome or -errno */
};

enum ia_outcome {
    IA_HIT = 0,
    IA_MISS = 1,     /* not there, not verified, not checked recently, or of mixed versions */
    IA_PAST_END = 2, /* the object is there and the extent does not lie inside it */
};

/* A run of bytes in one block. */
struct ia_piece {
    struct ia_location at;
    uint32_t skip;   /* bytes of the block before the first wanted one */
    uint32_t length; /* bytes wanted */
    uint8_t *to;
    int status;                 /* out of ia_copy: 0, -ESTALE (moved on), or -errno */
    uint32_t want;              /* index of the extent it belongs to */
    struct ia_piece *next_cold; /* ia_copy's own */
};

/* Growable, so that an extent may be of any size. Zero-initialise; free with ia_pieces_free. */
struct ia_pieces {
    struct ia_piece *piece;
    uint32_t count, capacity;
};
void ia_pieces_free(struct ia_pieces *pieces);

/* Looks up all blocks of the extent `want[i]` and appends their pieces. On anything but IA_HIT no
 * piece is appended. Blocks last checked before `oldest_ms` count as missing. No system call.
 * Returns want->status, or -ENOMEM. */
int ia_resolve(const struct ia_view *view, struct ia_want *want, uint32_t i, uint64_t oldest_ms,
               struct ia_pieces *pieces);

/* The same from locations, one a block from the first to the last that the extent touches, as the
 * engine answers them. -EPROTO if they cannot be right. */
int ia_resolve_at(const struct ia_view *view, struct ia_want *want, uint32_t i,
                  const struct ia_location *locations, uint32_t count, struct ia_pieces *pieces);

/* Points the pieces of all extents into `buffer`, extents back to back in order. `pieces` may
 * stand in any order; want[i].length are resolved. */
void ia_place(const struct ia_want *wants, uint32_t count, struct ia_pieces *pieces,
              uint8_t *buffer);

/* Asks the kernel to read the pieces ahead that are not in its page cache. One system call a piece,
 * which waits for no disk. */
void ia_hint(const struct ia_view *view, const struct ia_piece *pieces, uint32_t count);

/* Copies all pieces. With `threads` > 1 the work is shared by that many threads, or fewer if they
 * come too late: it returns when the last piece is settled, and a helper that starts after that
 * touches nothing of the caller's. What is not in the page cache is hinted to the disk all at once
 * before it is waited for. Afterwards piece->status is 0 only where the bytes are certainly the
 * block's. Returns the number of pieces whose status is not 0. */
uint32_t ia_copy(const struct ia_view *view, struct ia_piece *pieces, uint32_t count,
                 uint32_t threads);

/* Maps a client page that the engine made, writable. 0, -EPROTO or -errno. */
int ia_client_page_map(int fd, struct ia_client_page **page);
void ia_client_page_unmap(struct ia_client_page *page);

/* Adds to one counter, and reads one. */
void ia_client_page_add(struct ia_client_page *page, enum ia_counter counter, uint64_t value);
uint64_t ia_client_page_get(const struct ia_client_page *page, enum ia_counter counter);

/* Adds to the client's counters and marks the segments that were read. */
void ia_account(const struct ia_view *view, const struct ia_piece *pieces, uint32_t count);

#endif
