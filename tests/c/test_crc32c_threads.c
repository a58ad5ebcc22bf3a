#include "check.h"
#include "ia_crc32c.h"

#include <pthread.h>

enum { THREADS = 4 };

static void *first_call(void *start)
{
    pthread_barrier_wait(start);
    CHECK_EQ(ia_crc32c(0, "123456789", 9), 0xe3069283);
    return NULL;
}

/* The implementation is chosen in the first call: here, in four of them at once. */
static void threads_race_to_the_first_call(void)
{
    pthread_t thread[THREADS];
    pthread_barrier_t start;
    CHECK_EQ(pthread_barrier_init(&start, NULL, THREADS), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, first_call, &start), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_join(thread[i], NULL), 0);
    CHECK_EQ(pthread_barrier_destroy(&start), 0);
}

int main(void)
{
    RUN(threads_race_to_the_first_call);
    return 0;
}
