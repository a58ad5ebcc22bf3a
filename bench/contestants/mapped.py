"""Contestants with random access: a function that reads one sample, under an ordinary DataLoader."""

from __future__ import annotations

import importlib
from typing import Any

from torch.utils.data import DataLoader, Dataset

from bench.contestants.contract import Batches, Contestant


class Reads(Dataset[Any]):
    """Sample ``number`` is what ``contestant.read(number)`` returns."""

    def __init__(self, contestant: Mapped) -> None:
        self.contestant = contestant

    def __len__(self) -> int:
        return len(self.contestant.truth)

    def __getitem__(self, number: int) -> Any:
        return self.contestant.take(number, self.contestant.read(number))


class ReadsTogether(Reads):
    """The samples of a batch are what ``contestant.read_many(numbers)`` returns. PyTorch asks for batches."""

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        found = self.contestant.read_many(numbers)
        return [self.contestant.take(number, data) for number, data in zip(numbers, found, strict=True)]


class Mapped(Contestant):
    """A subclass reads one sample at a time, in worker processes; clients are made there, by `client`.

    Workers stay from epoch to epoch, as they do in jobs that care; their first start counts.
    """

    imports: tuple[str, ...] = ()  # what is imported before the fork, as a job does; clients are the workers'
    together = False  # whether `read_many` is what a batch is read with
    loader: Any = None
    _client: Any = None

    def open(self) -> None:
        for module in self.imports:
            importlib.import_module(module)
        self.loader = self.wrap(
            DataLoader(
                self.dataset(),
                self.batch,
                shuffle=True,
                num_workers=self.workers,
                persistent_workers=self.workers > 0,
            )
        )

    def dataset(self) -> Any:
        """The data set of the loader."""
        return ReadsTogether(self) if self.together else Reads(self)

    def wrap(self, loader: Any) -> Any:
        """What a contestant makes of the loader."""
        return loader

    def batches(self) -> Batches:
        return self.loader

    def make_client(self) -> Any:
        """What `read` reads with. Called once in each process."""

    @property
    def client(self) -> Any:
        """This process's own client: most of them do not survive a fork."""
        if self._client is None:
            self._client = self.make_client()
        return self._client

    def read(self, number: int) -> bytes:
        """The bytes of a sample."""
        raise NotImplementedError

    def read_many(self, numbers: list[int]) -> list[bytes]:
        """The bytes of a batch's samples."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None, "loader": None}


def cat(contestant: Mapped, numbers: list[int]) -> list[bytes]:
    """A batch with one call of fsspec, which has several requests in flight where the file system can."""
    if contestant.pieces:
        return cat_ranges(contestant, numbers)
    paths = [f"{contestant.settings['bucket']}/{contestant.piece(number)[0]}" for number in numbers]
    found = contestant.client.cat(paths)
    # One path is answered with its bytes, several with a dictionary.
    return [found] if isinstance(found, bytes) else [found[path] for path in paths]


def cat_ranges(contestant: Mapped, numbers: list[int]) -> list[bytes]:
    """The same, also of whole objects with their lengths."""
    pieces = [contestant.piece(number) for number in numbers]
    paths = [f"{contestant.settings['bucket']}/{key}" for key, _, _ in pieces]
    starts = [offset for _, offset, _ in pieces]
    ends = [offset + length for _, offset, length in pieces]
    return contestant.client.cat_ranges(paths, starts, ends, on_error="raise")
