/* The test framework: a test is a function, and the first CHECK that fails ends the process. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                        \
    do {                                                        \
        if (!(condition))                                       \
            check_failed(__FILE__, __LINE__, "%s", #condition); \
    } while (0)

/* Integers; both are shown. */
#define CHECK_EQ(a, b)                                                                           \
    do {                                                                                         \
        long long a_ = (long long)(a), b_ = (long long)(b);                                      \
        if (a_ != b_)                                                                            \
            check_failed(__FILE__, __LINE__, "%s is %lld = 0x%llx, %s is %lld = 0x%llx", #a, a_, \
                         (unsigned long long)a_, #b, b_, (unsigned long long)b_);                \
    } while (0)

/* A call that returns 0 or more, or -errno. */
#define CHECK_OK(call)                                                                  \
    do {                                                                                \
        long long result_ = (long long)(call);                                          \
        if (result_ < 0)                                                                \
            check_failed(__FILE__, __LINE__, "%s: %s", #call, strerror((int)-result_)); \
    } while (0)

#define CHECK_MEM(a, b, len) CHECK(memcmp(a, b, len) == 0)

/* In main: RUN(test_a); RUN(test_b); return 0; */
#define RUN(test) (test(), (void)printf("  %s\n", #test), (void)fflush(stdout))

#define check_failed(file, line, ...)                                                       \
    (fprintf(stderr, "%s:%d: in %s: ", file, line, __func__), fprintf(stderr, __VA_ARGS__), \
     fputc('\n', stderr), exit(1))

/* SplitMix64: the same numbers in every run. Any seed will do. */
static inline uint64_t check_random(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

#endif
