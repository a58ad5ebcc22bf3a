/* The limit that read_many is held against: threads that pread pieces of a file into one buffer,
 * and do nothing else. Built and loaded by bench/pread.py. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <unistd.h>

struct job {
    int fd;
    const int64_t *offset, *length;
    int64_t count, batch;
    uint8_t *buffer;
    _Atomic int64_t next, failed;
};

static void *work(void *argument)
{
    struct job *job = argument;
    for (;;) {
        int64_t i = atomic_fetch_add(&job->next, 1);
        if (i >= job->count)
            return NULL;
        /* Piece i of a batch goes to its place in the batch's buffer, as in read_many. */
        int64_t in_batch = i % job->batch;
        uint8_t *to = job->buffer + in_batch * job->length[i];
        if (pread(job->fd, to, (size_t)job->length[i], job->offset[i]) != job->length[i])
            atomic_fetch_add(&job->failed, 1);
    }
}

/* Reads `count` pieces with `threads` threads; how many failed. */
int64_t pread_loop(int fd, const int64_t *offset, const int64_t *length, int64_t count,
                   int64_t batch, uint8_t *buffer, int threads)
{
    struct job job = {fd, offset, length, count, batch, buffer, 0, 0};
    pthread_t helper[64];
    int started = 0;
    while (started + 1 < threads && started < 64 &&
           pthread_create(&helper[started], NULL, work, &job) == 0)
        started++;
    work(&job);
    while (started > 0)
        pthread_join(helper[--started], NULL);
    return job.failed;
}
