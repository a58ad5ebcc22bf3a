"""The file of a shard."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from ioaccel.engine.shard import open_shard

MIB = 1 << 20
SYS_CACHESTAT = 451  # Linux 6.5


class CacheStat(ctypes.Structure):
    """``struct cachestat``: pages of a part of a file."""

    _fields_ = [
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    ]


def dirty_pages(fd: int, size: int) -> int:
    """How many of the file's first pages nobody has begun to send to the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    part, found = (ctypes.c_uint64 * 2)(0, size), CacheStat()
    if libc.syscall(SYS_CACHESTAT, fd, part, ctypes.byref(found), 0) != 0:
        pytest.skip(f"no cachestat here: {os.strerror(ctypes.get_errno())}")
    return int(found.dirty)


@pytest.mark.parametrize("before", [b"", b"\0" * MIB], ids=["new", "torn"])
def test_a_reader_that_leaves_does_not_wait_for_the_disk(tmp_path: Path, before: bytes) -> None:
    """ext4 and XFS write out a file that was truncated to nothing when the first descriptor of it is closed:
    0.2 s of a worker's end, after a first epoch of 1 GB."""
    (tmp_path / "shard.data").write_bytes(before)
    if not before:
        (tmp_path / "shard.data").unlink()
    shard = open_shard(0, tmp_path, 64 * MIB, [str(tmp_path)])
    try:
        os.pwrite(shard.fd, os.urandom(16 * MIB), MIB)
        written = dirty_pages(shard.fd, 32 * MIB)
        if written < 16 * MIB // 4096:
            pytest.skip("this file system keeps no dirty pages")
        os.close(shard.reader_fd())
        assert dirty_pages(shard.fd, 32 * MIB) > written // 2  # the kernel may have begun by itself
    finally:
        shard.close()
