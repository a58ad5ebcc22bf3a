"""Data sets that know where their samples lie, and so read a batch in one go.

They are map-style: any sampler, any ``DataLoader``. Each holds a cache and a mapped table, nothing that grows
with the number of samples; they may be forked, pickled, and used from any thread.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ioaccel._core._client import version_hash
from ioaccel.client.cache import Cache
from ioaccel.client.default import default_cache
from ioaccel.client.pinned import read_bytes
from ioaccel.formats.objects import ObjectList, object_list
from ioaccel.formats.tar import TarIndex, tar_index
from ioaccel.torch.device import pinned_array

if TYPE_CHECKING:
    import pyarrow as pa

Extent = tuple[str, int, int]


class _Native(Dataset[Any]):
    """What both data sets have in common: numbers that count from either end, and iteration."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        """The samples of a batch, in this order, read together. `torch.utils.data.DataLoader` calls it."""
        raise NotImplementedError

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self.__getitems__([index])[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def _position(self, index: SupportsIndex) -> int:
        count = len(self)
        position = operator.index(index)
        if not -count <= position < count:
            raise IndexError(f"sample {position} of a data set of {count}")
        return position % count


class ObjectDataset(_Native):
    """Every object below ``url`` is a sample, in the order of the keys.

    url        a prefix: ``"s3://bucket/train/"``; also a local directory
    transform  makes the sample of the object's ``bytes``; without it, they are the sample
    target     makes the label of the object's key: the samples are then pairs ``(sample, label)``. The key is
               what follows the bucket (``"train/n01440764/10026.jpg"``), or for files the absolute path
    pattern    only keys that match it, or one of several, whole, as by ``fnmatch``: ``"*.jpg"``
    cache      default: the one of `ioaccel.open`, which environment, ``ioaccel.toml`` or a daemon name

        ObjectDataset("s3://bucket/train/", decode, target=lambda key: classes[key.split("/")[1]])

    The prefix is listed when the data set is made, by `Cache.manifest`, and then the samples stay what they
    are, in every worker process. Raises ObjectNotFoundError if nothing is there or nothing matches, and
    what the store says; reading a sample raises what `Cache.read` raises.
    """

    def __init__(
        self,
        url: str,
        transform: Callable[[bytes], Any] | None = None,
        *,
        target: Callable[[str], Any] | None = None,
        pattern: str | Iterable[str] | None = None,
        cache: Cache | None = None,
    ) -> None:
        self.transform = transform
        self.target = target
        self.cache = cache if cache is not None else default_cache()
        self._objects: ObjectList = object_list(self.cache, url, pattern)

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: SupportsIndex) -> Any:
        position = self._position(index)
        return self._sample(position, self.cache.read(self._objects.url(position)))

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        positions = [self._position(i) for i in indices]
        urls = self._objects.urls(positions)
        batch = read_bytes(self.cache._reader, [(url, 0, None) for url in urls])
        return [self._sample(p, data) for p, data in zip(positions, batch, strict=True)]

    def read_buffer(self, indices: Sequence[SupportsIndex], pin: bool = False) -> tuple[Tensor, list[int]]:
        """The objects of a batch back to back in one ``uint8`` tensor, and the bytes of each; one copy.

        ``pin`` is for pinned memory. The memory is used again when the last view of the tensor is gone.
        """
        urls = self._objects.urls([self._position(i) for i in indices])
        batch = self.cache._reader.read_batch(urls, allocate=pinned_array if pin else None)
        return torch.from_numpy(batch.buffer), np.diff(batch.offsets).tolist()

    def _sample(self, position: int, data: bytes) -> Any:
        sample = data if self.transform is None else self.transform(data)
        return sample if self.target is None else (sample, self.target(self._objects.key(position)))

    @property
    def keys(self) -> pa.ChunkedArray:
        """The keys of all samples: Arrow strings, mapped. ``keys.to_pylist()`` makes Python's of them."""
        return self._objects.keys

    def key(self, index: SupportsIndex) -> str:
        """The key of a sample, from which ``target`` makes its label."""
        return self._objects.key(self._position(index))

    def url(self, index: SupportsIndex) -> str:
        """The URL of a sample."""
        return self._objects.url(self._position(index))

    def extents(self, indices: Iterable[SupportsIndex]) -> list[list[Extent]]:
        """For each sample the ``(url, offset, length)`` that it reads, in bytes; as it was listed."""
        positions = [self._position(i) for i in indices]
        sizes = map(self._objects.size, positions)
        return [[(url, 0, size)] for url, size in zip(self._objects.urls(positions), sizes, strict=True)]

    def __repr__(self) -> str:
        return f"<ObjectDataset of {len(self)} objects, {self.url(0)} to {self.url(-1)}>"


class ShardDataset(_Native):
    """The samples of tar shards in WebDataset's layout, each to be had by its number.

    urls       the shards: one URL or several, with brace ranges: ``"s3://bucket/train-{0000..0146}.tar"``
    transform  makes the sample of the dictionary; without it, that is the sample
    cache      default: the one of `ioaccel.open`, which environment, ``ioaccel.toml`` or a daemon name

    Members ``0001.jpg`` and ``0001.cls`` are the sample ``{"__key__": "0001", "__url__": "s3://...",
    "jpg": bytes, "cls": bytes}``, as webdataset gives it before anything is decoded. They are numbered in the
    order of the shards and of their members.

    The headers of the shards are read once, when the first data set of these shards is made, and the index is
    kept in the cache directory. Raises FormatError for a shard that is compressed, truncated or no tar
    archive, and what the store says. Reading a sample raises what `Cache.read_many` raises, and
    ObjectChangedError if the shard was replaced after the data set was made.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        *,
        cache: Cache | None = None,
    ) -> None:
        self.transform = transform
        self.cache = cache if cache is not None else default_cache()
        self._index: TarIndex = tar_index(self.cache, urls)

    def __len__(self) -> int:
        return len(self._index)

    def __getitems__(self, indices: Sequence[SupportsIndex]) -> list[Any]:
        samples: list[dict[str, Any]] = []
        places: list[tuple[dict[str, Any], str]] = []
        extents: list[Extent] = []
        versions: list[int] = []
        for position in map(self._position, indices):
            shard = self._index.shard_of(position)
            found = self._index[position]
            sample: dict[str, Any] = {"__key__": found.key, "__url__": shard.url}
            samples.append(sample)
            for extension, offset, length in found.members:
                places.append((sample, extension))
                extents.append((shard.url, offset, length))
            versions += [version_hash(shard.version)] * len(found.members)
        # In the version that was indexed: in another, the same places hold anything.
        data = read_bytes(self.cache._reader, extents, versions)
        for (sample, extension), part in zip(places, data, strict=True):
            sample[extension] = part
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def url(self, index: SupportsIndex) -> str:
        """The URL of the shard in which a sample lies."""
        return self._index.shard_of(self._position(index)).url

    def key(self, index: SupportsIndex) -> str:
        """The key of a sample, ``__key__``."""
        return self._index[self._position(index)].key

    def extents(self, indices: Iterable[SupportsIndex]) -> list[list[Extent]]:
        """For each sample the ``(url, offset, length)`` of its members, in bytes."""
        return [self._index.extents(p) for p in map(self._position, indices)]

    def __repr__(self) -> str:
        return f"<ShardDataset of {len(self)} samples in {len(self._index.shards)} shards>"
