/* Positioned reads and writes that go on after EINTR and short transfers. Any thread. */
#ifndef IA_IO_H
#define IA_IO_H

#include <sys/types.h>
#include <sys/uio.h>

/* Reads until `length` bytes or the end of the file; returns how many, or -errno. */
ssize_t ia_pread_some(int fd, void *buffer, size_t length, off_t offset);

/* 0 or -errno. */
int ia_pwrite_all(int fd, const void *buffer, size_t length, off_t offset);

/* The same for several parts, which are changed. */
int ia_pwritev_all(int fd, struct iovec *parts, int count, off_t offset);

#endif
