"""What a data set tells of the files behind its samples."""

from __future__ import annotations

import bisect
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any

# Attributes under which data sets keep the names of their samples' files, the commonest first:
# torchvision's and timm's folders, Hugging Face's and hand-written ones.
ATTRIBUTES = ("samples", "imgs", "files", "paths", "urls", "keys")

# What an entry says, by position: names of files, whole numbers (labels, offsets ...), None for all else.
Parts = tuple[str | int | None, ...]
Names = Callable[[int], Parts]


def names_of(dataset: Any) -> tuple[Names, str] | None:
    """A function from an index to what its entry says, and the attribute that the entries stand in.

    Looks through torch's ``Subset`` and ``ConcatDataset``. What it finds is a guess: an attribute of the
    right name and length may be anything.
    """
    try:
        inner = _view_of(dataset)
    except Exception:  # noqa: BLE001  # as below
        inner = None
    if inner is not None:
        return inner
    for attribute in ATTRIBUTES:
        try:
            entries: Any = getattr(dataset, attribute, None)
            if (
                (isinstance(entries, Sequence) or type(entries).__module__ == "numpy")
                and not isinstance(entries, (str, bytes))
                and len(entries) == len(dataset)
                and len(entries)
                and any(isinstance(part, str) for part in _parts_of(entries[0]))
            ):
                return (lambda i, entries=entries: _parts_of(entries[i])), attribute
        except Exception:  # noqa: BLE001, S112  # properties of a stranger's class
            continue
    return None


def _view_of(dataset: Any) -> tuple[Names, str] | None:
    """Of a part of another data set, or of several."""
    name = type(dataset).__name__
    indices, parts, sizes = (getattr(dataset, a, None) for a in ("indices", "datasets", "cumulative_sizes"))
    if name == "Subset" and indices is not None:
        told = names_of(dataset.dataset)
        if told is not None:
            names, attribute = told
            return (lambda i: names(int(indices[i]))), attribute
    if name == "ConcatDataset" and parts and sizes:
        every = [names_of(part) for part in parts]

        def find(i: int) -> Parts:
            part = bisect.bisect_right(sizes, i)
            told = every[part]
            return told[0](i - (sizes[part - 1] if part else 0)) if told is not None else ()

        if any(every):
            return find, next(told[1] for told in every if told)
    return None


def _parts_of(entry: Any) -> Parts:
    """A name alone, or what a tuple says: names beside a label, or beside an offset and a length."""
    if isinstance(entry, (tuple, list)):
        return tuple(map(_part, entry))
    return (_part(entry),) if isinstance(entry, (str, os.PathLike)) else ()


def _part(value: Any) -> str | int | None:
    if isinstance(value, (str, os.PathLike)):
        return os.fsdecode(value)
    try:
        return operator.index(value)
    except Exception:  # noqa: BLE001  # a label of any kind, such as a tensor on a GPU
        return None
