"""The C loop of pread: what the machine itself gives."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

Integers = np.ndarray[Any, np.dtype[np.int64]]


class PreadLoop:
    """Reads pieces of a file into a buffer that holds ``batch`` of them, the longest ``longest`` bytes."""

    def __init__(self, scratch: Path, batch: int, longest: int) -> None:
        library = scratch / "pread_loop.so"
        source = Path(__file__).with_name("pread_loop.c")
        command = ["cc", "-O3", "-shared", "-fPIC", "-pthread", "-o", str(library), str(source)]
        subprocess.run(command, check=True, timeout=60)
        self._loop = ctypes.CDLL(str(library)).pread_loop
        self._loop.restype = ctypes.c_int64
        pointer = ctypes.POINTER(ctypes.c_int64)
        self._loop.argtypes = [
            ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int,
        ]  # fmt: skip
        self._batch = batch
        self._buffer = np.zeros(batch * longest, np.uint8)

    def __call__(self, fd: int, offsets: Integers, lengths: Integers, threads: int) -> None:
        """Reads all pieces, ``threads`` (up to 65) at a time. OSError if one failed."""
        pointer = ctypes.POINTER(ctypes.c_int64)
        failed = self._loop(
            fd, offsets.ctypes.data_as(pointer), lengths.ctypes.data_as(pointer), len(lengths),
            self._batch, self._buffer.ctypes.data_as(ctypes.c_void_p), threads,
        )  # fmt: skip
        if failed:
            raise OSError(f"{failed} preads failed")
