/* What every file of the core may assume about the machine, and the loads that follow from it. */
#ifndef IA_BASE_H
#define IA_BASE_H

#include <stdint.h>
#include <string.h>
#include <sys/types.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "structs are read in place");
_Static_assert(sizeof(size_t) == 8 && sizeof(off_t) == 8, "sizes and file offsets have 64 bits");

/* A little-endian load at any alignment; one instruction on x86-64 and arm64. */
static inline uint64_t ia_load_u64(const void *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

#endif
