"""Index -> extents: given by the user, derived from names that the data set tells, or recorded."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ioaccel.client.file import BUFFER_SIZE
from ioaccel.intercept.reads import Read
from ioaccel.plan.told import Names, Parts
from ioaccel.plan.trace import Trace

log = logging.getLogger("ioaccel")

Extents = Callable[[Sequence[int]], Iterable[Iterable[Read]]]


# Shorter reads are also found by chance among the numbers of an entry.
_SHORTEST_PART = 512


@dataclass(frozen=True)
class Rule:
    """How an entry says what is read: the URL is ``prefix`` and the name at position ``name``.

    All of the object, or the part that begins at the number at position ``start`` and has as many bytes
    as the one at ``stop`` says, or ends there.
    """

    store: str
    prefix: str
    absolute: bool  # the name is a path, to be made absolute first
    name: int
    start: int | None = None
    stop: int | None = None
    ends: bool = False  # what is at ``stop`` is the end, not the length

    def read(self, parts: Parts) -> Read | None:
        """What is read of this entry; None if it does not say it."""
        name = parts[self.name] if self.name < len(parts) else None
        if not isinstance(name, str):
            return None
        url = self.prefix + (os.path.abspath(name) if self.absolute else name)
        if self.start is None or self.stop is None:
            return Read(self.store, url, 0, None)
        if max(self.start, self.stop) >= len(parts):
            return None
        start, stop = parts[self.start], parts[self.stop]
        if not isinstance(start, int) or not isinstance(stop, int):
            return None
        length = stop - start if self.ends else stop
        return Read(self.store, url, start, length) if start >= 0 and length > 0 else None


class Reads:
    """What each sample reads, as far as it is known. One thread.

    A rule is learnt from the first sample that was read. It is dropped when a sample does not read what the
    rule says; and once a sample has read more than the rules say, all is recorded.
    """

    def __init__(
        self,
        told: tuple[Names, str] | None,
        given: Extents | None,
        trace: Trace,
        rules: list[Rule] | None = None,
        exact: bool | None = None,
        count: int = 0,
    ) -> None:
        self._told = told[0] if told else None
        self._attribute = told[1] if told else ""
        self._given = given
        self._trace = trace
        self._count = count  # of samples
        self.rules = rules  # empty: entries say nothing
        self._stores: dict[str, str] = {}  # scheme -> the store that it was read from
        # Whether the rules alone say all that is read; None if no sample was read yet.
        self.exact = True if given is not None else exact

    def of(self, indices: Sequence[int]) -> list[Read]:
        """What these samples will read, in order; nothing for those that are not known."""
        return [read for reads in self.each_of(indices) for read in reads]

    def each_of(self, indices: Sequence[int]) -> list[list[Read]]:
        """The same, by sample."""
        if self._given is not None:
            return [[self._placed(read) for read in reads] for reads in self._given(indices)]
        self._trace.refresh()
        ruled = self._told is not None and bool(self.rules)
        if ruled and self.exact:
            return [self._by_rule(index) for index in indices]
        each = self._trace.each_of(indices)
        return [reads or self._by_rule(i) for i, reads in zip(indices, each, strict=True)] if ruled else each

    @property
    def _mostly_recorded(self) -> bool:
        return self._trace.samples > self._count / 2

    @property
    def known(self) -> bool:
        """Whether it is known of most samples what they read."""
        return self._given is not None or bool(self.exact and self.rules) or self._mostly_recorded

    def _by_rule(self, index: int) -> list[Read]:
        assert self._told is not None
        assert self.rules is not None
        return _said(self.rules, self._told(index))

    def learn(self, index: int, reads: Sequence[Read]) -> bool:
        """Takes note of what a sample has read; whether that tells what others read."""
        if self._given is not None:
            known = len(self._stores)
            self._stores.update((read.url.partition("://")[0], read.store) for read in reads)
            return len(self._stores) > known
        if not reads or self._told is None or self.rules == []:
            return False
        first = self.rules is None
        try:
            parts = self._told(index)
            if self.rules is None:
                self.rules = _rules(parts, reads)
            if self.rules is None:
                return False  # another sample tells more
            said = _said(self.rules, parts)
        except Exception:  # noqa: BLE001  # a guess of ours about a stranger's class
            self.rules, said = [], []
        if not _all_of(said, reads, _overlap):
            self.exact, self.rules = False, []
        elif not _all_of(reads, said, _inside):
            self.exact = False
        elif self.exact is None:
            self.exact = True
        return first and bool(self.rules)

    def record(self, records: Iterable[tuple[int, Sequence[Read]]]) -> None:
        """Has what samples have read written down, if nothing else says it."""
        if not self.exact:
            self._trace.add(records)

    def keep(self) -> None:
        """Writes the records down; without them, the next epoch is only slower."""
        try:
            self._trace.keep()
        except Exception as error:  # noqa: BLE001  # also what Arrow says of a file that others have damaged
            log.warning("what samples read cannot be written down: %s", error)

    def source(self) -> str:
        """Where it is known from what samples read."""
        if self._given is not None:
            return "what each sample reads is given: prefetch is exact from the first batch on"
        if self.rules and self.exact:
            return f"the data set tells what each sample reads, in .{self._attribute}: prefetch is exact"
        if self._trace.known:
            return "what each sample reads was recorded in an earlier epoch: prefetch is exact"
        if self.rules:
            part = f"the data set tells a part of what each sample reads, in .{self._attribute}"
            return f"{part}; all of it is being recorded"
        return "what each sample reads is being recorded: prefetch begins with the next epoch"

    def _placed(self, read: Read) -> Read:
        """The extent in the store that the data set reads it from, if that was seen."""
        return read._replace(store=self._stores.get(read.url.partition("://")[0], read.store))


def _said(rules: Iterable[Rule], parts: Parts) -> list[Read]:
    return [read for rule in rules if (read := rule.read(parts)) is not None]


def _all_of(some: Sequence[Read], others: Sequence[Read], are: Callable[[Read, Read], bool]) -> bool:
    """Whether each of some stands so to one of the others, of the same object."""
    if list(some) == list(others):
        return True
    objects: defaultdict[tuple[str, str], list[Read]] = defaultdict(list)
    for other in others:
        objects[other.store, other.url].append(other)
    return all(any(are(one, other) for other in objects[one.store, one.url]) for one in some)


def _end(read: Read) -> float:
    return math.inf if read.length is None else read.offset + read.length


def _overlap(said: Read, read: Read) -> bool:
    """Whether what was said was read: of a part, any of it, as a buffer may have held some already."""
    if said.length is None:
        return read == said
    return said.offset < _end(read) and read.offset < _end(said)


def _inside(read: Read, said: Read) -> bool:
    """Whether only that was read; a file that is read in part fills its buffer beyond it."""
    if said.length is None:
        return read == said
    return said.offset <= read.offset and _end(read) < _end(said) + BUFFER_SIZE


def _fills(read: Read, said: Read) -> bool:
    """Whether what was said was read, and no more than a buffer beyond it."""
    return _end(said) <= _end(read) < _end(said) + BUFFER_SIZE


def _rules(parts: Parts, reads: Sequence[Read]) -> list[Rule] | None:
    """How this entry says what was read; None if it could be in more than one way."""
    rules = []
    for at, name in enumerate(parts):
        if not name or not isinstance(name, str):
            continue
        for read in reads:
            if read.url.endswith(name):
                rule = Rule(read.store, read.url.removesuffix(name), absolute=False, name=at)
            elif read.url == "file://" + os.path.abspath(name):
                rule = Rule(read.store, "file://", absolute=True, name=at)
            else:
                continue
            ways = [rule] if read.length is None else _ways_to_say(rule, parts, read)
            if len({(way.read(parts), way.start) for way in ways}) > 1:
                return None
            if ways and read.length is not None and read.offset == 0:
                return None  # there, a length is an end, and any 0 an offset
            rules += ways[:1]
            break
    return rules


def _ways_to_say(rule: Rule, parts: Parts, read: Read) -> list[Rule]:
    """The same rule, with the positions of what may say which part was read: to the byte, if any does."""
    exact, near = [], []
    for start, stop, ends in product(range(len(parts)), range(len(parts)), (False, True)):
        if start == stop or parts[start] != read.offset:
            continue
        way = replace(rule, start=start, stop=stop, ends=ends)
        said = way.read(parts)
        if said == read:
            exact.append(way)
        elif said is not None and (said.length or 0) >= _SHORTEST_PART and _fills(read, said):
            near.append(way)
    return exact or near


# Data sets that stand in each other: a subset of a concatenation of subsets ...
_DEPTH = 4


def fingerprint(dataset: Any) -> str:
    """Names a data set from run to run: its class, its length, and what is simple among its attributes.

    Two data sets with one fingerprint share their records: that costs needless prefetches, no more.
    """
    return "\n".join(_facts(dataset, _DEPTH))


def _facts(dataset: Any, depth: int) -> list[str]:
    parts = [type(dataset).__module__, type(dataset).__qualname__, str(_length(dataset))]
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        parts.append(f"{name}={_simple(value, depth)}")
    return parts


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except Exception:  # noqa: BLE001  # it has none, or does not know it yet
        return None


def _simple(value: Any, depth: int) -> str:
    if isinstance(value, (str, int, float, bool, os.PathLike)) or value is None:
        return repr(value)
    if isinstance(value, (list, tuple)) and value and depth:
        return f"{len(value)}:{_simple(value[0], depth - 1)}:{_simple(value[-1], depth - 1)}"
    if hasattr(type(value), "__getitem__") and hasattr(value, "__dict__") and depth:
        return repr(_facts(value, depth - 1))
    return type(value).__qualname__
