#define _GNU_SOURCE
#include "segments.h"

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
