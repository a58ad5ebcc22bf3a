"""The arms of ``python -m bench torch``. Each runs in its own process: see `bench.arm`.

All have ``epoch`` (timed) and ``verify`` (not timed: the index and CRC of each sample). An arm's
settings are `bench.torch_setting.Setting` as a dictionary.
"""

from __future__ import annotations

import importlib
import multiprocessing
import random
import time
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler

import ioaccel
from bench.measure import megabytes
from bench.torch_data import FileSamples, ObjectSamples, Urls, WholeFileSamples, name

BATCH = 64
WORKERS = 2
CACHE_SIZE = "4GB"
THREADS = 128  # of bare obstore: twice what it gains from

Figures = dict[str, Any]


class _Arm:
    def prepare(self) -> Figures:
        """What is not timed: imports and `__init__` have been done, and whatever a subclass adds."""
        return {}

    def memory(self) -> Figures:
        """Megabytes of this process and of each of its workers."""
        workers = [megabytes(child.pid) for child in multiprocessing.active_children() if child.pid]
        return {"main": megabytes(), "workers": workers}


class _Loaders(_Arm):
    """A DataLoader over unmodified data, in whatever way a subclass wraps it."""

    persistent = False  # PyTorch's default: a loader that people write starts its workers each epoch

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.keys = [name(index) for index in range(settings["samples"])]
        self.urls = [settings["root"] + key for key in self.keys]
        self.truth = np.load(settings["truth"])

    @cached_property
    def loader(self) -> Any:
        """Made before the first epoch is timed, and not by who asks for a first batch alone."""
        return self.wrap(self._loader(self.dataset(check=False)))

    def dataset(self, check: bool) -> Any:
        return ObjectSamples(self.urls, self.settings["options"], check)

    def wrap(self, loader: Any) -> Any:
        return loader

    def epoch(self) -> Figures:
        """Seconds from asking for the first batch to having the last, workers started in between."""
        samples = count = 0
        loader = self.loader
        begun = time.perf_counter()
        for lengths, _ in loader:
            samples += len(lengths)
            count += int(lengths.sum())
        return {"samples": samples, "bytes": count, "seconds": time.perf_counter() - begun}

    def verify(self) -> Figures:
        """An epoch whose samples are compared with the truth, one by one."""
        seen: list[tuple[int, int]] = []
        for indices, crcs in self.wrap(self._loader(self.dataset(check=True))):
            seen += zip(indices.tolist(), crcs.tolist(), strict=True)
        right = [(index, int(self.truth[index, 1])) for index in range(len(self.urls))]
        return _verdict(sorted(seen), right)

    def _loader(self, dataset: Any) -> DataLoader[Any]:
        persistent = self.persistent or self.settings["persistent"]
        return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=persistent)


class Plain(_Loaders):
    """One GET a sample from the store with s3fs. Slow: only a few hundred samples.

    Its workers stay, and do an epoch that does not count: at so few samples, imports and connections
    would be most of the time.
    """

    persistent = True

    def prepare(self) -> Figures:
        return self.epoch()


class Local(_Loaders):
    """The same samples from local files, all in the page cache from the second epoch on."""

    def dataset(self, check: bool) -> FileSamples:
        return FileSamples([f"{self.settings['files']}/{key}" for key in self.keys], check)


class Whole(Local):
    """The same, but samples are whole files: what `Native` hands out, and a plain loader has to send on."""

    collate: Any = staticmethod(list)

    @cached_property
    def loader(self) -> Any:
        dataset = WholeFileSamples([f"{self.settings['files']}/{key}" for key in self.keys], check=False)
        return DataLoader(dataset, BATCH, shuffle=True, num_workers=WORKERS, collate_fn=self.collate)

    def epoch(self) -> Figures:
        samples = count = 0
        loader = self.loader
        begun = time.perf_counter()
        for batch in loader:
            samples += len(batch)
            count += sum(tensor.numel() for _, tensor in batch)
        return {"samples": samples, "bytes": count, "seconds": time.perf_counter() - begun}


def joined(samples: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch in one buffer, with the samples' lengths: one piece of shared memory instead of 64."""
    return torch.tensor([length for length, _ in samples]), torch.cat([data for _, data in samples])


class Joined(Whole):
    """Whole files, each batch in one buffer, as `Native` has it: the fastest that a plain loader can."""

    collate: Any = staticmethod(joined)
    epoch = _Loaders.epoch


class Accelerated(_Loaders):
    """``accelerate`` over the plain loader."""

    def wrap(self, loader: Any) -> Any:
        accelerate = importlib.import_module("ioaccel.torch").accelerate
        return accelerate(loader, cache_dir=self.settings["cache_dir"], cache_size=CACHE_SIZE)

    def first_batch(self) -> Figures:
        """Seconds from the name of a prefix to the first batch. torch alone has been imported before."""
        settings = self.settings
        begun = time.perf_counter()
        with ioaccel.connect(settings["cache_dir"], CACHE_SIZE, settings["options"]) as cache:
            urls = Urls(cache.manifest(settings["many"]))
            loader = self.wrap(self._loader(ObjectSamples(urls, settings["options"])))
            lengths, _ = next(iter(loader))
            seconds = time.perf_counter() - begun
            return {"seconds": seconds, "samples": len(lengths), "of": len(urls)}


class Native(_Arm):
    """``Loader`` over an ``ObjectDataset``: no worker processes, whole batches of bytes."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.truth = np.load(settings["truth"])

    @cached_property
    def loader(self) -> Any:
        return self._over(self.settings["root"])

    def _over(self, url: str) -> Any:
        adapter = importlib.import_module("ioaccel.torch")
        cache = ioaccel.connect(self.settings["cache_dir"], CACHE_SIZE, self.settings["options"])
        dataset = adapter.ObjectDataset(url, cache=cache)
        sampler = RandomSampler(range(self.settings["samples"])) if url == self.settings["root"] else None
        return adapter.Loader(dataset, batch_size=BATCH, sampler=sampler, shuffle=sampler is None)

    def epoch(self) -> Figures:
        """Each batch in turn, whole: nothing is cut and nothing sent on."""
        samples = count = 0
        loader = self.loader
        begun = time.perf_counter()
        for batch in loader:
            samples += len(batch)
            count += batch.buffer.numel()
        return {"samples": samples, "bytes": count, "seconds": time.perf_counter() - begun}

    def verify(self) -> Figures:
        """Its samples do not say which they are: all that is asked is that each comes once."""
        seen = sorted(zlib.crc32(data.numpy()) for batch in self.loader for data in batch)
        return _verdict(seen, sorted(self.truth[:, 1].tolist()))

    def first_batch(self) -> Figures:
        """As of `Accelerated`."""
        begun = time.perf_counter()
        batch = next(iter(self._over(self.settings["many"])))
        return {"seconds": time.perf_counter() - begun, "samples": len(batch)}


class Obstore(_Arm):
    """Bare obstore from many threads: the limit of a first epoch."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from obstore.store import S3Store

        options = settings["options"]
        bucket, _, self.prefix = settings["root"].removeprefix("s3://").partition("/")
        self.store = S3Store(
            bucket,
            endpoint=options["endpoint_url"],
            access_key_id=options["key"],
            secret_access_key=options["secret"],
            region="us-east-1",
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )
        self.settings = settings
        self.truth = np.load(settings["truth"])

    def epoch(self) -> Figures:
        begun = time.perf_counter()
        lengths = list(self._read(len))
        return {"samples": len(lengths), "bytes": sum(lengths), "seconds": time.perf_counter() - begun}

    def verify(self) -> Figures:
        return _verdict(sorted(self._read(zlib.crc32)), sorted(self.truth[:, 1].tolist()))

    def _read(self, what: Any) -> Iterable[int]:
        import obstore

        keys = [self.prefix + name(index) for index in range(self.settings["samples"])]
        random.shuffle(keys)
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(lambda key: what(obstore.get(self.store, key).bytes()), keys)


def _verdict(seen: list[Any], right: list[Any]) -> Figures:
    if seen != right:
        wrong = len(right) - len(set(seen) & set(right))
        raise ValueError(f"{wrong} of {len(right)} samples are wrong or missing; {len(seen)} came")
    return {"verified": len(seen)}
