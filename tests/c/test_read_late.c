#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_read.h"
#include "ia_segment.h"

#include <pthread.h>

/* ---- threads that are scheduled late ----------------------------------------------------- */

enum { MOST = 16 };
static struct {
    void *(*start)(void *);
    void *argument;
} late[MOST];
static int late_count, refuse_after = MOST;

/* Instead of libc's: a thread that begins when the test says so. */
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument)
{
    (void)attributes;
    *thread = 0;
    if (late_count == refuse_after)
        return EAGAIN;
    late[late_count].start = start;
    late[late_count++].argument = argument;
    return 0;
}

int pthread_detach(pthread_t thread)
{
    CHECK_EQ(thread, 0);
    return 0;
}

/* ---- a copy ------------------------------------------------------------------------------ */

enum { SIZE = 1000, SEGMENT_SIZE = 1 << 20 };

/* Everything that the copy was given is gone when its helpers begin at last: they must not look. */
static void copy_with_helpers_that_come_late(uint32_t count, uint32_t threads, int expected)
{
    int control_fd;
    struct ia_control *control;
    struct ia_writer *writer;
    struct ia_view *view = calloc(1, sizeof *view);
    struct ia_piece *pieces = calloc(count, sizeof *pieces);
    uint8_t *buffer = malloc((size_t)count * SIZE);
    CHECK_OK(
        ia_control_create(1, (uint32_t[]){1}, (uint64_t[]){SEGMENT_SIZE}, &control_fd, &control));
    atomic_store(&control->owner, 1); /* alive, as far as a reader can see */
    view->control = control;
    view->fd[0] = make_file(MEMORY, IA_DATA_START + SEGMENT_SIZE);
    struct ia_extent at = {view->fd[0], SEGMENT_SIZE, IA_DATA_START};
    CHECK_OK(ia_writer_open(at, 1, &writer));
    for (uint32_t i = 0; i < count; i++) {
        uint8_t data[SIZE];
        struct ia_block block = {.length = SIZE, .url = "u", .url_len = 1, .version = ""};
        fill_pattern(data, i, 0, SIZE);
        CHECK_EQ(ia_writer_append(writer, &block, data), 0);
        pieces[i] = (struct ia_piece){
            .at = {.generation = 1, .offset = block.data_offset, .length = SIZE},
            .length = SIZE,
            .to = buffer + i * SIZE,
        };
    }
    late_count = 0;
    CHECK_EQ(ia_copy(view, pieces, count, threads), 0);
    CHECK_EQ(late_count, expected);
    for (uint32_t i = 0; i < count; i++)
        CHECK(has_pattern(buffer + i * SIZE, i, 0, SIZE));

    ia_writer_close(writer);
    close(view->fd[0]);
    ia_control_unmap(control);
    close(control_fd);
    free(view);
    free(pieces);
    free(buffer);
    for (int i = 0; i < late_count; i++)
        CHECK(late[i].start(late[i].argument) == NULL);
}

static void a_copy_does_not_wait_for_helpers(void)
{
    copy_with_helpers_that_come_late(1, 8, 0); /* nothing to share */
    copy_with_helpers_that_come_late(2, 8, 1);
    copy_with_helpers_that_come_late(100, 1, 0);
    copy_with_helpers_that_come_late(100, 4, 3);
    copy_with_helpers_that_come_late(100, UINT32_MAX, 16);
}

static void a_copy_does_without_threads_that_cannot_be_made(void)
{
    refuse_after = 0;
    copy_with_helpers_that_come_late(100, 4, 0);
    refuse_after = 2;
    copy_with_helpers_that_come_late(100, 4, 2);
    refuse_after = MOST;
}

int main(void)
{
    RUN(a_copy_does_not_wait_for_helpers);
    RUN(a_copy_does_without_threads_that_cannot_be_made);
    return 0;
}
