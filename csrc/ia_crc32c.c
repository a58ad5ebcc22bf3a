/* Two implementations: one around the CPU's CRC instruction, for x86-64 and arm64 alike, and
 * slicing-by-8 (Kounavis and Berry, 2005) for a CPU without it.
 *
 * Both invert the CRC at their beginning and end. In between, a crc is the raw shift register: a
 * polynomial over GF(2) modulo the Castagnoli polynomial, bit-reflected, so that bit 31 is the
 * coefficient of x^0 and bit 0 that of x^31. */

#include "ia_crc32c.h"

#include "ia_base.h"

#include <stdatomic.h>

/* ---- with the CPU's CRC and carry-less multiplication instructions ---------------------- */

#if defined(__x86_64__)

#include <immintrin.h>

#define HARDWARE "sse4.2+pclmul"
#define TARGET __attribute__((target("sse4.2,pclmul")))

static int have_hardware(void)
{
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

TARGET static inline uint64_t crc_u8(uint64_t crc, uint8_t v)
{
    return _mm_crc32_u8((uint32_t)crc, v);
}

TARGET static inline uint64_t crc_u64(uint64_t crc, uint64_t v) { return _mm_crc32_u64(crc, v); }

TARGET static inline uint64_t multiply(uint64_t a, uint64_t b)
{
    return (uint64_t)_mm_cvtsi128_si64(
        _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)a), _mm_cvtsi64_si128((long long)b), 0));
}

#elif defined(__aarch64__)

#include <arm_acle.h>
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#define HARDWARE "armv8-crc+pmull"
#define TARGET __attribute__((target("+crc+crypto")))

static int have_hardware(void)
{
    unsigned long wanted = HWCAP_CRC32 | HWCAP_PMULL;
    return (getauxval(AT_HWCAP) & wanted) == wanted;
}

TARGET static inline uint64_t crc_u8(uint64_t crc, uint8_t v)
{
    return __crc32cb((uint32_t)crc, v);
}

TARGET static inline uint64_t crc_u64(uint64_t crc, uint64_t v)
{
    return __crc32cd((uint32_t)crc, v);
}

TARGET static inline uint64_t multiply(uint64_t a, uint64_t b)
{
    return (uint64_t)vmull_p64((poly64_t)a, (poly64_t)b);
}

#endif

#ifdef HARDWARE

/* The CRC instruction takes 8 bytes a cycle, but its result is ready only three cycles later. So
 * three streams, each a third of the data, run interleaved, and are then put together:
 *
 *     crc(A B C) = crc(A) x^(8|BC|) + crc(B) x^(8|C|) + crc(C)
 *
 * crc_u64(0, v) multiplies v by x^32, and a carry-less product of two reflected 32-bit factors
 * comes out multiplied by x. Hence the -33 in the exponents of the constants. */

struct stride {
    size_t len;       /* bytes of one stream */
    uint64_t shift_1; /* x^(8 len - 33), reflected */
    uint64_t shift_2; /* x^(16 len - 33), reflected */
};

/* One combination costs as much as 200 bytes. The long stride makes that 2%; the short one brings
 * what is left, or a small block, down to 768 bytes that run in one stream. */
static const struct stride LONG = {4096, 0x82f89c77, 0x54a86326};
static const struct stride SHORT = {256, 0xb9e02b86, 0xdd7e3b0c};

/* Takes 3 * stride->len bytes. */
TARGET static inline uint64_t crc_three_streams(uint64_t a, const uint8_t *p,
                                                const struct stride *stride)
{
    uint64_t b = 0, c = 0;
    for (const uint8_t *end = p + stride->len; p < end; p += 8) {
        a = crc_u64(a, ia_load_u64(p));
        b = crc_u64(b, ia_load_u64(p + stride->len));
        c = crc_u64(c, ia_load_u64(p + 2 * stride->len));
    }
    return c ^ crc_u64(0, multiply(a, stride->shift_2) ^ multiply(b, stride->shift_1));
}

TARGET static uint32_t update_with_hardware(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    uint64_t c = ~crc;
    for (; len >= 3 * LONG.len; p += 3 * LONG.len, len -= 3 * LONG.len)
        c = crc_three_streams(c, p, &LONG);
    for (; len >= 3 * SHORT.len; p += 3 * SHORT.len, len -= 3 * SHORT.len)
        c = crc_three_streams(c, p, &SHORT);
    for (; len >= 8; p += 8, len -= 8)
        c = crc_u64(c, ia_load_u64(p));
    for (; len > 0; p++, len--)
        c = crc_u8(c, *p);
    return ~(uint32_t)c;
}

#endif

/* ---- with a table ------------------------------------------------------------------------ */

/* TABLE[k][i] is the crc of byte i followed by k zero bytes. It is linear in i, so eight entries,
 * those of the single bits of i, make all 256; and the compiler makes them, so TABLE is const. */
/* clang-format off */
#define BIT(i, n, entry) ((i) >> (n) & 1 ? (entry) : 0)
#define ROW1(i, a, b, c, d, e, f, g, h) \
    BIT(i, 0, a) ^ BIT(i, 1, b) ^ BIT(i, 2, c) ^ BIT(i, 3, d) ^ \
    BIT(i, 4, e) ^ BIT(i, 5, f) ^ BIT(i, 6, g) ^ BIT(i, 7, h)
#define ROW4(i, ...) \
    ROW1(i, __VA_ARGS__), ROW1(i + 1, __VA_ARGS__), ROW1(i + 2, __VA_ARGS__), ROW1(i + 3, __VA_ARGS__)
#define ROW16(i, ...) \
    ROW4(i, __VA_ARGS__), ROW4(i + 4, __VA_ARGS__), ROW4(i + 8, __VA_ARGS__), ROW4(i + 12, __VA_ARGS__)
#define ROW64(i, ...) \
    ROW16(i, __VA_ARGS__), ROW16(i + 16, __VA_ARGS__), ROW16(i + 32, __VA_ARGS__), ROW16(i + 48, __VA_ARGS__)
#define ROW(...) \
    {ROW64(0, __VA_ARGS__), ROW64(64, __VA_ARGS__), ROW64(128, __VA_ARGS__), ROW64(192, __VA_ARGS__)}

static const uint32_t TABLE[8][256] = {
    ROW(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf, 0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
    ROW(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8, 0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
    ROW(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5, 0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
    ROW(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6, 0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
    ROW(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91, 0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
    ROW(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f, 0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
    ROW(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53, 0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
    ROW(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da, 0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};
/* clang-format on */

static uint32_t update_with_table(uint32_t crc, const void *data, size_t len)
{
    const uint8_t *p = data;
    crc = ~crc;
    for (; len >= 8; p += 8, len -= 8) {
        uint64_t v = ia_load_u64(p) ^ crc;
        crc = TABLE[7][v & 255] ^ TABLE[6][v >> 8 & 255] ^ TABLE[5][v >> 16 & 255] ^
              TABLE[4][v >> 24 & 255] ^ TABLE[3][v >> 32 & 255] ^ TABLE[2][v >> 40 & 255] ^
              TABLE[1][v >> 48 & 255] ^ TABLE[0][v >> 56];
    }
    for (; len > 0; p++, len--)
        crc = crc >> 8 ^ TABLE[0][(crc ^ *p) & 255];
    return ~crc;
}

/* ---- which one ---------------------------------------------------------------------------- */

const struct ia_crc32c_implementation *ia_crc32c_implementation(unsigned n)
{
#ifdef HARDWARE
    static const struct ia_crc32c_implementation hardware = {HARDWARE, update_with_hardware};
    if (have_hardware()) {
        if (n == 0)
            return &hardware;
        n--;
    }
#endif
    static const struct ia_crc32c_implementation table = {"table", update_with_table};
    return n == 0 ? &table : NULL;
}

uint32_t ia_crc32c(uint32_t crc, const void *data, size_t len)
{
    /* A constant that is not known before run time, rather than state: threads that race to set it
     * all store the same value, and no other function sees it. */
    static _Atomic(const struct ia_crc32c_implementation *) chosen;
    const struct ia_crc32c_implementation *it = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (it == NULL) {
        it = ia_crc32c_implementation(0);
        atomic_store_explicit(&chosen, it, memory_order_relaxed);
    }
    return it->update(crc, data, len);
}
