"""Files that are on the disk and not in memory, and how fast the disk gives them back."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.measure import seconds
from bench.pread import PreadLoop

READERS = 64
RESIDENT = 0.01  # the share of a file that may be left in memory


def forget(path: Path) -> None:
    """Takes a file out of the page cache. OSError if it stays there.

    The file alone, so that nobody's programs are read from the disk meanwhile; as root all caches are
    dropped where that is not enough.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)  # dirty pages would stay
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if _resident(fd) > RESIDENT and os.geteuid() == 0:
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("1")
        if (left := _resident(fd)) > RESIDENT:
            raise OSError(f"{left:.0%} of {path} stay in memory")
    finally:
        os.close(fd)


def disk_rate(path: Path, piece: int, loop: PreadLoop) -> float:
    """Bytes a second of a cold file that 64 threads read in pieces, each once, in a random order."""
    fd = os.open(path, os.O_RDONLY)
    try:
        offsets = [at for start, stop in _written(fd) for at in range(start, stop - piece + 1, piece)]
        random.shuffle(offsets)
        lengths = np.full(len(offsets), piece, np.int64)
        taken = seconds(lambda: loop(fd, np.array(offsets, np.int64), lengths, READERS))
    finally:
        os.close(fd)
    return len(offsets) * piece / taken


def _written(fd: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse or preallocated file that hold data: others cost the disk nothing."""
    size, stop = os.fstat(fd).st_size, 0
    while stop < size:
        try:
            start = os.lseek(fd, stop, os.SEEK_DATA)
        except OSError:  # ENXIO: the rest is a hole
            return
        stop = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, stop


def _resident(fd: int) -> float:
    """The share of a file's data that is in memory."""
    size = os.fstat(fd).st_size
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as mapped:
        view = np.frombuffer(mapped, np.uint8)
        arguments = (
            ctypes.c_void_p(view.ctypes.data),
            ctypes.c_size_t(size),
            ctypes.c_void_p(pages.ctypes.data),
        )
        failed = ctypes.CDLL(None).mincore(*arguments)
        del view  # or the map could not be closed
    if failed:
        raise OSError(f"mincore failed on descriptor {fd}")
    written = sum(stop - start for start, stop in _written(fd))
    return float((pages & 1).sum()) * mmap.PAGESIZE / max(written, 1)
