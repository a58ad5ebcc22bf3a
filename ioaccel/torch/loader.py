"""A loader that reads in threads, for when worker processes are the bottleneck."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ioaccel.client.cache import Cache
from ioaccel.errors import ConfigError
from ioaccel.torch.accelerate import accelerate
from ioaccel.torch.device import MovedAhead, TensorBatch, pinned
from ioaccel.torch.explain import Epoch, Explanation
from ioaccel.torch.lookahead import Job, begun
from ioaccel.torch.native import ObjectDataset
from ioaccel.torch.resume import Place
from ioaccel.torch.threads import InThreads

# Reading needs few threads: one fills its buffer with two cores already. More serve transforms, of which
# those that decode images let go of the GIL.
_MOST_THREADS = 8


class Loader:
    """As ``torch.utils.data.DataLoader``, but its workers are threads: nothing is started or pickled.

    It takes the arguments of a ``DataLoader`` and draws the same batches in the same order; the data set is
    read through the cache as by `accelerate`, to which ``cache``, ``paths``, ``extents`` and
    ``connect_options`` go. The samples' code runs in ``num_workers`` threads (default: one a core, at most
    8; 0: in the caller's) and must be safe there: what it draws from global random generators is not
    reproducible.

    Over an `ObjectDataset` without ``transform`` and ``collate_fn``, a batch is a `TensorBatch`: ``uint8``
    tensors, one an object, which are views of one buffer. One call has filled it, and it is used again
    when the last view of it is gone. Other batches are what ``collate_fn`` makes of the samples.

    pin_memory   fills pinned memory, from which a GPU copies without waiting
    device       where the batches go: copied one ahead, on a stream of its own, if it is a GPU
    timeout      seconds that a batch may take, as in a ``DataLoader``; 0: as long as its reads may
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,  # noqa: ARG002  # of processes, and there are none
        generator: torch.Generator | None = None,
        *,
        prefetch_factor: int | None = 2,
        persistent_workers: bool = False,  # noqa: ARG002  # a thread starts in no time
        device: torch.device | str | None = None,
        cache: Cache | None = None,
        paths: Sequence[str] = (),
        extents: Any = None,
        explain: bool = False,
        **connect_options: Any,
    ) -> None:
        if isinstance(dataset, IterableDataset):
            raise ConfigError(
                "Loader takes a data set with indices; an IterableDataset has none; use a DataLoader"
            )
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers is a number of threads of at least 0, not {num_workers}")
        prefetch_factor = 2 if prefetch_factor is None else prefetch_factor
        if prefetch_factor < 1:
            raise ConfigError(f"prefetch_factor is at least 1, not {prefetch_factor}")
        self._plain = accelerate(
            DataLoader(
                dataset,
                batch_size,
                shuffle,
                sampler,
                batch_sampler,
                collate_fn=collate_fn,
                drop_last=drop_last,
                generator=generator,
            ),
            cache=cache,
            paths=paths,
            extents=extents,
            explain=explain,
            **connect_options,
        )
        self.dataset = dataset
        self.num_workers = min(_MOST_THREADS, os.cpu_count() or 1) if num_workers is None else num_workers
        self.timeout = timeout
        self.device = torch.device(device) if device is not None else None
        self.pin_memory = pin_memory
        self._init = worker_init_fn
        self._plain.__dict__["_ioaccel_threads"] = self.num_workers > 0
        self._ahead = prefetch_factor * max(1, self.num_workers)
        self._load = self._load_tensors if self._reads_tensors(collate_fn) else self._load_samples

    def _reads_tensors(self, collate_fn: Any) -> bool:
        return (
            type(self.dataset) is ObjectDataset
            and self.dataset.transform is None
            and collate_fn is None
            and self._plain.batch_size is not None
        )

    def __len__(self) -> int:
        return len(self._plain)

    def __iter__(self) -> Iterator[Any]:
        plain: Any = self._plain
        with begun(plain) as (epoch, place):
            draws = iter(plain._index_sampler)
            # As a DataLoader does, so that the same seed gives the same order.
            torch.empty((), dtype=torch.int64).random_(generator=plain.generator)
        batches: Iterator[Any] = map(self._load, draws)
        if self.num_workers:
            batches = InThreads(self._load, draws, self.num_workers, self._ahead, self.timeout, self._init)
        if self.device is not None:
            batches = MovedAhead(batches, self.device)
        return _Epoch(batches, plain._ioaccel_job, epoch, place)

    # ---- one batch ------------------------------------------------------------------------------

    def _load_samples(self, indices: Any) -> Any:
        plain: Any = self._plain
        if not plain._auto_collation:
            return self._pinned(plain.collate_fn(plain.dataset[indices]))
        return self._pinned(plain.collate_fn(plain.dataset.__getitems__(indices)))

    def _pinned(self, batch: Any) -> Any:
        return pinned(batch) if self.pin_memory else batch

    def _load_tensors(self, indices: Sequence[int]) -> Any:
        plain: Any = self._plain
        dataset: ObjectDataset = self.dataset
        start = time.perf_counter()
        buffer, lengths = dataset.read_buffer(indices, self.pin_memory)
        plain.dataset._ioaccel_worker().have_read(len(lengths), time.perf_counter() - start)
        tensors = TensorBatch(buffer, lengths)
        if dataset.target is None:
            return tensors
        return [tensors, self._pinned(default_collate([dataset.target(dataset.key(i)) for i in indices]))]

    # ---- as an accelerated loader ---------------------------------------------------------------

    def explain(self) -> Explanation:
        """Where prefetch knows from what samples read, and what each epoch waited for."""
        return self._plain.explain()  # type: ignore[attr-defined, no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: after the last batch that was taken from it."""
        return self._plain.state_dict()  # type: ignore[attr-defined, no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration goes on where the state was taken."""
        self._plain.load_state_dict(state)  # type: ignore[attr-defined]

    @property
    def sampler(self) -> Any:
        """The sampler; ``loader.sampler.set_epoch(n)`` as with a ``DataLoader``."""
        return self._plain.sampler

    @property
    def batch_sampler(self) -> Any:
        """The batch sampler."""
        return self._plain.batch_sampler


class _Epoch:
    """The batches of one epoch, counted as they are handed out. An error of one does not end it."""

    def __init__(self, batches: Iterator[Any], job: Job, epoch: Epoch, place: Place) -> None:
        self._batches = batches
        self._job = job
        self._epoch = epoch
        self._place = place

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        start = time.perf_counter()
        try:
            batch = next(self._batches)
        except StopIteration:
            if not self._place.ended:
                self._place.ended = True
                self._job.end(self._epoch)
            raise
        self._epoch.waited += time.perf_counter() - start
        self._epoch.batches += 1
        self._place.batches += 1
        return batch
