#include "check.h"
#include "ia_crc32c.h"

/* The definition, a bit at a time. */
static uint32_t reference(uint32_t crc, const uint8_t *p, size_t len)
{
    crc = ~crc;
    for (; len > 0; p++, len--) {
        crc ^= *p;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void check_all(uint32_t crc, const void *data, size_t len, uint32_t expected)
{
    const struct ia_crc32c_implementation *it;
    CHECK_EQ(ia_crc32c(crc, data, len), expected);
    for (unsigned n = 0; (it = ia_crc32c_implementation(n)) != NULL; n++)
        CHECK_EQ(it->update(crc, data, len), expected);
}

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)check_random(&seed);
}

static void published_vectors(void)
{
    uint8_t data[32];
    check_all(0, "", 0, 0);
    check_all(0, NULL, 0, 0);
    check_all(0x12345678, NULL, 0, 0x12345678);
    check_all(0, "123456789", 9, 0xe3069283);

    /* RFC 3720, appendix B.4 */
    memset(data, 0, sizeof data);
    check_all(0, data, sizeof data, 0x8a9136aa);
    memset(data, 0xff, sizeof data);
    check_all(0, data, sizeof data, 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        data[i] = (uint8_t)i;
    check_all(0, data, sizeof data, 0x46dd794e);
    for (int i = 0; i < 32; i++)
        data[i] = (uint8_t)(31 - i);
    check_all(0, data, sizeof data, 0x113fdb5c);
    static const uint8_t read_command[48] = {
        0x01, 0xc0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0,
    };
    check_all(0, read_command, sizeof read_command, 0xd9963a56);
}

static void every_length_and_alignment(void)
{
    enum { LONGEST = 5000 };
    static uint8_t data[LONGEST + 16];
    fill(data, sizeof data, 1);
    for (size_t align = 0; align < 16; align++) {
        uint32_t expected = 0;
        for (size_t len = 0; len <= LONGEST; len++) {
            if (len > 0)
                expected = reference(expected, data + align + len - 1, 1);
            check_all(0, data + align, len, expected);
        }
    }
}

/* Lengths at which the strides of the interleaved streams begin and end, and a random value to
 * continue from. */
static void long_strides(void)
{
    enum { LONGEST = 5 * 3 * 4096 };
    static uint8_t data[LONGEST + 16];
    uint64_t seed = 2;
    fill(data, sizeof data, seed);
    for (size_t len = 768; len <= LONGEST; len += 768) {
        for (size_t more = 0; more < 16; more++) {
            uint32_t crc = (uint32_t)check_random(&seed);
            check_all(crc, data, len + more, reference(crc, data, len + more));
        }
    }
}

static void pieces_equal_the_whole(void)
{
    static uint8_t data[100000];
    uint64_t seed = 3;
    fill(data, sizeof data, seed);
    uint32_t whole = ia_crc32c(0, data, sizeof data);
    CHECK_EQ(whole, reference(0, data, sizeof data));
    for (int round = 0; round < 50; round++) {
        uint32_t crc = 0;
        for (size_t at = 0; at < sizeof data;) {
            size_t len = check_random(&seed) % 20000;
            if (len > sizeof data - at)
                len = sizeof data - at;
            crc = ia_crc32c(crc, data + at, len);
            at += len;
        }
        CHECK_EQ(crc, whole);
    }
}

static void implementations_are_named_and_end(void)
{
    unsigned n = 0;
    while (ia_crc32c_implementation(n) != NULL)
        printf("    %s\n", ia_crc32c_implementation(n++)->name);
    CHECK(n >= 1);
    CHECK(strcmp(ia_crc32c_implementation(n - 1)->name, "table") == 0);
    CHECK(ia_crc32c_implementation(n + 1) == NULL);
}

int main(void)
{
    RUN(implementations_are_named_and_end);
    RUN(published_vectors);
    RUN(every_length_and_alignment);
    RUN(long_strides);
    RUN(pieces_equal_the_whole);
    return 0;
}
