"""The training run: a small real model, a DataLoader, plain or accelerated, and a stopwatch.

Everything random is seeded and everything computed is deterministic, so two runs over the same
bytes have the same losses to the last bit. That is how the demo shows that ioaccel changes nothing
but the time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.data import DataLoader

from ioaccel.demo.samples import SHAPE, ObjectDataset
from ioaccel.torch import accelerate

if TYPE_CHECKING:
    from ioaccel import Cache

Loader = DataLoader[tuple[torch.Tensor, int]]

SEED = 1234


@dataclass(frozen=True, slots=True)
class Epoch:
    """The figures of one epoch."""

    samples_per_s: float
    """Samples trained on, per second of the epoch."""

    first_batch_s: float
    """Seconds from the start of the epoch, before any worker exists, to the first batch."""

    wait_share: float
    """Share of the epoch, 0 to 1, that the training loop spent waiting for its next batch."""

    store_bytes: int
    """Bytes taken from the store during the epoch."""

    loss: float
    """Mean training loss of the epoch."""


def train(
    dataset: ObjectDataset,
    *,
    classes: int,
    epochs: int,
    batch_size: int,
    workers: int,
    store_bytes: Callable[[], int],
    progress: Callable[[int], None],
    cache: Cache | None = None,
) -> Generator[Epoch, None, None]:
    """Train a new model for ``epochs``, yielding each epoch's figures as it ends.

    ``store_bytes`` is what the data set's reader has taken from the store so far; ``progress`` is
    called with the number of samples after each batch. With a ``cache``, the same loader is accelerated.
    """
    with _deterministic():
        step = _Step(classes)
        loader = DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=True,
            num_workers=workers,
            generator=torch.Generator().manual_seed(SEED),
        )
        if cache is not None:
            loader = accelerate(loader, cache=cache)
        for _ in range(epochs):
            yield _epoch(loader, step, store_bytes, progress)


def _epoch(
    loader: Loader,
    step: _Step,
    store_bytes: Callable[[], int],
    progress: Callable[[int], None],
) -> Epoch:
    samples, loss, waited, first_batch = 0, 0.0, 0.0, 0.0
    bytes_before = store_bytes()
    start = asked = perf_counter()
    with _batches(loader) as batches:
        while True:
            batch = next(batches, None)
            waited += perf_counter() - asked
            if batch is None:
                break
            first_batch = first_batch or waited
            pixels, labels = batch
            loss += step(pixels, labels) * len(labels)
            samples += len(labels)
            progress(len(labels))
            asked = perf_counter()
    seconds = perf_counter() - start
    return Epoch(
        samples_per_s=samples / seconds,
        first_batch_s=first_batch,
        wait_share=waited / seconds,
        store_bytes=store_bytes() - bytes_before,
        loss=loss / samples,
    )


@contextmanager
def _batches(loader: Loader) -> Iterator[Iterator[list[torch.Tensor]]]:
    """The batches of one epoch; the workers are gone at the end, also when it is an error or Ctrl-C.

    Without this the traceback would keep the iterator, and so the workers, while what they read
    from is taken down.
    """
    batches = iter(loader)
    try:
        yield batches
    finally:
        stop = getattr(batches, "_shutdown_workers", None)  # what its __del__ does; absent without workers
        if stop is not None:
            stop()


class _Step:
    """A small convolutional network with its optimizer; calling it is one step of training."""

    def __init__(self, classes: int) -> None:
        torch.manual_seed(SEED)
        self._model = nn.Sequential(
            nn.Conv2d(SHAPE[0], 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (SHAPE[1] // 4) * (SHAPE[2] // 4), classes),
        )
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=0.02, momentum=0.9)
        self._criterion = nn.CrossEntropyLoss()

    def __call__(self, pixels: torch.Tensor, labels: torch.Tensor) -> float:
        """Learn from one batch; return its mean loss."""
        self._optimizer.zero_grad()
        loss = self._criterion(self._model(pixels), labels)
        loss.backward()
        self._optimizer.step()
        return float(loss.item())


@contextmanager
def _deterministic() -> Iterator[None]:
    """One thread and deterministic kernels, so that sums are added up in the same order every time."""
    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(strict)
