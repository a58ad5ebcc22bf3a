#include "ia_siphash.h"

#include "ia_base.h"

struct state {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate_left(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline void round_once(struct state *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotate_left(s->v1, 13) ^ s->v0;
    s->v3 = rotate_left(s->v3, 16) ^ s->v2;
    s->v0 = rotate_left(s->v0, 32);

    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotate_left(s->v1, 17) ^ s->v2;
    s->v3 = rotate_left(s->v3, 21) ^ s->v0;
    s->v2 = rotate_left(s->v2, 32);
}

static inline void compress(struct state *s, uint64_t word)
{
    s->v3 ^= word;
    round_once(s);
    round_once(s);
    s->v0 ^= word;
}

static inline uint64_t finish(struct state *s)
{
    for (int i = 0; i < 4; i++)
        round_once(s);
    return s->v0 ^ s->v1 ^ s->v2 ^ s->v3;
}

/* The 0 to 7 bytes behind the last whole word, little-endian. */
static inline uint64_t load_tail(const uint8_t *p, size_t len)
{
    uint64_t word = 0;
    for (size_t i = 0; i < len; i++)
        word |= (uint64_t)p[i] << 8 * i;
    return word;
}

void ia_siphash128(const uint8_t key[16], const void *data, size_t len, uint64_t out[2])
{
    const uint8_t *p = data;
    size_t tail = len % 8;
    uint64_t k0 = ia_load_u64(key), k1 = ia_load_u64(key + 8);

    /* The initial state spells "somepseudorandomlygeneratedbytes". 0xee and 0xdd are what the
     * reference implementation tells the 128-bit result from the 64-bit one with. */
    struct state s = {
        k0 ^ 0x736f6d6570736575,
        k1 ^ 0x646f72616e646f6d ^ 0xee,
        k0 ^ 0x6c7967656e657261,
        k1 ^ 0x7465646279746573,
    };
    for (size_t n = len / 8; n > 0; n--, p += 8)
        compress(&s, ia_load_u64(p));
    compress(&s, (uint64_t)len << 56 | load_tail(p, tail));

    s.v2 ^= 0xee;
    out[0] = finish(&s);
    s.v1 ^= 0xdd;
    out[1] = finish(&s);
}
