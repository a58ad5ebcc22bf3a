"""A loader that reads in threads, for when worker processes are the bottleneck."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from ioaccel.client.cache import Cache
from ioaccel.errors import ConfigError
from ioaccel.torch.accelerate import accelerate
from ioaccel.torch.device import TensorBatch, moved_ahead, pinned
from ioaccel.torch.explain import Epoch, Explanation
from ioaccel.torch.lookahead import begun
from ioaccel.torch.native import ObjectDataset
from ioaccel.torch.resume import Place

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
        *,
        generator: torch.Generator | None = None,
        prefetch_factor: int = 2,
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
        batches = self._batches()
        return moved_ahead(batches, self.device) if self.device is not None else batches

    def _batches(self) -> Iterator[Any]:
        plain: Any = self._plain
        with begun(plain) as (epoch, place):
            draws = iter(plain._index_sampler)
            # As a DataLoader does, so that the same seed gives the same order.
            torch.empty((), dtype=torch.int64).random_(generator=plain.generator)
        batches = self._in_threads(draws) if self.num_workers else map(self._load, draws)
        return self._measured(batches, epoch, place)

    def _measured(self, batches: Iterator[Any], epoch: Epoch, place: Place) -> Iterator[Any]:
        while True:
            begun = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                place.ended = True
                self._plain._ioaccel_job.end(epoch)  # type: ignore[attr-defined]
                return
            epoch.waited += time.perf_counter() - begun
            epoch.batches += 1
            place.batches += 1
            yield batch

    def _in_threads(self, draws: Iterator[Any]) -> Iterator[Any]:
        """The batches in order, some of them on their way in threads that end with the epoch."""
        names = iter(range(self.num_workers))
        begin = self._init
        init = (lambda: begin(next(names))) if begin is not None else None
        pool = ThreadPoolExecutor(self.num_workers, "ioaccel-loader", initializer=init)
        coming: deque[Future[Any]] = deque()
        try:
            more = True
            while True:
                while more and len(coming) < self._ahead:
                    try:
                        coming.append(pool.submit(self._load, next(draws)))
                    except StopIteration:
                        more = False
                if not coming:
                    return
                batch = self._result(coming.popleft())
                yield batch
                del batch  # its memory may be used for the next
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result(self.timeout or None)
        except FutureTimeoutError:
            if future.done():  # it is the sample's own error
                raise
            raise RuntimeError(
                f"a batch took more than {self.timeout} s; its transform hangs, or timeout= is too short"
            ) from None

    # ---- one batch ------------------------------------------------------------------------------

    def _load_samples(self, indices: Any) -> Any:
        plain: Any = self._plain
        if not plain._auto_collation:
            return self._pinned(plain.collate_fn(plain.dataset[indices]))
        return self._pinned(plain.collate_fn(plain.dataset.__getitems__(indices)))

    def _pinned(self, batch: Any) -> Any:
        return pinned(batch) if self.pin_memory else batch

    def _load_tensors(self, indices: Sequence[int]) -> Any:
        dataset: ObjectDataset = self.dataset
        buffer, lengths = dataset.read_buffer(indices, self.pin_memory)
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
