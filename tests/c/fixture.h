/* What the tests of more than one file share: places for files, and bytes that tell whose they are.
 */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "check.h"
#include "ia_layout.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where a test's file lies: a file system with a disk below, or memory as the transit shard's. */
enum medium { DISK, MEMORY };

/* A file without a name. /var/tmp is on a disk where /tmp is not. */
static inline int make_file(enum medium medium, off_t size)
{
    char path[] = "/var/tmp/ioaccel-test-XXXXXX";
    int fd = medium == MEMORY ? memfd_create("ioaccel-test", MFD_CLOEXEC) : mkstemp(path);
    CHECK(fd >= 0);
    if (medium == DISK)
        CHECK_EQ(unlink(path), 0);
    CHECK_EQ(ftruncate(fd, size), 0);
    return fd;
}

/* Bytes [from, from + length) of an endless stream that belongs to `id`. */
static inline void fill_pattern(uint8_t *to, uint64_t id, uint64_t from, size_t length)
{
    uint64_t word = 0, at = UINT64_MAX;
    for (size_t i = 0; i < length; i++) {
        if ((from + i) / 8 != at) {
            at = (from + i) / 8;
            uint64_t seed = id * 0x9e3779b97f4a7c15 + at;
            word = check_random(&seed);
        }
        to[i] = (uint8_t)(word >> (from + i) % 8 * 8);
    }
}

static inline int has_pattern(const uint8_t *data, uint64_t id, uint64_t from, size_t length)
{
    enum { PIECE = 4096 };
    uint8_t expected[PIECE];
    for (size_t done = 0; done < length; done += PIECE) {
        size_t n = length - done < PIECE ? length - done : PIECE;
        fill_pattern(expected, id, from + done, n);
        if (memcmp(data + done, expected, n) != 0)
            return 0;
    }
    return 1;
}

#endif
