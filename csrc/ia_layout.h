/* Layouts of everything that outlives a call: the shard file and the shared memory.
 *
 * Little-endian, natural alignment, no padding that is not named. A change to any of these
 * structs is a new IA_FORMAT; tests/unit/test_layout.py reads them byte by byte from Python.
 *
 * Terms: a *shard* is one file; a *segment* is a fixed-size piece of it and the unit of eviction;
 * a *block* is a whole object up to IA_BLOCK_SIZE, else one aligned piece of an object.
 */
#ifndef IA_LAYOUT_H
#define IA_LAYOUT_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the on-disk format is little-endian, and so must be the machine"
#endif

#define IA_FORMAT 1u

/* 4 MiB: large enough that a GET is bound by bandwidth and not by latency (20 ms at 200 MB/s),
 * small enough that a random 64 KiB range of a large object costs 64 times itself at worst. */
#define IA_BLOCK_SIZE (4u << 20)

/* One CRC32C for every 64 KiB: what a partial read would have to verify, at 0.006% of the space. */
#define IA_CRC_SPAN 65536u

/* Segments begin here: a multiple of every page, huge page and RAID stripe size in use. */
#define IA_DATA_START (64u << 10)

#define IA_SEGMENT_HEADER_SIZE 4096u

/* Shards of one engine, the transit shard included: more disks than any node has. */
#define IA_MAX_SHARDS 64u

/* ---- disk ------------------------------------------------------------------------------- */

#define IA_SUPERBLOCK_MAGIC 0x3144524853414f49ull /* "IOASHRD1" */
#define IA_SEGMENT_MAGIC 0x31474553414f4949ull    /* "IIOASEG1" */
#define IA_BLOCK_MAGIC 0x4b4c4249u                /* "IBLK" */

struct ia_superblock {
    uint64_t magic;
    uint32_t format;
    uint32_t crc; /* CRC32C of this struct with crc = 0 */
    uint8_t uuid[16];
    uint64_t segment_size; /* bytes, a multiple of 4096; fixed when the shard is made */
    uint64_t capacity;     /* payload bytes that the shard may hold; may be changed */
    uint64_t created_ms;
    uint64_t reserved;
};
_Static_assert(sizeof(struct ia_superblock) == 64, "on-disk layout");
_Static_assert(offsetof(struct ia_superblock, segment_size) == 32, "on-disk layout");

struct ia_segment_header {
    uint64_t magic;
    uint32_t format;
    uint32_t crc;      /* CRC32C of this struct with crc = 0 */
    uint64_t sequence; /* grows with every (re)use of any segment of the shard */
    uint32_t prefix_len;
    uint32_t reserved;
    uint8_t prefix[IA_SEGMENT_HEADER_SIZE - 32]; /* what all URLs in the segment begin with */
};
_Static_assert(sizeof(struct ia_segment_header) == IA_SEGMENT_HEADER_SIZE, "on-disk layout");
_Static_assert(offsetof(struct ia_segment_header, prefix) == 32, "on-disk layout");

/* Followed by the URL and the version string, padded to 8 bytes. */
struct ia_block_header {
    uint32_t magic;
    uint16_t format;
    uint16_t dead;       /* not 0: evicted; the one field that changes after publication */
    uint32_t header_len; /* this struct, URL, version and padding */
    uint32_t crc;        /* CRC32C of header_len bytes with crc = 0 and dead = 0 */
    uint64_t key[2];
    uint64_t segment_sequence;
    uint64_t block_sequence;
    uint64_t object_size;
    uint64_t object_offset;
    uint64_t checked_ms;  /* when the store last said that this version is current */
    uint32_t data_offset; /* from the start of the segment */
    uint32_t length;
    uint16_t url_len;
    uint16_t version_len;
    uint32_t reserved;
};
_Static_assert(sizeof(struct ia_block_header) == 88, "on-disk layout");
_Static_assert(offsetof(struct ia_block_header, key) == 16, "on-disk layout");
_Static_assert(offsetof(struct ia_block_header, data_offset) == 72, "on-disk layout");

#define IA_MAX_URL 4096u
#define IA_MAX_VERSION 512u

/* ---- shared memory ---------------------------------------------------------------------- */

#define IA_CONTROL_MAGIC 0x314c5443414f4949ull /* "IIOACTL1" */
#define IA_INDEX_MAGIC 0x315844494f414949ull   /* "IIAOIDX1" */
#define IA_CLIENT_MAGIC 0x31494c43414f4949ull  /* "IIOACLI1" */

struct ia_shard_entry {
    uint32_t first_segment; /* index of its segment 0 in the generation table */
    uint32_t segment_count;
};

/* The control page of one engine; its generation table (uint32 a segment) follows at 4096. */
struct ia_control {
    uint64_t magic;
    uint32_t format;
    uint32_t shard_count;
    _Atomic uint32_t owner; /* thread id of the owner; the kernel sets FUTEX_OWNER_DIED in it */
    uint32_t total_segments;
    _Atomic uint64_t index_epoch;
    uint64_t segment_size[IA_MAX_SHARDS];
    struct ia_shard_entry shards[IA_MAX_SHARDS];
    uint64_t robust[8]; /* the engine's robust list; readers ignore it */
};
_Static_assert(offsetof(struct ia_control, owner) == 16, "shared layout");
_Static_assert(offsetof(struct ia_control, segment_size) == 32, "shared layout");
_Static_assert(sizeof(struct ia_control) == 32 + 16 * IA_MAX_SHARDS + 64, "shared layout");
#define IA_CONTROL_SIZE 4096u
_Static_assert(sizeof(struct ia_control) <= IA_CONTROL_SIZE, "the generation table follows");

struct ia_index_header {
    uint64_t magic;
    uint32_t format;
    uint32_t reserved;
    uint64_t capacity; /* slots, a power of two */
    uint64_t epoch;
};
_Static_assert(sizeof(struct ia_index_header) == 32, "shared layout");
#define IA_INDEX_HEADER_SIZE 4096u

/* One cache line. Word 0: sequence lock (32 bits, odd while it is written), state, shard.
 * Word 1: segment, generation. 2: offset, length. 3, 4: key. 5: version hash. 6: object size.
 * 7: checked_ms. */
struct ia_slot {
    _Alignas(64) _Atomic uint64_t word[8];
};
_Static_assert(sizeof(struct ia_slot) == 64, "one slot, one cache line");

enum ia_state {
    IA_EMPTY = 0,      /* ends a probe */
    IA_LIVE = 1,       /* readers may copy it */
    IA_UNVERIFIED = 2, /* recovered; the engine must check its CRCs first */
    IA_DEAD = 3,       /* removed; keeps probes going, is reused */
};

/* One client's counters, written by that client alone; a byte a segment follows at 4096. */
enum ia_counter {
    IA_HITS,
    IA_HIT_BYTES,
    IA_MISSES,
    IA_MISS_BYTES,
    IA_DIRECT_BYTES, /* read from the source by the client itself */
    IA_DISK_NS,      /* its threads waited for the disk, ns */
    IA_COUNTERS = 8,
};
struct ia_client_page {
    uint64_t magic;
    uint32_t format;
    uint32_t segment_count;
    _Atomic uint64_t counter[IA_COUNTERS];
};
_Static_assert(sizeof(struct ia_client_page) == 16 + 8 * IA_COUNTERS, "shared layout");
#define IA_CLIENT_PAGE_SIZE 4096u

/* Where a block's bytes stand. What the engine answers with, 24 bytes each. */
struct ia_location {
    uint16_t shard;
    uint16_t from_store; /* 1: these bytes were fetched for this request */
    uint32_t segment;
    uint32_t generation;
    uint32_t offset; /* of the block's data, from the start of the segment */
    uint32_t length;
    uint32_t reserved;
};
_Static_assert(sizeof(struct ia_location) == 24, "wire layout");

/* An index entry, unpacked. */
struct ia_entry {
    uint64_t key[2];
    uint64_t version; /* hash of the version string */
    uint64_t object_size;
    uint64_t checked_ms;
    struct ia_location at;
    enum ia_state state;
};

#endif
