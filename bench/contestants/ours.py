"""ioaccel: under an unmodified data set, with its own loader, and as a file system of fsspec."""

from __future__ import annotations

from typing import Any

import fsspec
from torch import Tensor
from torch.utils.data import Dataset, RandomSampler, default_collate

import ioaccel
from bench.contestants.contract import Batches, Take
from bench.contestants.mapped import Mapped, cat
from ioaccel.torch import Loader, ObjectDataset, TensorBatch, accelerate


class Unmodified(Dataset[Any]):
    """A data set as a user writes it, with fsspec. Nothing here knows of ioaccel."""

    def __init__(
        self, pieces: list[tuple[str, int, int]], options: dict[str, Any], take: Take, whole: bool
    ) -> None:
        self.samples = pieces
        self.options = options
        self.take = take
        self.whole = whole

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> Any:
        url, offset, length = self.samples[number]
        with fsspec.open(url, "rb", **self.options) as file:
            if self.whole:
                return self.take(number, file.read())
            file.seek(offset)
            return self.take(number, file.read(length))


class _Ours(Mapped):
    package = "ioaccel"

    def connection(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "cache_dir": settings["cache_dir"],
            "cache_size": settings["cache_size"],
            "storage_options": settings["options"],
        }

    def url(self, key: str) -> str:
        return f"s3://{self.settings['bucket']}/{key}"

    def close(self) -> None:
        self.loader = None  # its workers hold the engine


class Accelerated(_Ours):
    """`accelerate` over a plain loader over an unmodified data set."""

    def dataset(self) -> Any:
        pieces = [self.piece(number) for number in range(len(self.truth))]
        named = [(self.url(key), offset, length) for key, offset, length in pieces]
        return Unmodified(named, self.settings["options"], self.take, not self.pieces)

    def wrap(self, loader: Any) -> Any:
        return accelerate(loader, **self.connection())


class Native(_Ours):
    """`Loader`: threads instead of worker processes; where a sample is an object, over its own data set,
    of which a batch is one buffer."""

    def open(self) -> None:
        dataset: Any
        more: dict[str, Any]
        if self.pieces:
            dataset, more = Accelerated.dataset(self), self.connection()  # type: ignore[arg-type]
        else:
            cache = ioaccel.connect(**self.connection())
            dataset = ObjectDataset(self.url(self.settings["prefix"]), target=_number, cache=cache)
            more = {"cache": cache}
        # The prefix may hold more than is asked for.
        sampler = RandomSampler(range(len(self.truth)))
        self.loader = Loader(
            dataset, batch_size=self.batch, sampler=sampler, num_workers=self.workers, **more
        )

    def batches(self) -> Batches:
        return self.loader if self.pieces else map(self._taken, self.loader)

    def _taken(self, batch: tuple[TensorBatch, Tensor]) -> Any:
        tensors, numbers = batch
        arrays = [tensor.numpy() for tensor in tensors]
        return default_collate([self.take(n, a) for n, a in zip(numbers.tolist(), arrays, strict=True)])


def _number(key: str) -> int:
    """Objects are named by their numbers."""
    return int(key.rpartition("/")[2])


class Fsspec(_Ours):
    """``ioaccel://`` as a file system, in the data set's own code: a batch in one call."""

    together = True

    def make_client(self) -> Any:
        settings = self.settings
        return fsspec.filesystem(
            "ioaccel",
            target_protocol="s3",
            target_options=settings["options"],
            cache_dir=settings["cache_dir"],
            cache_size=settings["cache_size"],
        )

    def read_many(self, numbers: list[int]) -> list[bytes]:
        return cat(self, numbers)
