"""How fast objects are read, directly and through a cache."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ioaccel.cli.progress import waiting
from ioaccel.config import disk_of
from ioaccel.demo.caches import cache_in
from ioaccel.demo.readers import DirectReader
from ioaccel.demo.stage import objects

if TYPE_CHECKING:
    from ioaccel import Cache

SLOW_S = 10.0  # seconds after which one request at a time has been measured
MANY = 64  # requests at once: about what one node gains from
BATCH = 64  # objects a call
USUAL_SIZE = 20 * 10**9  # bytes of the cache
DISK_SHARE = 0.8  # of the disk, at most
COMPARED = 32  # objects that are read once more in both ways, and compared


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to read, once through the objects, or as far as it came."""

    name: str
    objects: int
    bytes: int
    seconds: float
    store_bytes: int | None = None  # that the cache took from the store meanwhile; None: there is no cache

    @property
    def objects_per_s(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds

    @property
    def bytes_per_s(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds


@dataclass(slots=True)
class Rates:
    """What was measured."""

    url: str
    objects: int
    bytes: int
    arms: list[Arm] = field(default_factory=list)
    compared: int = 0
    different: int = 0
    throttled: int = 0  # requests through ioaccel that the store answered with 429 or 503, or late

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        arms = [
            asdict(arm) | {"objects_per_s": arm.objects_per_s, "bytes_per_s": arm.bytes_per_s}
            for arm in self.arms
        ]
        return asdict(self) | {"arms": arms}


def measure(
    url: str,
    *,
    samples: int,
    epochs: int,
    workers: int,
    cache_dir: Path | None,
    cache_size: str | None,
    storage_options: Mapping[str, object] | None,
) -> Rates:
    """Reads at most ``samples`` objects below ``url``, once each way. Raises what reading them raises."""
    with cache_in(cache_dir, cache_size or _usual_size(cache_dir), storage_options) as cache:
        with waiting(f"Listing {url}"):
            stage = objects(url, samples, cache=cache, storage_options=storage_options)
        rates = Rates(url, len(stage.urls), stage.size)
        read = DirectReader(stage.urls[0], storage_options)
        order = list(stage.urls)
        for threads, limit in ((workers, SLOW_S), (MANY, None)):
            random.shuffle(order)
            name = f"directly, {threads} at once"
            with waiting(f"Reading {name}"):
                rates.arms.append(_directly(name, read, order, threads, limit))
        for epoch in range(1, epochs + 1):
            random.shuffle(order)
            with waiting(f"Reading through ioaccel, epoch {epoch}"):
                rates.arms.append(_through(f"ioaccel, epoch {epoch}", cache, order))
        some = random.sample(order, min(COMPARED, len(order)))
        rates.compared = len(some)
        rates.different = sum(cache.read(each) != read(each) for each in some)
        rates.throttled = int(cache.status()["store_throttled"])
    return rates


def _usual_size(directory: Path | None) -> int:
    """Bytes of a cache of which nobody has said how large it is to be."""
    _, total = disk_of(directory.absolute() if directory else tempfile.gettempdir())
    return min(USUAL_SIZE, int(DISK_SHARE * total))


def _directly(name: str, read: DirectReader, urls: Sequence[str], threads: int, limit: float | None) -> Arm:
    """Whole objects, each with a request of its own, in so many threads, for ``limit`` seconds."""
    begun = time.perf_counter()

    def size(url: str) -> int | None:
        if limit is not None and time.perf_counter() - begun > limit:
            return None
        return len(read(url))

    with ThreadPoolExecutor(threads) as pool:
        sizes = [found for found in pool.map(size, urls) if found is not None]
    return Arm(name, len(sizes), sum(sizes), time.perf_counter() - begun)


def _through(name: str, cache: Cache, urls: Sequence[str]) -> Arm:
    """All objects, a batch a call, while the cache fetches ahead."""
    before = int(cache.status()["store_bytes"])
    begun = time.perf_counter()
    cache.prefetch(urls)
    total = 0
    for start in range(0, len(urls), BATCH):
        total += cache.read_many(urls[start : start + BATCH]).nbytes
    seconds = time.perf_counter() - begun
    return Arm(name, len(urls), total, seconds, int(cache.status()["store_bytes"]) - before)
