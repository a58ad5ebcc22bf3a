/* CRC-32C (Castagnoli; RFC 3720, appendix B.4), at the speed of memory.
 *
 * Threads: every function may be called from any number of threads at once.
 * Ownership: data is only read; nothing is allocated.
 */
#ifndef IA_CRC32C_H
#define IA_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of a message: of data alone if crc is 0, else of data behind the message that crc is
 * the CRC of. So crc(a + b) == ia_crc32c(ia_crc32c(0, a), b), as in google-crc32c's extend().
 * data may have any alignment, and may be NULL if len is 0.
 *
 * Cost: about 15 ns for 100 bytes and 3 us for 64 KiB with the CPU's instructions; 65 ns and 40 us
 * with the table. */
uint32_t ia_crc32c(uint32_t crc, const void *data, size_t len);

/* One way to compute it. update has the contract of ia_crc32c. */
struct ia_crc32c_implementation {
    const char *name;
    uint32_t (*update)(uint32_t crc, const void *data, size_t len);
};

/* The n-th implementation that this CPU can run, fastest first, or NULL if there are n or fewer.
 * The 0th always exists and is the one behind ia_crc32c; the others are for tests and `doctor`. */
const struct ia_crc32c_implementation *ia_crc32c_implementation(unsigned n);

#endif
