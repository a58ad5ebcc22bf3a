#define _GNU_SOURCE
#include "segments.h"

#include <sys/syscall.h>
#include <sys/uio.h>

/* Everything the core writes goes through pwritev: here, so that a test can make it fail. */
static int writes_until_failure = -1, failure;
static void (*during_write)(void);

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    if (during_write) {
        void (*call)(void) = during_write;
        during_write = NULL;
        call();
    }
    if (writes_until_failure >= 0 && writes_until_failure-- == 0) {
        errno = failure;
        return -1;
    }
    return syscall(SYS_pwritev, fd, parts, (long)count, (long)offset, 0l);
}

/* And everything it reads through pread. */
static int reads;

ssize_t pread(int fd, void *buffer, size_t length, off_t offset)
{
    reads++;
    return syscall(SYS_pread64, fd, buffer, length, (long)offset);
}

/* ---- what is written can be read --------------------------------------------------------- */

static void blocks_of_any_length_come_back(void)
{
    static const uint32_t lengths[] = {0,     1,     3,     4,     5,      7,       8,
                                       65535, 65536, 65537, 65540, 131073, 4194303, IA_BLOCK_SIZE};
    enum { COUNT = sizeof lengths / sizeof *lengths };
    static struct made made[COUNT];
    for (enum medium medium = DISK; medium <= MEMORY; medium++) {
        struct ia_extent at = make_segment(medium, 16 << 20);
        struct ia_writer *writer;
        CHECK_OK(ia_writer_open(at, 7, &writer));
        CHECK_EQ(ia_writer_room(writer), at.size - IA_SEGMENT_HEADER_SIZE);
        for (int i = 0; i < COUNT; i++) {
            uint32_t room = ia_writer_room(writer);
            CHECK_EQ(append(writer, &made[i], (uint64_t)i, lengths[i]), 0);
            uint64_t footprint =
                ia_block_footprint(made[i].block.url_len, made[i].block.version_len, lengths[i]);
            CHECK_EQ(room - ia_writer_room(writer), footprint);
        }
        ia_writer_close(writer);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, COUNT);
        for (int i = 0; i < COUNT; i++) {
            check_same(&walked.made[i].block, &made[i].block);
            CHECK_EQ(walked.made[i].block.dead, 0);
            check_data(at, &walked.made[i].block, (uint64_t)i);
        }
        close(at.fd);
    }
}

static void the_longest_names_fit_and_longer_ones_do_not(void)
{
    static struct made long_, walked_;
    static uint8_t data[IA_BLOCK_SIZE + 1];
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 1, &writer));
    make_block(&long_, 1, 100);
    memset(long_.url, 'u', IA_MAX_URL);
    memset(long_.version, 'v', IA_MAX_VERSION);
    long_.block.url_len = IA_MAX_URL;
    long_.block.version_len = IA_MAX_VERSION;
    fill_pattern(data, 1, 0, 100);
    CHECK_EQ(ia_writer_append(writer, &long_.block, data), 0);
    char prefix[IA_SEGMENT_HEADER_SIZE];
    CHECK_EQ(ia_writer_prefix(writer, prefix), IA_SEGMENT_HEADER_SIZE - 32);
    uint32_t room = ia_writer_room(writer);
    walked_ = long_;
    walked_.block.url_len++;
    CHECK_EQ(ia_writer_append(writer, &walked_.block, data), -EINVAL);
    walked_ = long_;
    walked_.block.version_len++;
    CHECK_EQ(ia_writer_append(writer, &walked_.block, data), -EINVAL);
    walked_ = long_;
    walked_.block.length = IA_BLOCK_SIZE + 1;
    CHECK_EQ(ia_writer_append(writer, &walked_.block, data), -EINVAL);
    CHECK_EQ(ia_writer_room(writer), room);
    CHECK_EQ(ia_block_footprint(IA_MAX_URL + 1, 0, 0), UINT64_MAX);
    CHECK_EQ(ia_block_footprint(0, IA_MAX_VERSION + 1, 0), UINT64_MAX);
    CHECK_EQ(ia_block_footprint(UINT32_MAX, UINT32_MAX, UINT32_MAX), UINT64_MAX);
    /* No name at all is a name, too. */
    make_block(&walked_, 2, 0);
    walked_.block.url_len = walked_.block.version_len = 0;
    CHECK_EQ(ia_writer_append(writer, &walked_.block, data), 0);
    CHECK_EQ(ia_writer_prefix(writer, prefix), 0);
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 2);
    check_same(&walked.made[0].block, &long_.block);
    check_data(at, &walked.made[0].block, 1);
    close(at.fd);
}

static void more_headers_than_a_window_holds(void)
{
    enum { COUNT = 7000 };
    static struct made m;
    struct ia_extent at = make_segment(DISK, 8 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 3, &writer));
    uint64_t seed = 1;
    uint32_t headers = 0;
    for (uint64_t n = 0; n < COUNT; n++) {
        make_block(&m, n, (uint32_t)n % 8);
        m.block.version_len = (uint16_t)(check_random(&seed) % 300);
        CHECK_EQ(ia_writer_append(writer, &m.block, "abcdefgh"), 0);
        headers += (88 + m.block.url_len + m.block.version_len + 7) / 8 * 8;
    }
    CHECK(headers > 4 * (256 << 10));
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, COUNT);
    for (uint64_t n = 0; n < COUNT; n++)
        CHECK_EQ(walked.made[n].block.sequence, 1000 + n);
    close(at.fd);
}

static int stop_at_third(void *context, const struct ia_block *block, uint32_t header_offset)
{
    (void)block;
    (void)header_offset;
    return ++*(int *)context == 3 ? -77 : 0;
}

static void a_visit_can_end_the_walk(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 3, &writer));
    for (uint64_t n = 0; n < 5; n++)
        CHECK_EQ(append(writer, &m, n, 10), 0);
    ia_writer_close(writer);
    int visited = 0;
    CHECK_EQ(ia_segment_walk(at, stop_at_third, &visited), -77);
    CHECK_EQ(visited, 3);
    close(at.fd);
}

/* ---- full -------------------------------------------------------------------------------- */

static void a_full_segment_takes_what_still_fits(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 3, &writer));
    uint64_t n = 0, seed = 4;
    uint32_t sizes = 100000;
    while (sizes > 0) { /* smaller and smaller, to the last byte */
        int result = append(writer, &m, n, (uint32_t)(check_random(&seed) % sizes));
        CHECK(result == 0 || result == IA_SEGMENT_FULL);
        n += result == 0;
        sizes = result == 0 ? sizes : sizes / 2;
    }
    uint32_t room = ia_writer_room(writer);
    CHECK(room < 88 + 40 + 8);
    uint8_t *before = snapshot(at);
    CHECK_EQ(append(writer, &m, n, 1000), IA_SEGMENT_FULL);
    CHECK_EQ(append(writer, &m, n, 0), IA_SEGMENT_FULL);
    CHECK_EQ(ia_writer_room(writer), room);
    uint8_t *after = snapshot(at);
    CHECK_MEM(before, after, at.size);
    free(before);
    free(after);
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, n);
    for (uint64_t i = 0; i < n; i++)
        check_data(at, &walked.made[i].block, i);
    CHECK_OK(ia_writer_resume(at, &writer)); /* full, and sound */
    CHECK_EQ(ia_writer_room(writer), room);
    ia_writer_close(writer);
    close(at.fd);
}

static struct ia_writer *open_writer;

static void append_another(void)
{
    static struct made m;
    uint32_t room = ia_writer_room(open_writer);
    CHECK_EQ(append(open_writer, &m, 1, 1000), IA_SEGMENT_FULL);
    CHECK_EQ(ia_writer_room(open_writer), room);
    CHECK_EQ(append(open_writer, &m, 2, 992), 0); /* 8 bytes less: to the last byte */
    CHECK_EQ(ia_writer_room(open_writer), 0);
}

/* While the data of a block is being written, others append; the room for its header is kept. */
static void room_is_kept_for_a_header(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 65536);
    CHECK_OK(ia_writer_open(at, 3, &open_writer));
    make_block(&m, 0, 1000);
    uint32_t footprint = (uint32_t)ia_block_footprint(m.block.url_len, m.block.version_len, 1000);
    uint32_t rest = ia_writer_room(open_writer) - 2 * footprint + 8;
    CHECK_EQ(append(open_writer, &m, 0, rest - (footprint - 1008) - 4), 0);
    CHECK_EQ(ia_writer_room(open_writer), 2 * footprint - 8);
    during_write = append_another;
    CHECK_EQ(append(open_writer, &m, 3, 1000), 0);
    ia_writer_close(open_writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 3);
    check_data(at, &walked.made[0].block, 0);
    check_data(at, &walked.made[1].block, 2);
    check_data(at, &walked.made[2].block, 3);
    close(at.fd);
}

/* Data comes from outside, and where the headers end it may begin. */
static void data_that_looks_like_a_header_is_none(void)
{
    static struct made m;
    uint8_t forged[104] = {0};
    struct ia_extent at = make_segment(DISK, 65536);
    for (int full = 0; full < 2; full++) {
        struct ia_writer *writer;
        CHECK_OK(ia_writer_open(at, 3, &writer));
        make_block(&m, 0, sizeof forged);
        uint32_t header = (uint32_t)ia_block_footprint(m.block.url_len, m.block.version_len, 0);
        /* A first block such that the second one's header ends where its data begins. */
        uint32_t filler = at.size - IA_SEGMENT_HEADER_SIZE - 2 * header - 112 - 4;
        CHECK_EQ(append(writer, &m, 0, filler), 0);
        forge(forged, plain_header(3), "sevenn");
        make_block(&m, 1, sizeof forged);
        CHECK_EQ(ia_writer_append(writer, &m.block, forged), 0);
        CHECK_EQ(m.block.data_offset, IA_SEGMENT_HEADER_SIZE + 2 * header);
        CHECK_EQ(ia_writer_room(writer), 0);
        ia_writer_close(writer);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 2);
        CHECK_OK(ia_writer_resume(at, &writer));
        CHECK_EQ(ia_writer_room(writer), 0);
        ia_writer_close(writer);
        if (full)
            break;
        /* The same bytes left by an earlier life of the segment, behind the last header. */
        CHECK_EQ(pwrite(at.fd, forged, sizeof forged, (off_t)at.start + 4096), sizeof forged);
        CHECK_OK(ia_writer_open(at, 3, &writer));
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 0);
        CHECK_EQ(pwrite(at.fd, forged, sizeof forged, (off_t)at.start + 4096 + header),
                 sizeof forged);
        CHECK_EQ(append(writer, &m, 0, 100), 0);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 1);
        ia_writer_close(writer);
    }
    close(at.fd);
}

/* ---- reuse ------------------------------------------------------------------------------- */

static void a_new_life_shows_nothing_of_the_old_one(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    for (uint64_t life = 1; life <= 4; life++) {
        CHECK_OK(ia_writer_open(at, life, &writer));
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 0);
        /* As many as before, or fewer; headers of equal length, so that old ones stand in line. */
        uint64_t count = 12 - 2 * life;
        for (uint64_t n = 0; n < count; n++) {
            CHECK_EQ(append(writer, &m, life * 100 + n, 5000), 0);
            CHECK_EQ(walk(at), 0);
            CHECK_EQ(walked.count, n + 1);
            CHECK_EQ(walked.made[n].block.sequence, 1000 + life * 100 + n);
        }
        ia_writer_close(writer);
        struct ia_segment_header header;
        CHECK_EQ(ia_segment_probe(at, &header), 1);
        CHECK_EQ(header.sequence, life);
    }
    close(at.fd);
}

static void check_prefix(struct ia_extent at, struct ia_writer *writer, const char *expected)
{
    char prefix[IA_SEGMENT_HEADER_SIZE];
    struct ia_segment_header header;
    CHECK_EQ(ia_writer_prefix(writer, prefix), strlen(expected));
    CHECK_MEM(prefix, expected, strlen(expected));
    CHECK_EQ(ia_segment_probe(at, &header), 1);
    CHECK_EQ(header.prefix_len, strlen(expected));
    CHECK_MEM(header.prefix, expected, strlen(expected));
}

static int append_url(struct ia_writer *writer, const char *url)
{
    static struct made m;
    make_block(&m, 1, 10);
    m.block.url = url;
    m.block.url_len = (uint16_t)strlen(url);
    return ia_writer_append(writer, &m.block, "0123456789");
}

static void the_prefix_is_what_all_urls_share(void)
{
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 1, &writer));
    check_prefix(at, writer, "");
    CHECK_EQ(append_url(writer, "s3://b/train/cat/1"), 0);
    check_prefix(at, writer, "s3://b/train/cat/1");
    CHECK_EQ(append_url(writer, "s3://b/train/cat/17"), 0);
    check_prefix(at, writer, "s3://b/train/cat/1");
    CHECK_EQ(append_url(writer, "s3://b/train/cow/2"), 0);
    check_prefix(at, writer, "s3://b/train/c");

    /* A write that fails narrows nothing, in memory or on disk. */
    for (int nth = 0; nth < 3; nth++) { /* data, segment header, block header */
        uint32_t room = ia_writer_room(writer);
        writes_until_failure = nth;
        failure = ENOSPC;
        CHECK_EQ(append_url(writer, "s3://b/test/1"), -ENOSPC);
        writes_until_failure = -1;
        check_prefix(at, writer, nth < 2 ? "s3://b/train/c" : "s3://b/t");
        CHECK(ia_writer_room(writer) < room); /* the space of the data is lost */
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 3);
    }
    ia_writer_close(writer);
    CHECK_OK(ia_writer_resume(at, &writer));
    check_prefix(at, writer, "s3://b/t");
    CHECK_EQ(append_url(writer, "gs://x"), 0);
    check_prefix(at, writer, "");
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 4);

    writes_until_failure = 0;
    failure = EIO;
    CHECK_EQ(ia_writer_open(at, 2, &writer), -EIO);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 4); /* the old life goes on */
    close(at.fd);
}

static void resuming_goes_on_where_the_run_ended(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_EQ(ia_writer_resume(at, &writer), -ENOENT);
    CHECK_OK(ia_writer_open(at, 5, &writer));
    ia_writer_close(writer);
    uint32_t room = at.size - IA_SEGMENT_HEADER_SIZE;
    for (uint64_t n = 0; n < 20; n++) {
        CHECK_OK(ia_writer_resume(at, &writer));
        CHECK_EQ(ia_writer_room(writer), room);
        CHECK_EQ(append(writer, &m, n, (uint32_t)(n * 777)), 0);
        room = ia_writer_room(writer);
        ia_writer_close(writer);
    }
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 20);
    for (uint64_t n = 0; n < 20; n++)
        check_data(at, &walked.made[n].block, n);
    close(at.fd);
}

/* A header in the middle is spoilt after its blocks were written. What stood behind it is lost, and
 * must not come back when new headers fill the gap: its data may be overwritten by then. */
static void resuming_behind_a_spoilt_header_brings_nothing_back(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    for (uint64_t n = 0; n < 10; n++)
        CHECK_EQ(append(writer, &m, n, 1000), 0);
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    uint32_t spoilt = walked.made[4].header_offset;
    CHECK_EQ(pwrite(at.fd, "?", 1, (off_t)(at.start + spoilt + 20)), 1);
    CHECK_OK(ia_writer_resume(at, &writer));
    for (uint64_t n = 0; n < 3; n++) {
        CHECK_EQ(append(writer, &m, 20 + n, 1000), 0); /* of equal length: in line with the old */
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 4 + n + 1);
    }
    ia_writer_close(writer);
    for (uint64_t i = 0; i < walked.count; i++)
        check_data(at, &walked.made[i].block, i < 4 ? i : 20 + i - 4);
    close(at.fd);
}

/* ---- kill -------------------------------------------------------------------------------- */

static void killing_marks_older_copies_too(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    for (uint64_t n = 0; n < 6; n++)
        CHECK_EQ(append(writer, &m, n % 3, 1000), 0);
    struct ia_block last = m.block, unknown = m.block;
    unknown.key[1]++;
    CHECK_EQ(kill(at, &unknown), 0);
    CHECK_EQ(append(writer, &m, 2, 1000), 0); /* fetched again, before the mark is made */
    CHECK_EQ(kill(at, &last), 2);
    CHECK_EQ(kill(at, &last), 0);
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 7);
    for (uint64_t n = 0; n < 7; n++) {
        CHECK_EQ(walked.made[n].block.dead != 0, n == 2 || n == 5);
        check_data(at, &walked.made[n].block, n == 6 ? 2 : n % 3);
    }
    writes_until_failure = 0;
    failure = EROFS;
    CHECK_EQ(kill(at, &m.block), -EROFS);
    close(at.fd);
}

static void killing_many_goes_through_the_headers_once(void)
{
    enum { BLOCKS = 3000 }; /* 600 KB of headers: three reads */
    static struct made m;
    static struct ia_victim victims[BLOCKS / 2];
    struct ia_extent at = make_segment(DISK, 2 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    size_t count = 0;
    for (uint64_t n = 0; n < BLOCKS; n++) {
        CHECK_EQ(append(writer, &m, n, 20), 0);
        if (n % 2)
            victims[count++] = (struct ia_victim){{m.block.key[0], m.block.key[1]},
                                                  m.block.data_offset};
    }
    ia_writer_close(writer);
    reads = 0;
    CHECK_EQ(ia_segment_kill(at, victims, count), BLOCKS / 2);
    CHECK(reads < 10);
    CHECK_EQ(ia_segment_kill(at, victims, count), 0);
    CHECK_EQ(ia_segment_kill(at, NULL, 0), 0);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, BLOCKS);
    for (uint64_t n = 0; n < BLOCKS; n++)
        CHECK_EQ(walked.made[n].block.dead, n % 2);
    close(at.fd);
}

int main(void)
{
    RUN(blocks_of_any_length_come_back);
    RUN(the_longest_names_fit_and_longer_ones_do_not);
    RUN(more_headers_than_a_window_holds);
    RUN(a_visit_can_end_the_walk);
    RUN(a_full_segment_takes_what_still_fits);
    RUN(room_is_kept_for_a_header);
    RUN(data_that_looks_like_a_header_is_none);
    RUN(a_new_life_shows_nothing_of_the_old_one);
    RUN(the_prefix_is_what_all_urls_share);
    RUN(resuming_goes_on_where_the_run_ended);
    RUN(resuming_behind_a_spoilt_header_brings_nothing_back);
    RUN(killing_marks_older_copies_too);
    RUN(killing_many_goes_through_the_headers_once);
    return 0;
}
