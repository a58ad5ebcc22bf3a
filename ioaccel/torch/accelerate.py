"""``accelerate``: a data set or a loader that exists already, read through the cache."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn, TypeVar, cast

from torch.utils.data import DataLoader, Dataset, Subset

from ioaccel.client.cache import Cache, connect
from ioaccel.client.default import default_cache
from ioaccel.client.shared import Settings as Connect
from ioaccel.errors import ConfigError
from ioaccel.intercept.reads import Read
from ioaccel.plan.reads import fingerprint
from ioaccel.torch.dataset import Settings, settings_of, wrap
from ioaccel.torch.lookahead import accelerated
from ioaccel.torch.native import ObjectDataset, ShardDataset

T = TypeVar("T")

# They have items, and are no data sets by themselves.
_BUILT_IN = (str, bytes, bytearray, list, tuple, range, dict)


def accelerate(
    data: T,
    *,
    cache: Cache | None = None,
    paths: Iterable[str | os.PathLike[str]] = (),
    extents: Callable[[int], Any] | Sequence[Any] | None = None,
    explain: bool = False,
    **connect_options: Any,
) -> T:
    """The same ``DataLoader``, or ``Dataset``, whose reads come from the cache.

    Samples, their order, batches and random states are those of ``data``. What the data set reads
    with fsspec, with ``ioaccel`` itself, and with ``open`` below ``paths`` is cached; a loader's sampler is
    run ahead, and what it will draw is fetched before it is asked for. Reads that cannot be met (C
    libraries that open files themselves) go on as before.

    data             a ``torch.utils.data.DataLoader`` or ``Dataset``; accelerated already, it is returned
    cache            where to keep what is read; default: as ``ioaccel.open``, or what ``connect_options``,
                     the arguments of `ioaccel.connect` (``cache_dir=``, ``cache_size=`` ...), say
    paths            directories, of a slow mount for example, whose files are cached
    extents          what sample ``i`` reads, if the data set does not show it: ``extents(i)`` or
                     ``extents[i]`` is a URL, an extent ``(url, offset, length)`` or a list of them
    explain          print after each epoch what it waited for; see also ``loader.explain()``

    Raises ConfigError for what is neither, and as `ioaccel.connect`.
    """
    if not isinstance(data, (DataLoader, Dataset)) and (
        isinstance(data, _BUILT_IN) or not hasattr(type(data), "__getitem__")
    ):
        raise ConfigError(
            f"accelerate() takes a torch DataLoader or Dataset, not {type(data).__name__}; pass what you "
            "iterate over"
        )
    if cache is not None and connect_options:
        raise ConfigError(f"pass cache= or {min(connect_options)}=, not both")
    prepared = getattr(data, "base_dataloader", None) if isinstance(data, DataLoader) else None
    if isinstance(prepared, DataLoader):
        return _prepared(data, prepared, cache, paths, extents, explain, connect_options)
    inner = data.dataset if isinstance(data, DataLoader) else data
    settings = settings_of(inner)
    if settings is None:
        if isinstance(paths, (str, os.PathLike)):
            raise ConfigError(f"paths is a list of directories, not {paths!r}; put it into a list")
        directories = [os.fspath(path) for path in paths]
        for path in directories:
            if not os.path.isdir(path):
                raise ConfigError(f"paths: {path} is no directory; name one whose files the data set opens")
        if cache is None:
            cache = _connected(connect_options) if connect_options else _cache_of(inner)
        settings = Settings(cache._reader, directories, _extents(inner, extents), fingerprint(inner))
        settings.cache = cache
        settings.batched = extents is None and settings.extents is not None
        inner = wrap(inner, settings)
    if not isinstance(data, DataLoader):
        return cast("T", inner)
    return cast("T", accelerated(data, inner, settings, explain))


def _prepared(data: T, inner: Any, cache: Any, paths: Any, extents: Any, explain: bool, options: Any) -> T:
    """A loader around another one, which it iterates over, as Hugging Face's ``Accelerator.prepare`` makes
    it: one around that, accelerated."""
    wrapped = accelerate(inner, cache=cache, paths=paths, extents=extents, explain=explain, **options)
    if wrapped is inner:
        return data
    made: Any = copy.copy(data)
    made.base_dataloader = wrapped
    if not hasattr(type(data), "state_dict"):  # it would be asked of the one inside, which is a batch ahead
        made.state_dict = made.load_state_dict = _refuse_state
    return cast("T", made)


def _refuse_state(*_: Any) -> NoReturn:
    raise ConfigError(
        "a prepared loader has drawn a batch more than it has given, so its state would not be exact; use "
        "accelerator.skip_first_batches() to go on in the middle of an epoch"
    )


def _connected(options: dict[str, Any]) -> Cache:
    """One cache for the same settings, as long as a loader or data set uses it."""
    if unknown := options.keys() - {field.name for field in dataclasses.fields(Connect)}:
        raise TypeError(f"accelerate() got an unexpected argument {min(unknown)!r}; see ioaccel.connect, too")
    key = Connect(**options).key()
    cache = _caches.get(key)
    if cache is None or cache._reader._closed:
        cache = _caches[key] = connect(**options)
    return cache


_caches: weakref.WeakValueDictionary[str, Cache] = weakref.WeakValueDictionary()


def _cache_of(dataset: Any) -> Cache:
    """The cache that ioaccel's data sets read through already, or the default one."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset.cache if isinstance(dataset, (ObjectDataset, ShardDataset)) else default_cache()


def _extents(dataset: Any, given: Any) -> Callable[[Settings, Sequence[int]], Any] | None:
    """From indices to reads, as the user gave it, or as ioaccel's own data sets have it."""
    if given is None:
        own = own_extents(dataset)
        return None if own is None else functools.partial(_all_of, own)
    if not callable(given) and not hasattr(given, "__getitem__"):
        raise ConfigError(f"extents is a function of an index or a list, not {type(given).__name__}")
    return functools.partial(_each_of, given)


def own_extents(dataset: Any) -> Callable[[Sequence[int]], Iterable[Any]] | None:
    """What the samples of one of ioaccel's data sets read, or of a ``Subset`` of one."""
    if isinstance(dataset, (ObjectDataset, ShardDataset)):
        return dataset.extents
    if type(dataset) is Subset and (inner := own_extents(dataset.dataset)) is not None:
        return functools.partial(_of_subset, inner, dataset.indices)
    return None


def _of_subset(
    inner: Callable[[Sequence[int]], Any], positions: Sequence[int], indices: Sequence[int]
) -> Any:
    return inner([positions[i] for i in indices])


def _all_of(own: Callable[[Sequence[int]], Iterable[Any]], settings: Settings, indices: Sequence[int]) -> Any:
    return [_reads(settings, extents) for extents in own(indices)]


def _each_of(given: Any, settings: Settings, indices: Sequence[int]) -> Any:
    return [_reads(settings, given(i) if callable(given) else given[i]) for i in indices]


def _reads(settings: Settings, extents: Any) -> list[Read]:
    reader = settings.reader
    if isinstance(extents, (str, os.PathLike, tuple)):
        extents = [extents]
    found = []
    for url, offset, length in reader.extents(extents):
        store = reader.spec_of(url.partition("://")[0]).identity.hex()
        settings.stores.setdefault(store, reader)
        found.append(Read(store, url, offset, length))
    return found
