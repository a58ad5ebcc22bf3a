"""The bytes of a workload, and the truth about them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from bench.workload import Workload

BUCKET = "bench"
PREFIX = "o/"

# Columns of the truth: a row a sample.
FILE, OFFSET, LENGTH, CRC = range(4)
Truth = np.ndarray[Any, np.dtype[np.int64]]


def write(directory: Path, workload: Workload) -> Truth:
    """Makes the files of a workload, random bytes and the same each time, and returns the truth."""
    directory.mkdir(parents=True)
    generator = np.random.default_rng(1)
    truth = np.empty((workload.samples, 4), np.int64)
    row = 0
    for index in range(workload.files):
        with open(directory / name(index), "wb") as file:
            for _ in range(workload.samples_per_file):
                # A quarter of the mean at least: a normal distribution has no end.
                size = max(workload.size // 4, round(generator.normal(workload.size, workload.size_sd)))
                data = generator.bytes(size)
                truth[row] = index, file.tell(), size, zlib.crc32(data)
                file.write(data)
                row += 1
    return truth


def some(truth: Truth, count: int) -> Truth:
    """``count`` samples of all of it: the same each time, in their order."""
    count = min(count, len(truth))
    chosen = np.random.default_rng(2).choice(len(truth), count, replace=False)
    return truth[np.sort(chosen)]


def read_all(directory: Path) -> None:
    """Brings all files below it into the page cache."""
    for path in filter(Path.is_file, directory.rglob("*")):
        path.read_bytes()


def name(index: int) -> str:
    """The last part of an object's key."""
    return f"{index:06d}"
