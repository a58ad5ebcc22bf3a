/* SipHash-2-4 with a 128-bit result (Aumasson and Bernstein, 2012): the hash behind block keys.
 *
 * It is keyed because URLs come from outside: without the key nobody can construct two URLs that
 * meet in one block. 128 bits, because a cache must never confuse two objects: at 10^10 blocks
 * the odds of any collision are 10^-19.
 *
 * Threads: any number at once. Ownership: nothing is kept or allocated.
 */
#ifndef IA_SIPHASH_H
#define IA_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/* Hashes len bytes at data, of any alignment; data may be NULL if len is 0. out[0] is the first
 * half of the 16 bytes of the published test vectors, out[1] the second, each little-endian.
 *
 * Cost: about 20 ns, and 0.4 ns a byte. */
void ia_siphash128(const uint8_t key[16], const void *data, size_t len, uint64_t out[2]);

#endif
