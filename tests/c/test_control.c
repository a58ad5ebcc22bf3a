#define _GNU_SOURCE
#include "check.h"
#include "fixture.h"
#include "ia_control.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* ---- the page ---------------------------------------------------------------------------- */

static struct ia_control *make(int *fd)
{
    static const uint32_t segments[] = {3, 0, 5};
    static const uint64_t sizes[] = {1 << 20, 1 << 21, 3ull << 32};
    struct ia_control *control;
    CHECK_OK(ia_control_create(3, segments, sizes, fd, &control));
    return control;
}

static void a_reader_sees_what_was_made(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    const struct ia_control *map;
    CHECK_OK(ia_control_map(fd, &map));
    CHECK_EQ(map->shard_count, 3);
    CHECK_EQ(map->total_segments, 8);
    CHECK_EQ(map->segment_size[2], 3ull << 32);
    CHECK_EQ(ia_control_bytes(map), IA_CONTROL_SIZE + 8 * 4);
    CHECK_EQ(ia_segment_slot(map, 0, 0), 0);
    CHECK_EQ(ia_segment_slot(map, 0, 2), 2);
    CHECK_EQ(ia_segment_slot(map, 0, 3), UINT32_MAX);
    CHECK_EQ(ia_segment_slot(map, 1, 0), UINT32_MAX);
    CHECK_EQ(ia_segment_slot(map, 2, 0), 3);
    CHECK_EQ(ia_segment_slot(map, 2, 4), 7);
    CHECK_EQ(ia_segment_slot(map, 2, UINT32_MAX), UINT32_MAX);
    CHECK_EQ(ia_segment_slot(map, 3, 0), UINT32_MAX);
    CHECK_EQ(ia_segment_slot(map, UINT32_MAX, 0), UINT32_MAX);
    CHECK_EQ(ia_current_epoch(map), 0);
    for (int i = 0; i < 8; i++)
        CHECK_EQ(ia_generations(map)[i], 1);
    ia_control_unmap(map);
    ia_control_unmap(control);
    close(fd);
}

static void forgetting_is_seen_by_readers(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    const struct ia_control *map;
    CHECK_OK(ia_control_map(fd, &map));
    struct ia_location at = {.shard = 2, .segment = 4, .generation = 1};
    CHECK_EQ(ia_still_valid(map, &at), 0); /* nobody owns it */
    atomic_store(&control->owner, 1);
    CHECK_EQ(ia_still_valid(map, &at), 1);
    CHECK_EQ(ia_segment_forget(control, 2, 3), 2);
    CHECK_EQ(ia_still_valid(map, &at), 1);
    CHECK_EQ(ia_segment_forget(control, 2, 4), 2);
    CHECK_EQ(ia_still_valid(map, &at), 0);
    at.generation = 2;
    CHECK_EQ(ia_still_valid(map, &at), 1);
    at.segment = 5;
    CHECK_EQ(ia_still_valid(map, &at), 0);
    CHECK_EQ(ia_segment_forget(control, 2, 5), 0);
    CHECK_EQ(ia_segment_forget(control, 1, 0), 0);
    CHECK_EQ(ia_generations(map)[2], 1);
    ia_control_unmap(map);
    ia_control_unmap(control);
    close(fd);
}

static void counts_that_do_not_fit_are_refused(void)
{
    uint32_t segments[IA_MAX_SHARDS + 1] = {0};
    uint64_t sizes[IA_MAX_SHARDS + 1] = {0};
    struct ia_control *control;
    int fd;
    CHECK_EQ(ia_control_create(0, segments, sizes, &fd, &control), -EINVAL);
    CHECK_EQ(ia_control_create(3, segments, sizes, &fd, &control), -EINVAL); /* no segment at all */
    segments[0] = 1;
    CHECK_EQ(ia_control_create(IA_MAX_SHARDS + 1, segments, sizes, &fd, &control), -EINVAL);
    segments[1] = UINT32_MAX - 1;
    CHECK_EQ(ia_control_create(2, segments, sizes, &fd, &control), -EINVAL);
    for (uint32_t i = 0; i < IA_MAX_SHARDS; i++)
        segments[i] = i;
    CHECK_OK(ia_control_create(IA_MAX_SHARDS, segments, sizes, &fd, &control));
    CHECK_EQ(ia_segment_slot(control, IA_MAX_SHARDS - 1, IA_MAX_SHARDS - 2),
             control->total_segments - 1);
    ia_control_unmap(control);
    close(fd);
}

static void what_is_no_control_page_is_not_mapped(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    const struct ia_control *map;
    size_t bytes = ia_control_bytes(control);
    CHECK_EQ(ia_control_map(-1, &map), -EBADF);
    struct {
        size_t at;
        uint8_t flip;
    } wrong[] = {
        {0, 1},                                           /* magic */
        {8, 1},                                           /* format */
        {12, 4},                                          /* shard count 7 */
        {12, 0x40},                                       /* shard count 67 */
        {20, 1},                                          /* total segments */
        {offsetof(struct ia_control, shards), 1},         /* first segment of shard 0 */
        {offsetof(struct ia_control, shards) + 20, 0x10}, /* segment count of shard 2 */
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ((uint8_t *)control)[wrong[i].at] ^= wrong[i].flip;
        CHECK_EQ(ia_control_map(fd, &map), -EPROTO);
        ((uint8_t *)control)[wrong[i].at] ^= wrong[i].flip;
        CHECK_OK(ia_control_map(fd, &map));
        ia_control_unmap(map);
    }
    CHECK_EQ(ftruncate(fd, (off_t)bytes - 1), 0);
    CHECK_EQ(ia_control_map(fd, &map), -EPROTO);
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(ia_control_map(fd, &map), -EPROTO);
    munmap(control, bytes);
    close(fd);
}

/* ---- the owner --------------------------------------------------------------------------- */

/* qemu's user mode has no robust lists. */
static int can_hold(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    pid_t child = fork();
    if (child == 0)
        _exit(ia_owner_hold(control) == -ENOSYS);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    ia_control_unmap(control);
    close(fd);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static _Noreturn void *sleep_long(void *argument)
{
    (void)argument;
    for (;;)
        pause();
}

enum end { KILL, EXIT, RETURN_FROM_MAIN_THREAD, SEGFAULT, EXEC, ENDS };

static void end_in(enum end how)
{
    switch (how) {
    case EXIT:
        _exit(0);
    case RETURN_FROM_MAIN_THREAD:
        exit(0);
    case SEGFAULT:
        signal(SIGSEGV, SIG_DFL); /* a sanitizer's handler would print */
        raise(SIGSEGV);
        break;
    case EXEC: /* the process lives on, and no longer is an engine */
        execl("/bin/sleep", "sleep", "10", NULL);
        break;
    default:
        sleep_long(NULL);
    }
}

/* An engine: owns the page, holds a lock on `path` and has other threads, which share its files. */
static pid_t start_engine(const char *path, struct ia_control *control, enum end how)
{
    int ready[2], go[2];
    char byte;
    CHECK_EQ(pipe(ready), 0);
    CHECK_EQ(pipe(go), 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        int lock = open(path, O_RDWR | O_CLOEXEC);
        pthread_t thread;
        if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) < 0 ||
            pthread_create(&thread, NULL, sleep_long, NULL) != 0 || ia_owner_hold(control) < 0 ||
            pthread_create(&thread, NULL, sleep_long, NULL) != 0 || write(ready[1], "x", 1) != 1 ||
            read(go[0], &byte, 1) != 1)
            _exit(99);
        end_in(how);
        _exit(99);
    }
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    CHECK_EQ(write(go[1], "x", 1), 1);
    for (int i = 0; i < 2; i++) {
        close(ready[i]);
        close(go[i]);
    }
    return child;
}

/* As soon as a successor can lock the directory, readers must see that the page has no owner. */
static void the_owner_is_gone_before_its_lock(void)
{
    enum { TIMES = 300 };
    char path[] = "/var/tmp/ioaccel-test-XXXXXX";
    int lock = mkstemp(path);
    CHECK(lock >= 0);
    int alive = 0;
    for (int i = 0; i < TIMES; i++) {
        enum end how = i < 2 * ENDS ? (enum end)(i % ENDS) : KILL;
        int fd;
        struct ia_control *control = make(&fd);
        const struct ia_control *map;
        CHECK_OK(ia_control_map(fd, &map));
        pid_t child = start_engine(path, control, how);
        if (how == KILL) {
            CHECK_EQ(ia_owner_alive(map), 1);
            alive += flock(lock, LOCK_EX | LOCK_NB) < 0;
            CHECK_EQ(kill(child, SIGKILL), 0);
        }
        while (flock(lock, LOCK_EX | LOCK_NB) < 0)
            CHECK_EQ(errno, EWOULDBLOCK);
        CHECK_EQ(ia_owner_alive(map), 0);
        CHECK_EQ(flock(lock, LOCK_UN), 0);
        if (how == EXEC)
            CHECK_EQ(kill(child, SIGKILL), 0);
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(!WIFEXITED(status) || WEXITSTATUS(status) != 99);
        CHECK_EQ(ia_owner_alive(map), 0);
        ia_control_unmap(map);
        ia_control_unmap(control);
        close(fd);
    }
    CHECK_EQ(alive, TIMES - 2 * (ENDS - 1));
    close(lock);
    unlink(path);
}

/* A child of the engine inherits the page; its end is not the engine's. */
static void a_forked_child_is_not_the_owner(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    CHECK_OK(ia_owner_hold(control));
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(ia_owner_alive(control), 1);
    CHECK_EQ(ia_owner_hold(control), -EALREADY);
    CHECK_EQ(ia_owner_alive(control), 1);
    ia_owner_release(control);
    CHECK_EQ(ia_owner_alive(control), 0);
    close(fd); /* and stays mapped */
}

/* What the kernel does to the word of a dead owner does not bring back one that has given up. */
static void an_owner_that_gave_up_stays_gone(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    pid_t child = fork();
    if (child == 0) {
        if (ia_owner_hold(control) < 0 || !ia_owner_alive(control))
            _exit(99);
        ia_owner_release(control);
        _exit(ia_owner_alive(control) ? 99 : 0);
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK_EQ(ia_owner_alive(control), 0);
    CHECK_EQ(ia_owner_hold(control), -EALREADY); /* a page has one owner in its life */
    ia_control_unmap(control);
    close(fd);
}

/* The thread that holds the page takes no signal that is meant for the engine. */
static volatile sig_atomic_t handled_in;
static void handler(int number)
{
    (void)number;
    handled_in = (sig_atomic_t)gettid();
}

static void signals_go_to_the_other_threads(void)
{
    int fd;
    struct ia_control *control = make(&fd);
    CHECK_OK(ia_owner_hold(control));
    sigset_t usr1, before;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    signal(SIGUSR1, handler);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &usr1, &before), 0);
    CHECK(!sigismember(&before, SIGUSR1)); /* as it was before ia_owner_hold */
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    struct timespec moment = {0, 20000000};
    nanosleep(&moment, NULL);
    CHECK_EQ(handled_in, 0);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    CHECK_EQ(handled_in, gettid());
    ia_owner_release(control);
    close(fd);
}

int main(void)
{
    CHECK_EQ(setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0}), 0);
    RUN(a_reader_sees_what_was_made);
    RUN(forgetting_is_seen_by_readers);
    RUN(counts_that_do_not_fit_are_refused);
    RUN(what_is_no_control_page_is_not_mapped);
    if (!can_hold()) {
        printf("  (no robust lists here: the owner is not tested)\n");
        return 0;
    }
    RUN(the_owner_is_gone_before_its_lock);
    RUN(a_forked_child_is_not_the_owner);
    RUN(an_owner_that_gave_up_stays_gone);
    RUN(signals_go_to_the_other_threads);
    return 0;
}
