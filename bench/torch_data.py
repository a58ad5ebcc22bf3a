"""The data set of ``python -m bench torch``, as a user writes it, and the truth about its bytes."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from torch.utils.data import Dataset

# Mean and spread of the JPEGs of ImageNet.
SIZE, SIZE_SPREAD = 110_000, 10_000
# What a sample keeps of the bytes it read. Enough to be a tensor that is stacked and sent on; little,
# so that reading is compared and not shared memory: whole samples halve the speed of every arm, local
# files first, which would bring all ratios nearer to 1.
KEPT = 4096

Sample = tuple[int, Any]


class _Samples(Dataset[Sample]):
    """One object a sample. ``check`` makes a sample its index and CRC: for epochs that are not timed."""

    def __init__(self, urls: Sequence[str], check: bool) -> None:
        self.urls = urls
        self.check = check

    def __len__(self) -> int:
        return len(self.urls)

    def sample(self, index: int, data: bytes) -> Sample:
        if self.check:
            return index, zlib.crc32(data)
        return len(data), torch.frombuffer(bytearray(memoryview(data)[:KEPT]), dtype=torch.uint8)


class ObjectSamples(_Samples):
    """Objects of a store, read with fsspec. Nothing here knows of ioaccel."""

    def __init__(self, urls: Sequence[str], options: dict[str, Any], check: bool = False) -> None:
        super().__init__(urls, check)
        self.options = options

    def __getitem__(self, index: int) -> Sample:
        with fsspec.open(self.urls[index], "rb", **self.options) as file:
            return self.sample(index, file.read())


class FileSamples(_Samples):
    """The same bytes in local files."""

    def __getitem__(self, index: int) -> Sample:
        with open(self.urls[index], "rb") as file:
            return self.sample(index, file.read())


class WholeFileSamples(FileSamples):
    """Samples that are the whole of the files."""

    def sample(self, index: int, data: bytes) -> Sample:
        if self.check:
            return index, zlib.crc32(data)
        return len(data), torch.frombuffer(bytearray(data), dtype=torch.uint8)


class Urls(Sequence[str]):
    """The URLs of a manifest, each made when it is asked for: a million strings would take 100 MB."""

    def __init__(self, table: Any) -> None:
        self.root = table.schema.metadata[b"ioaccel.root"].decode()
        self.keys = table["key"]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: Any) -> Any:
        return self.root + self.keys[index].as_py()


def write_objects(directory: Path, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Makes ``count`` files of random bytes and returns the size and the CRC of each, a row a file."""
    directory.mkdir(parents=True)
    generator = random.Random(1)
    truth = np.empty((count, 2), np.int64)
    for index in range(count):
        data = generator.randbytes(SIZE + generator.randint(-SIZE_SPREAD, SIZE_SPREAD))
        (directory / name(index)).write_bytes(data)
        truth[index] = len(data), zlib.crc32(data)
    return truth


def link_copies(directory: Path, objects: Path, count: int, copies: int) -> None:
    """``copies`` more names of each object, as hard links: a million keys in no space."""
    for copy in range(copies):
        below = directory / f"{copy:03d}"
        below.mkdir(parents=True)
        for index in range(count):
            os.link(objects / name(index), below / name(index))


def name(index: int) -> str:
    """The last part of an object's key."""
    return f"{index:06d}"
