"""What the Cython modules use of csrc/; the contracts stand in the headers there."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "ia_layout.h" nogil:
    enum:
        IA_BLOCK_SIZE
        IA_DATA_START
        IA_MAX_SHARDS
        IA_SEGMENT_HEADER_SIZE
        IA_SUPERBLOCK_MAGIC
        IA_FORMAT
        IA_COUNTERS
        IA_DIRECT_BYTES
        IA_DISK_NS
        IA_CLIENT_PAGE_SIZE
        IA_MAX_URL
        IA_MAX_VERSION

    enum ia_state:
        IA_EMPTY
        IA_LIVE
        IA_UNVERIFIED
        IA_DEAD

    struct ia_control:
        uint32_t shard_count
        uint32_t total_segments

    uint64_t IA_CLIENT_MAGIC
    struct ia_client_page:
        uint64_t magic
        uint32_t format
        uint32_t segment_count
        uint64_t *counter

    struct ia_location:
        uint16_t shard
        uint16_t from_store
        uint32_t segment
        uint32_t generation
        uint32_t offset
        uint32_t length
        uint32_t reserved

    struct ia_entry:
        uint64_t *key
        uint64_t version
        uint64_t object_size
        uint64_t checked_ms
        ia_location at
        ia_state state

    struct ia_segment_header:
        uint64_t sequence
        uint32_t prefix_len
        uint8_t *prefix


cdef extern from "ia_siphash.h" nogil:
    void ia_siphash128(const uint8_t *key, const void *data, size_t len, uint64_t *out)


cdef extern from "ia_control.h" nogil:
    int ia_control_create(uint32_t count, const uint32_t *segments, const uint64_t *segment_size,
                          int *fd, ia_control **control)
    int ia_control_map(int fd, const ia_control **control)
    void ia_control_unmap(const ia_control *control)
    int ia_still_valid(const ia_control *control, const ia_location *at)
    int ia_owner_alive(const ia_control *control)
    int ia_owner_hold(ia_control *control)
    void ia_owner_release(ia_control *control)
    uint64_t ia_current_epoch(const ia_control *control)


cdef extern from "ia_index.h" nogil:
    struct ia_index_map:
        pass
    int ia_index_map_fd "ia_index_map"(int fd, ia_index_map **map)
    void ia_index_unmap(ia_index_map *map)
    uint64_t ia_index_epoch(const ia_index_map *map)
    struct ia_index:
        pass
    int ia_index_create(ia_control *control, ia_index **index)
    void ia_index_destroy(ia_index *index)
    int ia_index_reader_fd(ia_index *index)
    int ia_index_get(ia_index *index, const uint64_t *key, ia_entry *entry)
    int ia_index_put(ia_index *index, const ia_entry *entry)
    int ia_index_recover(ia_index *index, const ia_entry *entry)
    int ia_index_remove(ia_index *index, const uint64_t *key, const ia_location *at)
    int ia_index_touch(ia_index *index, const uint64_t *key, const ia_location *at,
                       uint64_t checked_ms, int verified)
    uint32_t ia_index_forget(ia_index *index, uint32_t shard, uint32_t segment)
    struct ia_index_usage_t "ia_index_usage":
        uint64_t blocks
        uint64_t bytes
    ia_index_usage_t ia_index_usage(ia_index *index)
    ia_index_usage_t ia_index_shard_usage(ia_index *index, uint32_t shard)
    ia_index_usage_t ia_index_segment_usage(ia_index *index, uint32_t shard, uint32_t segment)


cdef extern from "ia_segment.h" nogil:
    struct ia_extent:
        int fd
        uint32_t size
        uint64_t start

    struct ia_block:
        uint64_t *key
        uint64_t sequence
        uint64_t object_size
        uint64_t object_offset
        uint64_t checked_ms
        const char *url
        const char *version
        uint16_t url_len
        uint16_t version_len
        uint16_t dead
        uint32_t length
        uint32_t data_offset

    uint64_t ia_version_hash(const char *version, size_t len)
    uint64_t ia_block_footprint(uint32_t url_len, uint32_t version_len, uint32_t length)
    struct ia_writer:
        pass
    enum:
        IA_SEGMENT_FULL
    int ia_writer_open(ia_extent at, uint64_t sequence, ia_writer **writer)
    int ia_writer_resume(ia_extent at, ia_writer **writer)
    uint32_t ia_writer_room(ia_writer *writer)
    void ia_writer_close(ia_writer *writer)
    int ia_writer_append(ia_writer *writer, ia_block *block, const void *data)
    uint32_t ia_writer_prefix(ia_writer *writer, char *prefix)
    int ia_segment_probe(ia_extent at, ia_segment_header *header)
    ctypedef int (*ia_visit)(void *context, const ia_block *block, uint32_t header_offset) noexcept nogil
    int ia_segment_walk(ia_extent at, ia_visit visit, void *context)
    struct ia_victim:
        uint64_t[2] key
        uint32_t data_offset

    int ia_segment_kill(ia_extent at, ia_victim *victims, size_t count)
    int ia_block_verify(ia_extent at, const uint64_t *key, uint64_t version,
                        uint32_t data_offset, uint32_t length)


cdef extern from "ia_read.h" nogil:
    struct ia_view:
        const ia_control *control
        const ia_index_map *index
        ia_client_page *page
        int *fd
        uint64_t in_memory

    int ia_in_memory(int fd)

    uint64_t IA_TO_END
    struct ia_want:
        uint64_t *key
        uint64_t offset
        uint64_t length
        uint64_t version
        uint64_t object_size
        uint32_t first_piece
        uint32_t piece_count
        int status

    enum:
        IA_HIT
        IA_MISS
        IA_PAST_END

    struct ia_piece:
        ia_location at
        uint32_t skip
        uint32_t length
        uint8_t *to
        int status
        uint32_t want

    struct ia_pieces:
        ia_piece *piece
        uint32_t count
        uint32_t capacity

    void ia_pieces_free(ia_pieces *pieces)
    int ia_resolve(const ia_view *view, ia_want *want, uint32_t i, uint64_t oldest_ms,
                   ia_pieces *pieces)
    int ia_resolve_at(const ia_view *view, ia_want *want, uint32_t i,
                      const ia_location *locations, uint32_t count, ia_pieces *pieces)
    void ia_place(const ia_want *wants, uint32_t count, ia_pieces *pieces, uint8_t *buffer)
    uint32_t ia_copy(const ia_view *view, ia_piece *pieces, uint32_t count, uint32_t threads)
    void ia_hint(const ia_view *view, const ia_piece *pieces, uint32_t count)
    int ia_client_page_map(int fd, ia_client_page **page)
    void ia_client_page_unmap(ia_client_page *page)
    void ia_client_page_add(ia_client_page *page, int counter, uint64_t value)
    uint64_t ia_client_page_get(const ia_client_page *page, int counter)
    void ia_account(const ia_view *view, const ia_piece *pieces, uint32_t count)
