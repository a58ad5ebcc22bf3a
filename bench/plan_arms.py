"""The jobs of ``python -m bench plan``. Each runs in its own process: see `bench.arm`."""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data import DataLoader

import ioaccel
from bench.torch_data import ObjectSamples, name
from ioaccel.torch import accelerate

BUCKET = "bench"

Figures = dict[str, Any]


def object_urls(part: str, count: int) -> list[str]:
    """The objects of one of the two sets."""
    return [f"s3://{BUCKET}/{part}/{name(index)}" for index in range(count)]


class Job:
    """An accelerated DataLoader over objects of a store, with a cache of a given size.

    Its workers stay from epoch to epoch; the first epoch waits until they have started.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        urls = object_urls(settings["part"], settings["objects"])
        self.cache = ioaccel.connect(settings["cache_dir"], settings["cache_size"], settings["options"])
        plain = DataLoader(
            ObjectSamples(urls, settings["options"]),
            settings["batch"],
            shuffle=True,
            num_workers=settings["workers"],
            persistent_workers=True,
        )
        self.loader = accelerate(plain, cache=self.cache)

    def epoch(self) -> Figures:
        """Seconds from asking for the first batch to having the last, and what the cache counted."""
        before = self.cache.status()
        samples = count = 0
        begun = time.perf_counter()
        first = 0.0
        for lengths, _ in self.loader:
            first = first or time.perf_counter() - begun
            samples += len(lengths)
            count += int(lengths.sum())
        seconds = time.perf_counter() - begun
        hedged = self.cache.status()["store_hedged"] - before["store_hedged"]
        return {"samples": samples, "bytes": count, "seconds": seconds, "first": first, "hedged": hedged}
