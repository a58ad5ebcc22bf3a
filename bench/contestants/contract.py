"""What a contestant is.

An adapter is a subclass of `Contestant` in a file of its own. It runs in a process of its own, for peers
under the peers' Python, where there is no ioaccel: nothing below bench/contestants imports ioaccel but
the adapters of ioaccel itself.

A sample of a timed epoch is (length, first bytes as a uint8 tensor), the same work for everybody; of one
that is checked, (number of the sample, CRC32 of its bytes). A batch is a pair of tensors of these.
"""

from __future__ import annotations

import importlib.metadata
import mmap
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Figures = dict[str, Any]
Batches = Iterable[Any]

# What a sample keeps of its bytes. Enough to be a tensor that is stacked and sent on; little, so that
# reading is compared and not shared memory: whole samples halve everybody's speed, local files first.
KEPT = 4096


class Contestant:
    """A way to read a data set. A subclass says how in `convert`, `open` and `batches`."""

    package = ""  # the distribution whose version is printed

    def __init__(self, settings: dict[str, Any]) -> None:
        """``settings`` are `bench.job.Setting`, as a dictionary."""
        self.settings = settings
        self.batch: int = settings["batch"]
        self.workers: int = settings["workers"]
        self.truth = np.load(settings["truth"])
        self.take = Take(settings)

    # ---- what a subclass has to say ----

    def convert(self, directory: Path) -> None:
        """Write the data set in the contestant's own format below ``directory``, if it needs one.

        The bytes are read from local files: nobody pays for a download here.
        """

    def open(self) -> None:
        """All that a job does once: clients, listings, data set, loader."""

    def batches(self) -> Batches:
        """The batches of an epoch, in random order where the contestant can."""
        raise NotImplementedError

    def close(self) -> None:
        """Leave nothing behind. Also called where `open` failed halfway."""

    # ---- what the runner asks ----

    def version(self) -> Figures:
        """The version that is measured."""
        return {"version": importlib.metadata.version(self.package) if self.package else "-"}

    def conversion(self) -> Figures:
        """Converts, and says how long it took."""
        directory = Path(self.settings["converted"])
        begun = time.perf_counter()
        self.convert(directory)
        return {"seconds": time.perf_counter() - begun}

    def prepare(self) -> Figures:
        """Opens, and says how long it took. Not part of an epoch."""
        begun = time.perf_counter()
        self.open()
        return {"seconds": time.perf_counter() - begun}

    def epoch(self, step_s: float = 0.0) -> Figures:
        """A timed epoch. ``step_s``: what each batch costs whoever trains on it, who meanwhile sleeps."""
        self.take.check(False)
        samples = count = 0
        waits = []
        begun = asked = time.perf_counter()
        for lengths, _ in self.batches():
            waits.append(time.perf_counter() - asked)
            samples += len(lengths)
            count += int(lengths.sum())
            if step_s:
                time.sleep(step_s)
            asked = time.perf_counter()
        seconds = time.perf_counter() - begun
        later = waits[1:] or waits  # the first is a figure of its own
        return {
            "samples": samples,
            "bytes": count,
            "seconds": seconds,
            "first_batch_s": waits[0] if waits else seconds,
            "p50_wait_s": float(np.percentile(later, 50)) if later else 0.0,
            "p99_wait_s": float(np.percentile(later, 99)) if later else 0.0,
            # As MLPerf Storage does, without the first batch.
            "utilisation": (len(waits) - 1) * step_s / (seconds - waits[0] - step_s)
            if len(waits) > 1
            else 0.0,
        }

    def verify(self) -> Figures:
        """An epoch whose samples are compared with the truth, one by one. ValueError if one is wrong."""
        self.take.check(True)
        seen: list[tuple[int, int]] = []
        for numbers, crcs in self.batches():
            seen += zip(numbers.tolist(), crcs.tolist(), strict=True)
        right = list(enumerate(self.truth[:, 3].tolist()))
        if sorted(seen) != right:
            wrong = len(right) - len(set(seen) & set(right))
            raise ValueError(f"{wrong} of {len(right)} samples are wrong or missing; {len(seen)} came")
        return {"verified": len(seen)}

    # ---- what subclasses use ----

    @property
    def keys(self) -> list[str]:
        """The key of each object that has samples of this epoch, with its prefix."""
        return [f"{self.settings['prefix']}{index:06d}" for index in np.unique(self.truth[:, 0])]

    def piece(self, number: int) -> tuple[str, int, int]:
        """Key, offset and length of a sample."""
        file, offset, length, _ = self.truth[number].tolist()
        return f"{self.settings['prefix']}{file:06d}", offset, length

    @property
    def pieces(self) -> bool:
        """Whether samples are parts of objects."""
        return bool(self.settings["samples_per_file"] > 1)


class Take:
    """Makes a sample of its number and its bytes. A file tells all copies of it which."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._path = settings["flag"]
        self._kept = settings["kept"]
        self._map: mmap.mmap | None = None

    def check(self, wanted: bool) -> None:
        """From now on samples are (number, CRC) or (length, first bytes)."""
        self._flag()[0] = wanted

    def __call__(self, number: int, data: Any) -> tuple[int, Any]:
        if self._flag()[0]:
            return number, zlib.crc32(data)
        return len(data), torch.frombuffer(bytearray(memoryview(data)[: self._kept]), dtype=torch.uint8)

    def _flag(self) -> mmap.mmap:
        if self._map is None:
            fd = os.open(self._path, os.O_RDWR)
            self._map = mmap.mmap(fd, 1)
            os.close(fd)
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}
