#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_crc32c.h"
#include "ia_segment.h"

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

/* ---- blocks ------------------------------------------------------------------------------ */

struct made {
    struct ia_block block;
    char url[IA_MAX_URL + 1], version[IA_MAX_VERSION + 1];
    uint32_t header_offset; /* filled by a walk */
};

/* Block `n`; all that it says follows from n. */
static void make_block(struct made *m, uint64_t n, uint32_t length)
{
    uint64_t seed = n;
    memset(m, 0, sizeof *m);
    m->block = (struct ia_block){
        .sequence = 1000 + n,
        .object_size = length + n,
        .object_offset = n << 22,
        .checked_ms = 1700000000000 + n,
        .url = m->url,
        .version = m->version,
        .length = length,
        .url_len = (uint16_t)sprintf(m->url, "s3://bucket/train/%05llu.jpg", (unsigned long long)n),
        .version_len = (uint16_t)sprintf(m->version, "etag-%llu", (unsigned long long)(n % 1000)),
    };
    m->block.key[0] = check_random(&seed);
    m->block.key[1] = check_random(&seed);
}

static int append(struct ia_writer *writer, struct made *m, uint64_t n, uint32_t length)
{
    uint8_t *data = malloc(length + 1);
    make_block(m, n, length);
    fill_pattern(data, n, 0, length);
    int result = ia_writer_append(writer, &m->block, data);
    free(data);
    return result;
}

static uint64_t version_of(const struct ia_block *block)
{
    return ia_version_hash(block->version, block->version_len);
}

static int verify(struct ia_extent at, const struct ia_block *block)
{
    return ia_block_verify(at, block->key, version_of(block), block->data_offset, block->length);
}

struct walked {
    uint32_t count;
    struct made made[8000];
};
static struct walked walked; /* 40 MB: too large for a stack */

static int collect(void *context, const struct ia_block *block, uint32_t header_offset)
{
    struct walked *all = context;
    CHECK(all->count < sizeof all->made / sizeof *all->made);
    struct made *m = &all->made[all->count++];
    CHECK(block->url_len <= IA_MAX_URL && block->version_len <= IA_MAX_VERSION);
    memcpy(m->url, block->url, block->url_len);
    memcpy(m->version, block->version, block->version_len);
    m->url[block->url_len] = m->version[block->version_len] = 0;
    m->block = *block;
    m->block.url = m->url;
    m->block.version = m->version;
    m->header_offset = header_offset;
    return 0;
}

/* Whatever the disk holds, what a walk finds lies in the segment, and headers and data of no two
 * blocks overlap: headers in front of all data. */
static int walk(struct ia_extent at)
{
    walked.count = 0;
    int result = ia_segment_walk(at, collect, &walked);
    uint32_t head = IA_SEGMENT_HEADER_SIZE;
    for (uint32_t i = 0; i < walked.count; i++) {
        const struct made *m = &walked.made[i];
        CHECK_EQ(m->header_offset, head);
        head += (88 + m->block.url_len + m->block.version_len + 7) / 8 * 8;
    }
    CHECK(head <= at.size);
    for (uint32_t i = 0; i < walked.count; i++) {
        const struct ia_block *block = &walked.made[i].block;
        CHECK(block->data_offset >= head);
        CHECK(block->length <= IA_BLOCK_SIZE);
        CHECK((uint64_t)block->data_offset + block->length <= at.size);
    }
    return result;
}

static void check_same(const struct ia_block *a, const struct ia_block *b)
{
    CHECK_EQ(a->key[0], b->key[0]);
    CHECK_EQ(a->key[1], b->key[1]);
    CHECK_EQ(a->sequence, b->sequence);
    CHECK_EQ(a->object_size, b->object_size);
    CHECK_EQ(a->object_offset, b->object_offset);
    CHECK_EQ(a->checked_ms, b->checked_ms);
    CHECK_EQ(a->length, b->length);
    CHECK_EQ(a->data_offset, b->data_offset);
    CHECK_EQ(a->url_len, b->url_len);
    CHECK_EQ(a->version_len, b->version_len);
    CHECK_MEM(a->url, b->url, a->url_len);
    CHECK_MEM(a->version, b->version, a->version_len);
}

static void check_data(struct ia_extent at, const struct ia_block *block, uint64_t n)
{
    static uint8_t data[IA_BLOCK_SIZE];
    CHECK_EQ(pread(at.fd, data, block->length, (off_t)(at.start + block->data_offset)),
             block->length);
    CHECK(has_pattern(data, n, 0, block->length));
    CHECK_EQ(verify(at, block), 1);
}

static struct ia_extent make_segment(enum medium medium, uint32_t size)
{
    struct ia_extent at = {.size = size, .start = 65536};
    at.fd = make_file(medium, (off_t)(at.start + size));
    return at;
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

static uint8_t *snapshot(struct ia_extent at)
{
    uint8_t *bytes = malloc(at.size);
    CHECK_EQ(pread(at.fd, bytes, at.size, (off_t)at.start), at.size);
    return bytes;
}

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

/* A header by the letter of ia_layout.h, at any place and saying anything. */
static uint32_t forge(uint8_t *to, struct ia_block_header header, const char *names)
{
    memset(to, 0, header.header_len > sizeof header ? header.header_len : sizeof header);
    memcpy(to + sizeof header, names, header.url_len + header.version_len);
    header.crc = 0;
    memcpy(to, &header, sizeof header);
    header.crc = ia_crc32c(0, to, header.header_len);
    memcpy(to, &header, sizeof header);
    return header.header_len;
}

static struct ia_block_header plain_header(uint64_t segment_sequence)
{
    return (struct ia_block_header){
        .magic = IA_BLOCK_MAGIC,
        .format = IA_FORMAT,
        .header_len = 88 + 8,
        .key = {1, 2},
        .segment_sequence = segment_sequence,
        .block_sequence = 3,
        .object_size = 16,
        .data_offset = 65536 - 64,
        .length = 16,
        .url_len = 4,
        .version_len = 2,
    };
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

static int kill(struct ia_extent at, const struct ia_block *block)
{
    struct ia_victim victim = {{block->key[0], block->key[1]}, block->data_offset};
    return ia_segment_kill(at, &victim, 1);
}

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

/* ---- verify ------------------------------------------------------------------------------ */

static void flip(struct ia_extent at, uint32_t offset)
{
    uint8_t byte;
    CHECK_EQ(pread(at.fd, &byte, 1, (off_t)(at.start + offset)), 1);
    byte ^= 0x10;
    CHECK_EQ(pwrite(at.fd, &byte, 1, (off_t)(at.start + offset)), 1);
}

static void any_flipped_byte_is_found(void)
{
    static struct made m;
    static const uint32_t lengths[] = {1, 4, 100, 65536, 65537, 200001};
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    uint64_t seed = 8;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint32_t length = lengths[i], padded = (length + 3) / 4 * 4;
        CHECK_EQ(append(writer, &m, i, length), 0);
        CHECK_EQ(verify(at, &m.block), 1);
        uint32_t crcs = 4 * ((length + 65535) / 65536);
        for (uint32_t n = 0; n < 200; n++) {
            /* Data or CRCs: all bytes of a small block, samples of a large one. */
            uint32_t byte =
                padded + crcs <= 200 ? n : (uint32_t)(check_random(&seed) % (padded + crcs));
            if (n == 198)
                byte = 0;
            if (n == 199)
                byte = length - 1;
            if (byte >= padded + crcs || (byte >= length && byte < padded))
                continue;
            flip(at, m.block.data_offset + byte);
            CHECK_EQ(verify(at, &m.block), 0);
            flip(at, m.block.data_offset + byte);
        }
        CHECK_EQ(verify(at, &m.block), 1);
    }
    ia_writer_close(writer);
    close(at.fd);
}

static void a_block_verifies_only_as_what_it_is(void)
{
    static struct made a, b;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    CHECK_EQ(append(writer, &a, 1, 70000), 0);
    CHECK_EQ(append(writer, &b, 2, 70000), 0);
    ia_writer_close(writer);

    /* The right bytes, asked for under another key or version. */
    uint64_t version = version_of(&a.block), next[2] = {a.block.key[0], a.block.key[1] + 1};
    CHECK_EQ(ia_block_verify(at, a.block.key, version, a.block.data_offset, 70000), 1);
    CHECK_EQ(ia_block_verify(at, a.block.key, version + 1, a.block.data_offset, 70000), 0);
    CHECK_EQ(ia_block_verify(at, b.block.key, version, a.block.data_offset, 70000), 0);
    CHECK_EQ(ia_block_verify(at, next, version, a.block.data_offset, 70000), 0);
    CHECK_EQ(ia_block_verify(at, a.block.key, version, a.block.data_offset, 69999), 0);
    CHECK_EQ(ia_block_verify(at, a.block.key, version, a.block.data_offset + 4, 70000), 0);
    CHECK_EQ(ia_block_verify(at, a.block.key, version, b.block.data_offset, 70000), 0);

    /* Sound bytes with their CRCs, written at a wrong place by the disk. */
    uint8_t *bytes = malloc(70008);
    CHECK_EQ(pread(at.fd, bytes, 70008, (off_t)(at.start + b.block.data_offset)), 70008);
    CHECK_EQ(pwrite(at.fd, bytes, 70008, (off_t)(at.start + a.block.data_offset)), 70008);
    free(bytes);
    CHECK_EQ(verify(at, &a.block), 0);
    CHECK_EQ(verify(at, &b.block), 1);
    close(at.fd);
}

static void verifying_what_cannot_be_there(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 1 << 20);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    CHECK_EQ(append(writer, &m, 1, 1000), 0);
    static const uint32_t wrong[][2] = {
        {0, IA_BLOCK_SIZE + 1}, {0, UINT32_MAX},          {0, UINT32_MAX - 2}, {UINT32_MAX, 1},
        {UINT32_MAX - 7, 1000}, {UINT32_MAX, UINT32_MAX}, {(1 << 20) - 4, 1},  {1 << 20, 1},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_EQ(ia_block_verify(at, m.block.key, 0, wrong[i][0], wrong[i][1]), 0);
    CHECK_EQ(ftruncate(at.fd, (off_t)(at.start + m.block.data_offset + 500)), 0);
    CHECK_EQ(verify(at, &m.block), 0);
    ia_writer_close(writer);
    close(at.fd);
    CHECK_EQ(verify(at, &m.block), -EBADF);
    CHECK_EQ(walk(at), -EBADF);
    CHECK_EQ(kill(at, &m.block), -EBADF);
    CHECK_EQ(ia_writer_open(at, 1, &writer), -EBADF);
    CHECK_EQ(ia_writer_resume(at, &writer), -EBADF);
}

/* The last bytes of the last CRC are the last of the file, if nobody allocated it before. */
static void the_last_block_of_a_file_verifies(void)
{
    static struct made m;
    struct ia_extent at = make_segment(DISK, 65536);
    CHECK_EQ(ftruncate(at.fd, 0), 0);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    CHECK_EQ(append(writer, &m, 1, 1000), 0);
    check_data(at, &m.block, 1);
    ia_writer_close(writer);
    close(at.fd);
}

static void a_place_too_small_for_a_header_is_refused(void)
{
    struct ia_extent at = make_segment(DISK, 65536);
    struct ia_segment_header header;
    struct ia_writer *writer;
    at.size = IA_SEGMENT_HEADER_SIZE - 1;
    CHECK_EQ(ia_writer_open(at, 1, &writer), -EINVAL);
    CHECK_EQ(ia_writer_resume(at, &writer), -EINVAL);
    CHECK_EQ(ia_segment_probe(at, &header), -EINVAL);
    CHECK_EQ(ia_segment_walk(at, collect, &walked), -EINVAL);
    CHECK_EQ(kill(at, &(struct ia_block){.length = 1}), -EINVAL);
    for (at.size = IA_SEGMENT_HEADER_SIZE; at.size < IA_SEGMENT_HEADER_SIZE + 130; at.size++) {
        static struct made m;
        CHECK_OK(ia_writer_open(at, 1, &writer));
        CHECK_EQ(append(writer, &m, 1, 1), IA_SEGMENT_FULL);
        ia_writer_close(writer);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, 0);
    }
    close(at.fd);
}

/* ---- crashes and bad disks --------------------------------------------------------------- */

enum { CRASH_BLOCKS = 6 };

static uint64_t is_prefix_of_what_was_written(void)
{
    CHECK(walked.count <= CRASH_BLOCKS);
    for (uint64_t n = 0; n < walked.count; n++) {
        static struct made m;
        make_block(&m, n, (uint32_t)(100 * n));
        m.block.data_offset = walked.made[n].block.data_offset;
        check_same(&walked.made[n].block, &m.block);
    }
    return walked.count;
}

/* What a spoilt byte, a torn write or a short file leave is a beginning of the run; and the segment
 * can be gone on with. */
static void damage_anywhere_in_the_headers_is_survived(void)
{
    static struct made m;
    struct ia_extent at = make_segment(MEMORY, 65536);
    struct ia_writer *writer;
    CHECK_OK(ia_writer_open(at, 5, &writer));
    for (uint64_t n = 0; n < CRASH_BLOCKS; n++)
        CHECK_EQ(append(writer, &m, n, (uint32_t)(100 * n)), 0);
    ia_writer_close(writer);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, CRASH_BLOCKS);
    uint32_t begins[CRASH_BLOCKS + 1];
    for (int i = 0; i < CRASH_BLOCKS; i++)
        begins[i] = walked.made[i].header_offset;
    begins[CRASH_BLOCKS] = 2 * begins[CRASH_BLOCKS - 1] - begins[CRASH_BLOCKS - 2];
    uint8_t *image = snapshot(at);
    uint64_t seed = 11;

    enum { GARBLE, ZERO_REST, ONES_REST, TRUNCATE, KINDS };
    for (uint32_t byte = 0; byte < begins[CRASH_BLOCKS] + 16; byte++) {
        if (byte == 100)
            byte = IA_SEGMENT_HEADER_SIZE - 100; /* the rest of the prefix is all the same */
        uint64_t whole = 0;                      /* headers that end before the damage */
        while (whole < CRASH_BLOCKS && begins[whole + 1] <= byte)
            whole++;
        if (byte < IA_SEGMENT_HEADER_SIZE)
            whole = 0;
        for (int kind = 0; kind < KINDS; kind++) {
            CHECK_EQ(ftruncate(at.fd, (off_t)(at.start + at.size)), 0);
            CHECK_EQ(pwrite(at.fd, image, at.size, (off_t)at.start), at.size);
            uint32_t rest = begins[CRASH_BLOCKS] + 16 - byte;
            uint8_t *damaged = malloc(rest);
            memcpy(damaged, image + byte, rest);
            if (kind == GARBLE)
                damaged[0] ^= (uint8_t)(1 + check_random(&seed) % 255);
            else
                memset(damaged, kind == ONES_REST ? 0xff : 0, rest);
            CHECK_EQ(pwrite(at.fd, damaged, rest, (off_t)(at.start + byte)), rest);
            if (kind == TRUNCATE)
                CHECK_EQ(ftruncate(at.fd, (off_t)(at.start + byte)), 0);

            CHECK_EQ(walk(at), 0);
            uint64_t found = is_prefix_of_what_was_written();
            int changed = memcmp(damaged, image + byte, rest) != 0;
            int header_lives = byte >= IA_SEGMENT_HEADER_SIZE || !changed;
            if (kind != GARBLE || byte >= IA_SEGMENT_HEADER_SIZE)
                CHECK(found >= (header_lives ? whole : 0));
            uint32_t in_header =
                byte >= IA_SEGMENT_HEADER_SIZE && whole < CRASH_BLOCKS ? byte - begins[whole] : 0;
            int dead_field = in_header == 6 || in_header == 7;
            if (kind == GARBLE && byte < begins[CRASH_BLOCKS])
                CHECK_EQ(found, dead_field ? CRASH_BLOCKS : byte < 4096 ? 0 : whole);

            int resumed = ia_writer_resume(at, &writer);
            CHECK(resumed == 0 || resumed == -ENOENT);
            if (resumed == 0) {
                CHECK_EQ(append(writer, &m, found, (uint32_t)(100 * found)), 0);
                CHECK_EQ(append(writer, &m, 500, 3000), 0);
                ia_writer_close(writer);
                CHECK_EQ(walk(at), 0);
                CHECK_EQ(walked.count, found + 2);
                check_data(at, &walked.made[found].block, found);
                check_data(at, &walked.made[found + 1].block, 500);
                for (uint64_t n = 0; n < found && kind != TRUNCATE; n++)
                    check_data(at, &walked.made[n].block, n);
            }
            free(damaged);
        }
    }
    free(image);
    close(at.fd);
}

static void hostile_headers_are_none(void)
{
    struct ia_extent at = make_segment(MEMORY, 65536);
    struct ia_writer *writer;
    struct ia_block_header good = plain_header(5);
    static uint8_t forged[1 << 17];
#define WITH(field, value)                \
    ({                                    \
        struct ia_block_header h_ = good; \
        h_.field = value;                 \
        h_;                               \
    })
    struct ia_block_header wrong[] = {
        WITH(magic, IA_BLOCK_MAGIC + 1),
        WITH(format, IA_FORMAT + 1),
        WITH(segment_sequence, 4),
        WITH(header_len, 0),
        WITH(header_len, 87),
        WITH(header_len, 88),
        WITH(header_len, 104),
        WITH(header_len, 65536),
        WITH(url_len, 0xffff),
        WITH(version_len, 0xffff),
        WITH(length, IA_BLOCK_SIZE + 1),
        WITH(url_len, IA_MAX_URL + 1),         /* and a length of the header that fits it: */
        WITH(version_len, IA_MAX_VERSION + 1), /* filled in below */
        WITH(length, UINT32_MAX),
        WITH(length, UINT32_MAX - 1),
        WITH(length, UINT32_MAX - 3),
        WITH(length, UINT32_MAX - 7),
        WITH(length, 0xfffc0000),
        WITH(length, 61), /* with its CRC a little beyond the end */
        WITH(data_offset, 0),
        WITH(data_offset, IA_SEGMENT_HEADER_SIZE - 8),
        WITH(data_offset, IA_SEGMENT_HEADER_SIZE),
        WITH(data_offset, IA_SEGMENT_HEADER_SIZE + 88),
        WITH(data_offset, 65536),
        WITH(data_offset, UINT32_MAX),
        WITH(data_offset, UINT32_MAX - 15),
        WITH(data_offset, UINT32_MAX - 23),
    };
    enum { COUNT = sizeof wrong / sizeof *wrong };
    for (int i = -1; i < COUNT; i++) {
        CHECK_OK(ia_writer_open(at, 5, &writer));
        ia_writer_close(writer);
        struct ia_block_header header = i < 0 ? good : wrong[i];
        if (header.url_len == IA_MAX_URL + 1 || header.version_len == IA_MAX_VERSION + 1)
            header.header_len = (88u + header.url_len + header.version_len + 7) / 8 * 8;
        memset(forged, 0, sizeof forged);
        if (header.header_len < sizeof header) {
            memcpy(forged, &header, sizeof header); /* its CRC cannot be right */
        } else {
            struct ia_block_header names = header;
            names.url_len = names.version_len = 0;
            forge(forged, names, "");
            memcpy(forged, &header, sizeof header);
            ((struct ia_block_header *)forged)->crc = 0;
            ((struct ia_block_header *)forged)->crc = ia_crc32c(0, forged, header.header_len);
        }
        CHECK_EQ(pwrite(at.fd, forged, 8192, (off_t)at.start + 4096), 8192);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, i < 0);
        CHECK_OK(ia_writer_resume(at, &writer));
        uint32_t room = ia_writer_room(writer);
        CHECK_EQ(room, i < 0 ? good.data_offset - 4096 - good.header_len : at.size - 4096);
        ia_writer_close(writer);
        struct ia_victim victim = {{good.key[0], good.key[1]}, good.data_offset};
        CHECK_EQ(ia_segment_kill(at, &victim, 1), i < 0);
    }

    /* Each sound for itself, but the second stands in the first one's data. */
    uint32_t length = forge(forged, WITH(data_offset, 4096 + 96 + 8), "sevenn");
    length += forge(forged + length, good, "sevenn");
    CHECK_EQ(pwrite(at.fd, forged, length, (off_t)at.start + 4096), length);
    CHECK_EQ(walk(at), 0);
    CHECK_EQ(walked.count, 1);
    CHECK_OK(ia_writer_resume(at, &writer));
    CHECK_EQ(ia_writer_room(writer), 8);
    ia_writer_close(writer);

    /* A segment header that says its prefix is longer than itself. */
    struct ia_segment_header header = {
        .magic = IA_SEGMENT_MAGIC, .format = IA_FORMAT, .sequence = 5, .prefix_len = 4065};
    for (int i = 0; i < 2; i++) {
        header.crc = 0;
        header.crc = ia_crc32c(0, &header, sizeof header);
        CHECK_EQ(pwrite(at.fd, &header, sizeof header, (off_t)at.start), sizeof header);
        CHECK_EQ(ia_segment_probe(at, &header), i);
        header.prefix_len--;
    }
    close(at.fd);
}

/* Headers with right CRCs that say anything, and garbage with right beginnings: whatever a walk
 * accepts keeps to the segment (`walk` checks), and what is written afterwards does so too. */
static void random_headers(void)
{
    enum { ROUNDS = 3000 };
    static struct made m;
    struct ia_extent at = make_segment(MEMORY, 32768);
    static uint8_t bytes[32768];
    uint8_t guard[64];
    uint64_t seed = 77, accepted = 0;
    CHECK_EQ(ftruncate(at.fd, (off_t)(at.start + at.size + sizeof guard)), 0);
    for (int round = 0; round < ROUNDS; round++) {
        struct ia_writer *writer;
        CHECK_OK(ia_writer_open(at, 5, &writer));
        ia_writer_close(writer);
        memset(bytes, 0, sizeof bytes);
        uint32_t end = 0;
        for (int i = 0; i < 20 && end + 2000 < sizeof bytes; i++) {
            struct ia_block_header header = plain_header(5);
            header.url_len = (uint16_t)(check_random(&seed) % 300);
            header.version_len = (uint16_t)(check_random(&seed) % 100);
            header.header_len = (88u + header.url_len + header.version_len + 7) / 8 * 8;
            header.dead = (uint16_t)(check_random(&seed) % 2);
            uint64_t limit = check_random(&seed) % 8 ? 32768 : 1ull << 32;
            header.length = (uint32_t)(check_random(&seed) % (limit / 8));
            header.data_offset = (uint32_t)(check_random(&seed) % limit);
            if (check_random(&seed) % 32 == 0)
                header.header_len += 8;
            static const char names[400];
            end += forge(bytes + end, header, names);
            if (check_random(&seed) % 32 == 0)
                bytes[check_random(&seed) % end] ^= 4;
        }
        CHECK_EQ(pwrite(at.fd, bytes, end, (off_t)at.start + 4096), end);
        memset(guard, 0xee, sizeof guard);
        CHECK_EQ(pwrite(at.fd, guard, sizeof guard, (off_t)(at.start + at.size)), sizeof guard);
        CHECK_EQ(walk(at), 0);
        uint32_t count = walked.count;
        accepted += count;
        CHECK_OK(ia_writer_resume(at, &writer));
        CHECK(ia_writer_room(writer) <= at.size);
        uint64_t n = 0;
        while (append(writer, &m, n, 900) == 0)
            n++;
        ia_writer_close(writer);
        CHECK_EQ(walk(at), 0);
        CHECK_EQ(walked.count, count + n);
        for (uint64_t i = 0; i < n; i++)
            check_data(at, &walked.made[count + i].block, i);
        uint8_t after[sizeof guard];
        CHECK_EQ(pread(at.fd, after, sizeof after, (off_t)(at.start + at.size)), sizeof after);
        CHECK_MEM(guard, after, sizeof guard);
    }
    CHECK(accepted > ROUNDS / 4);
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
    RUN(any_flipped_byte_is_found);
    RUN(a_block_verifies_only_as_what_it_is);
    RUN(verifying_what_cannot_be_there);
    RUN(the_last_block_of_a_file_verifies);
    RUN(a_place_too_small_for_a_header_is_refused);
    RUN(damage_anywhere_in_the_headers_is_survived);
    RUN(hostile_headers_are_none);
    RUN(random_headers);
    return 0;
}
