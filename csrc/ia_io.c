#define _GNU_SOURCE
#include "ia_io.h"

#include <errno.h>
#include <unistd.h>

ssize_t ia_pread_some(int fd, void *buffer, size_t length, off_t offset)
{
    size_t done = 0;
    while (done < length) {
        ssize_t got = pread(fd, (char *)buffer + done, length - done, offset + (off_t)done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

int ia_pwrite_all(int fd, const void *buffer, size_t length, off_t offset)
{
    struct iovec part = {(void *)buffer, length};
    return ia_pwritev_all(fd, &part, 1, offset);
}

int ia_pwritev_all(int fd, struct iovec *parts, int count, off_t offset)
{
    while (count > 0) {
        if (parts->iov_len == 0) {
            parts++;
            count--;
            continue;
        }
        ssize_t put = pwritev(fd, parts, count, offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return put < 0 ? -errno : -EIO;
        offset += put;
        while (count > 0 && (size_t)put >= parts->iov_len) {
            put -= (ssize_t)parts->iov_len;
            parts++;
            count--;
        }
        if (count > 0) {
            parts->iov_base = (char *)parts->iov_base + put;
            parts->iov_len -= (size_t)put;
        }
    }
    return 0;
}
