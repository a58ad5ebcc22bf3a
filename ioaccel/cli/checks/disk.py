"""How fast a disk is, measured with a small file that has no name and so cannot be left behind."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LARGEST_FILE = 256 << 20
_WRITE = 4 << 20  # a block of the cache
_SYNC = 8 << 20  # how much may wait in memory: so little that a slow disk cannot overdraw the time
_READ = 128 << 10  # an image

# Together 2.5 s at most, and a write or a sync that had begun.
_WRITE_SECONDS, _READ_SECONDS, _CACHED_SECONDS = 1.2, 1.0, 0.3

# Pieces that the disk is told of in advance, as a client does with what it is to read.
_AHEAD = 64


@dataclass(frozen=True)
class Speeds:
    """Bytes a second; ``cold_read`` is None if the file never left memory."""

    write: float
    cold_read: float | None
    cached_read: float
    file_bytes: int


@contextmanager
def scratch_file(directory: str) -> Iterator[int]:
    """A descriptor of a file in this directory, without a name if the file system can do that."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
            raise
        fd, path = tempfile.mkstemp(prefix=".ioaccel-doctor-", dir=directory)
        os.unlink(path)
    try:
        yield fd
    finally:
        os.close(fd)


def has_fallocate(fd: int) -> bool:
    """Whether the file system sets space aside by itself. OSError if it has none left."""
    # Not posix_fallocate(3): the C library writes zeros where the file system cannot do it.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 0, ctypes.c_long(0), ctypes.c_long(_WRITE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def has_nowait(fd: int) -> bool:
    """Whether what is in the page cache can be read without waiting for the disk: preadv2(RWF_NOWAIT)."""
    os.pwrite(fd, b"ioaccel", 0)
    try:
        os.preadv(fd, [bytearray(7)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def has_locks(fd: int) -> bool:
    """Whether flock(2) works."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def measure(fd: int, free: int, clock: Callable[[], float] = time.monotonic) -> Speeds:
    """Writes a file of at most 256 MiB and a quarter of what is ``free``, and reads it. Takes 3 s at most."""
    size, write = _measure_write(fd, min(_LARGEST_FILE, free // 4), clock)
    pieces = list(range(0, size - _READ + 1, _READ))
    random.shuffle(pieces)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    is_cold = not _in_memory(fd, pieces)
    done, cold = _measure_cold(fd, pieces, clock)
    cached = _measure_cached(fd, pieces[:done], clock)
    return Speeds(write, cold if is_cold else None, cached, size)


def _measure_write(fd: int, limit: int, clock: Callable[[], float]) -> tuple[int, float]:
    data = os.urandom(_WRITE)
    size, begun = 0, clock()
    while size == 0 or (size + _WRITE <= limit and clock() - begun < _WRITE_SECONDS):
        os.pwrite(fd, data, size)
        size += _WRITE
        if size % _SYNC == 0:
            os.fdatasync(fd)
    os.fdatasync(fd)
    return size, size / max(clock() - begun, 1e-6)


def _in_memory(fd: int, pieces: list[int]) -> bool:
    """Whether most of the file is in memory still: on a tmpfs, all of it always is."""
    there = 0
    buffer = bytearray(4096)
    for at in pieces[:_AHEAD]:
        try:
            os.preadv(fd, [buffer], at, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:
            pass  # tmpfs has no RWF_NOWAIT, nor have network file systems, which cannot be told to forget
        there += 1
    return there > len(pieces[:_AHEAD]) // 2


def _measure_cold(fd: int, pieces: list[int], clock: Callable[[], float]) -> tuple[int, float]:
    buffer = bytearray(_READ)
    begun, done = clock(), 0
    for at in pieces[:_AHEAD]:
        os.posix_fadvise(fd, at, _READ, os.POSIX_FADV_WILLNEED)
    for number, at in enumerate(pieces):
        if number + _AHEAD < len(pieces):
            os.posix_fadvise(fd, pieces[number + _AHEAD], _READ, os.POSIX_FADV_WILLNEED)
        os.preadv(fd, [buffer], at)
        done += 1
        if clock() - begun > _READ_SECONDS:
            break
    return done, done * _READ / max(clock() - begun, 1e-6)


def _measure_cached(fd: int, pieces: list[int], clock: Callable[[], float]) -> float:
    buffer = bytearray(_READ)
    begun, done = clock(), 0
    while clock() - begun < _CACHED_SECONDS:
        for at in pieces[:_AHEAD]:
            done += os.preadv(fd, [buffer], at)
    return done / max(clock() - begun, 1e-6)
