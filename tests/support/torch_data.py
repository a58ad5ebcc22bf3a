"""Data sets and samplers that DataLoader's workers can import, under whatever start method."""

# The legacy generator is what programs draw from, and what has to stay as it is.
# ruff: noqa: NPY002

from __future__ import annotations

import gzip
import io
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from ioaccel import Cache


def state() -> tuple[Any, ...]:
    """All global random states, in a form that compares."""
    kind, words, *rest = np.random.get_state()
    return torch.random.get_rng_state().tolist(), random.getstate(), (kind, words.tolist(), *rest)


def seed(number: int = 0) -> None:
    """All global random states."""
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def plainly(batch: Any) -> Any:
    """A batch in a form that compares."""
    if isinstance(batch, torch.Tensor):
        return "tensor", str(batch.dtype), batch.tolist()
    if isinstance(batch, np.ndarray):
        return "array", str(batch.dtype), batch.tolist()
    if isinstance(batch, (list, tuple)):
        return type(batch).__name__, [plainly(part) for part in batch]
    if isinstance(batch, dict):
        return {key: plainly(part) for key, part in batch.items()}
    return batch


def as_is(batch: Any) -> Any:
    """A collate_fn that does nothing."""
    return batch


def shut(*loaders: Any) -> None:
    """Ends persistent workers."""
    for loader in loaders:
        iterator = getattr(loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            loader._iterator = None


class Numbers(Dataset[Any]):
    """Samples that show which worker's random states they were made with."""

    def __init__(self, count: int = 20, *, noisy: bool = True) -> None:
        self.count = count
        self.noisy = noisy

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and not -self.count <= index < self.count:
            raise IndexError(f"sample {index} of {self.count}")
        drawn = (torch.rand(1).item(), random.random(), float(np.random.random())) if self.noisy else ()
        return str(index), *drawn


class ManyNumbers(Numbers):
    """The same with ``__getitems__``."""

    def __getitems__(self, indices: list[Any]) -> list[Any]:
        return [("many", *self[index]) for index in indices]


class Objects(Dataset[Any]):
    """One object a sample, read in one of many ways; what it gives is ``(index, bytes)``."""

    def __init__(self, keys: Sequence[str], options: dict[str, Any], how: str = "fsspec") -> None:
        self.names_of_objects = list(keys)  # not an attribute that is looked for
        self.options = options
        self.how = how
        self.fs: Any = fsspec.filesystem("s3", **options) if how.startswith("held") else None
        self.opened = [fsspec.open(k, **options) for k in keys] if how == "openfile" else []

    def __len__(self) -> int:
        return len(self.names_of_objects)

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        return index, WAYS[self.how](self, self.names_of_objects[index], index)


class Told(Objects):
    """The same, which tells its names in ``samples``."""

    def __init__(self, keys: Sequence[str], options: dict[str, Any], how: str = "fsspec") -> None:
        super().__init__(keys, options, how)
        self.samples = [(key, number % 3) for number, key in enumerate(keys)]


class Pieces(Dataset[Any]):
    """Parts of objects: url, a label, and where it begins; then its length or its end."""

    def __init__(self, samples: list[tuple[str, int, int, int]], options: dict[str, Any], form: str) -> None:
        self.samples = samples
        self.options = options
        self.form = form

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        url, _, start, stop = self.samples[index]
        with fsspec.open(url, "rb", **self.options) as file:
            file.seek(start)
            return index, bytes(file.read(stop if self.form == "length" else stop - start))


def _fs(data: Objects) -> Any:
    return fsspec.filesystem("s3", **data.options)


def _fsspec(data: Objects, url: str, index: int) -> bytes:
    with fsspec.open(url, **data.options) as file:
        return bytes(file.read())


def _fsspec_text(data: Objects, url: str, index: int) -> bytes:
    with fsspec.open(url, "r", encoding="latin-1", newline="", **data.options) as file:
        return str(file.read()).encode("latin-1")


def _fs_open(data: Objects, url: str, index: int) -> bytes:
    with _fs(data).open(url) as file:
        return bytes(file.read())


def _pieces(data: Objects, url: str, index: int) -> bytes:
    with _fs(data).open(url.removeprefix("s3://"), "rb") as file:
        parts = []
        while part := file.read(1000):
            parts.append(part)
        size = file.seek(0, 2)
        file.seek(size // 2)
        assert b"".join(parts)[size // 2 :] == file.read()
        return b"".join(parts)


def _ranges(data: Objects, url: str, index: int) -> bytes:
    fs = _fs(data)
    if index < 2:
        return bytes(fs.cat_file(url, 0, 100) if index else b"")
    return bytes(fs.cat_file(url, start=0, end=100) + fs.cat_file(url, 100))


def _cat_ranges(data: Objects, url: str, index: int) -> bytes:
    fs = _fs(data)
    if index < 2:
        return bytes(fs.cat_file(url, end=None))
    return b"".join(fs.cat_ranges([url, url], [0, 64], [64, None]))


def _get_file(data: Objects, url: str, index: int) -> bytes:
    path = f"/tmp/ioaccel-get-{os.getpid()}"
    try:
        _fs(data).get_file(url, path)
        return Path(path).read_bytes()
    finally:
        Path(path).unlink(missing_ok=True)


def _get(data: Objects, url: str, index: int) -> bytes:
    path = Path(f"/tmp/ioaccel-get-{os.getpid()}")
    try:
        _fs(data).get(url, str(path / "below" / "file"))
        return (path / "below" / "file").read_bytes()
    finally:
        (path / "below" / "file").unlink(missing_ok=True)
        (path / "below").rmdir()
        path.rmdir()


WAYS: dict[str, Callable[[Any, str, int], bytes]] = {
    "fsspec": _fsspec,
    "fsspec_text": _fsspec_text,
    "fs_open": _fs_open,
    "pieces": _pieces,
    "cat_file": lambda data, url, index: bytes(_fs(data).cat_file(url)),
    "ranges": _ranges,
    "cat": lambda data, url, index: bytes(_fs(data).cat(url)),
    "cat_many": lambda data, url, index: bytes(_fs(data).cat([url])[url.removeprefix("s3://")]),
    "cat_ranges": _cat_ranges,
    "read_bytes": lambda data, url, index: bytes(_fs(data).read_bytes(url)),
    "read_text": lambda data, url, index: _fs(data).read_text(url, "latin-1", newline="").encode("latin-1"),
    "get_file": _get_file,
    "get": _get,
    "held": lambda data, url, index: bytes(data.fs.cat_file(url)),
    "held_open": lambda data, url, index: bytes(data.fs.open(url).read()),
    "openfile": lambda data, url, index: bytes(data.opened[index].open().read()),
}  # fmt: skip


class CacheObjects(Dataset[Any]):
    """Objects that are read with ioaccel itself."""

    def __init__(self, cache: Cache, urls: Sequence[str], how: str) -> None:
        self.cache = cache
        self.objects = list(urls)
        self.how = how

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> tuple[int, bytes]:
        url = self.objects[index]
        if self.how == "open":
            with self.cache.open(url) as file:
                return index, file.read()
        if self.how == "read_many":
            return index, bytes(self.cache.read_many([(url, 0, None)])[0])
        return index, self.cache.read(url)


class Files(Dataset[Any]):
    """Files below a directory: ``files`` are names that it tells, if it does."""

    def __init__(self, paths: Sequence[str | Path], read: Callable[[Any], Any], *, tell: bool = True) -> None:
        if tell:
            self.files = list(paths)
        self.hidden = list(paths)
        self.read = read

    def __len__(self) -> int:
        return len(self.hidden)

    def __getitem__(self, index: int) -> Any:
        return index, self.read(self.hidden[index])


def read_bytes(path: Any) -> bytes:
    with open(path, "rb") as file:
        return file.read()


class Stream(IterableDataset[Any]):
    """A stream of objects, or of numbers."""

    def __init__(self, count: int, keys: Sequence[str] = (), options: dict[str, Any] | None = None) -> None:
        self.count = count
        self.objects = list(keys)
        self.options = options or {}

    def __iter__(self) -> Iterator[Any]:
        info = torch.utils.data.get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, self.count, step):
            if self.objects:
                with fsspec.open(self.objects[index], **self.options) as file:
                    yield index, file.read()
            else:
                yield index, random.random(), torch.rand(1).item()


class SizedStream(Stream):
    """A stream with a length."""

    def __len__(self) -> int:
        return self.count


class Fails(Dataset[Any]):
    """Goes wrong at one index."""

    def __init__(self, how: str, at: int = 7, options: dict[str, Any] | None = None, url: str = "") -> None:
        self.how, self.at, self.options, self.url = how, at, options or {}, url

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        if index == self.at:
            if self.how == "raise":
                raise ZeroDivisionError(f"no sample {index}")
            if self.how == "exit":
                os._exit(3)
            if self.how == "hang":
                time.sleep(3600)
            if self.how == "fsspec":
                with fsspec.open(self.url, **self.options) as file:
                    return file.read()
            if self.how == "cat":
                return fsspec.filesystem("s3", **self.options).cat_file(self.url)
            if self.how == "open":
                return open(self.url, "rb").read()
        return index


# ---- samplers -----------------------------------------------------------------------------------

GLOBAL = np.random.default_rng(3)
GLOBAL_ORDER = list(range(20))


class Eager(Sampler[int]):
    """All is drawn by ``__iter__``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.permutation(self.count).tolist())


class Lazily(Eager):
    """Each index is drawn when it is asked for, from three global generators."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.count):
            both = random.randrange(self.count) + int(np.random.randint(self.count))
            yield (both + int(torch.randint(self.count, (1,)))) % self.count


class InPlace(Eager):
    """Shuffles what it keeps, epoch after epoch, and uses data_source for it."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.data_source = list(range(count))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random.Random(self.epoch).shuffle(self.data_source)
        self.epoch += 1
        return iter(self.data_source)


class OfItsModule(Eager):
    """Draws from a generator of its module, which a copy shares."""

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.count):
            yield int(GLOBAL.integers(self.count))


class OfItsClass(Eager):
    """Draws from a generator of its class."""

    rng: Any = random.Random(5)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rng.sample(range(self.count), self.count))


class ChangesAGlobal(Eager):
    """Cannot be looked ahead of: what it changes is no generator."""

    def __iter__(self) -> Iterator[int]:
        random.shuffle(GLOBAL_ORDER)
        return (i for i in list(GLOBAL_ORDER) if i < self.count)


class Uncopied(Eager):
    """Cannot be looked ahead of: it holds what cannot be copied."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.steps = (i for i in range(10**9))

    def __iter__(self) -> Iterator[int]:
        for _ in range(self.count):
            yield next(self.steps) % self.count


class Raises(Eager):
    """Raises in the middle."""

    def __iter__(self) -> Iterator[int]:
        yield from range(self.count // 2)
        raise LookupError("the sampler is broken")


class Endless(Eager):
    """Has no end, and no length that is known."""

    __len__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[int]:
        while True:
            yield random.randrange(self.count)


class Kinds(Eager):
    """Indices of all kinds."""

    def __iter__(self) -> Iterator[Any]:
        for i in range(self.count):
            yield (i, (i, "a"), f"name {i}", torch.tensor(i), np.int64(i), torch.tensor([i, i]))[i % 6]


class OneList(Eager):
    """A batch sampler that uses one list for all batches."""

    def __len__(self) -> int:
        return self.count // 4

    def __iter__(self) -> Iterator[Any]:
        batch = [0, 0, 0, 0]
        for _ in range(len(self)):
            batch[:] = [random.randrange(self.count) for _ in batch]
            yield batch


class Maps(OneList):
    """A batch sampler whose batches are iterators."""

    def __iter__(self) -> Iterator[Any]:
        for first in range(0, self.count, 4):
            yield map(int, range(first, min(first + 4, self.count)))


class Empties(OneList):
    """A batch sampler of empty batches, without end."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield []


class Ones(DataLoader[Any]):
    """A user's loader: its ``__iter__`` is a generator."""

    extra = 5

    def __iter__(self) -> Any:
        yield from enumerate(super().__iter__())


def encoded(text: str) -> bytes:
    return gzip.compress(io.BytesIO(text.encode()).getvalue())


class Shuffled(Dataset[int]):
    """A data set whose order a sampler may change."""

    def __init__(self, count: int) -> None:
        self.order = list(range(count))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> int:
        return self.order[index]

    def shuffle(self) -> None:
        self.order = [self.order[i] for i in torch.randperm(len(self.order)).tolist()]


class ShufflesItsData:
    """A sampler that does so."""

    def __init__(self, data: Shuffled) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[int]:
        self.data.shuffle()
        return iter(range(len(self.data)))


class StumblingStream(IterableDataset[int]):
    """A stream that raises once, and goes on."""

    def __iter__(self) -> Iterator[int]:
        return Stumbling()


class Stumbling:
    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.next += 1
        if self.next == 3:
            raise LookupError("the third")
        if self.next > 6:
            raise StopIteration
        return self.next
