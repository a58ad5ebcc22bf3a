/* Segments: slotted pages on a shard's file. Block headers grow from the front, data from the
 * back; see docs/design/0001. No function here syncs to disk: a cache is a copy, and what a power
 * cut tears fails its CRC. */
#ifndef IA_SEGMENT_H
#define IA_SEGMENT_H

#include "ia_layout.h"

/* Where a segment stands. The descriptor is borrowed. Functions that take one answer -EINVAL if not
 * even a segment header fits. */
struct ia_extent {
    int fd;
    uint32_t size;  /* bytes */
    uint64_t start; /* offset in the file */
};

/* A block to append, or as found on disk. The strings are not terminated. */
struct ia_block {
    uint64_t key[2];
    uint64_t sequence;
    uint64_t object_size;
    uint64_t object_offset;
    uint64_t checked_ms;
    const char *url;
    const char *version;
    uint16_t url_len;
    uint16_t version_len;
    uint16_t dead;
    uint32_t length;
    uint32_t data_offset; /* out */
};

/* What the index keeps of a version string. */
uint64_t ia_version_hash(const char *version, size_t len);

/* Bytes that a block takes in a segment: header, data, CRCs, padding; UINT64_MAX if it is too long
 * for any. */
uint64_t ia_block_footprint(uint32_t url_len, uint32_t version_len, uint32_t length);

/* ---- writing ----------------------------------------------------------------------------- */

struct ia_writer; /* one open segment */

enum { IA_SEGMENT_FULL = 1 };

/* Starts a segment: writes its header with `sequence` and ends whatever run of block headers stood
 * there. The caller has bumped the segment's generation. 0 or -errno. */
int ia_writer_open(struct ia_extent at, uint64_t sequence, struct ia_writer **writer);

/* Goes on with a segment that an engine left: finds where its headers end and its data begins.
 * Also 0 for a segment that turns out to be full. -ENOENT if none was ever written there. */
int ia_writer_resume(struct ia_extent at, struct ia_writer **writer);

/* Bytes that are free between the headers and the data. */
uint32_t ia_writer_room(struct ia_writer *writer);

void ia_writer_close(struct ia_writer *writer);

/* Appends data and header; sets block->data_offset. To be published in the index afterwards.
 * Any number of threads: space is taken and headers are written under the writer's mutex, the
 * data outside it. 0, IA_SEGMENT_FULL (nothing written), -EINVAL (URL or version too long)
 * or -errno of the write (the space is lost, the segment is sound). */
int ia_writer_append(struct ia_writer *writer, struct ia_block *block, const void *data);

/* Copies the prefix that all URLs in the segment share; returns its length. */
uint32_t ia_writer_prefix(struct ia_writer *writer, char prefix[IA_SEGMENT_HEADER_SIZE]);

/* ---- reading ----------------------------------------------------------------------------- */

/* Reads and checks a segment's header. 1: valid. 0: no segment was ever started here. -errno. */
int ia_segment_probe(struct ia_extent at, struct ia_segment_header *header);

/* Calls visit(context, block, header_offset) for every block header of the segment, in the order
 * of publication, dead ones too; a visit that returns non-zero ends the walk with that value.
 * Whatever the disk holds, headers and data do not overlap, and both lie within the segment.
 * Reads the run of headers and nothing else. 0, what visit returned, or -errno. */
typedef int (*ia_visit)(void *context, const struct ia_block *block, uint32_t header_offset);
int ia_segment_walk(struct ia_extent at, ia_visit visit, void *context);

/* A block to be marked dead: its key, and where its data stands. */
struct ia_victim {
    uint64_t key[2];
    uint32_t data_offset;
};

/* Marks blocks dead on disk, so that a restart does not bring them back: of each victim its header
 * and those of the copies of its key that were written before it, which would otherwise come back
 * in its place. A copy written after it, whose data stands below, stays. Goes through the headers
 * once; sorts the victims. The segment must not be reused meanwhile. How many headers were marked,
 * or -errno. */
int ia_segment_kill(struct ia_extent at, struct ia_victim *victims, size_t count);

/* Reads a block and checks its CRCs. 1: sound. 0: corrupt. -errno. */
int ia_block_verify(struct ia_extent at, const uint64_t key[2], uint64_t version,
                    uint32_t data_offset, uint32_t length);

#endif
