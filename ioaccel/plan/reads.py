"""Index -> extents: given by the user, derived from names that the data set tells, or recorded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
        try:
            parts = self._told(index)
            first = self.rules is None
            if self.rules is None:
                if _is_doubtful(parts, reads):
                    return False
                self.rules = _rules(parts, reads)
            said = _said(self.rules, parts)
        except Exception:  # noqa: BLE001  # a guess of ours about a stranger's class
            self.rules = []
            said = []
            first = False
        if all(any(_is(read, each) for each in said) for read in reads):
            if self.exact is None:
                self.exact = True
        else:
            self.exact = False
        if not all(any(_is(read, each) for read in reads) for each in said):
            self.exact, self.rules = False, []
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


def _is(read: Read, said: Read) -> bool:
    """Whether that is what was said: a file that is read in part may fill its buffer beyond it."""
    if read == said:
        return True
    if read.length is None or said.length is None or read[:3] != said[:3]:
        return False
    return said.length <= read.length < said.length + BUFFER_SIZE


def _is_doubtful(parts: Parts, reads: Iterable[Read]) -> bool:
    """Whether another sample tells more: any number that is 0 could be the place where this one begins."""
    return 0 in parts and any(read.offset == 0 and read.length is not None for read in reads)


def _rules(parts: Parts, reads: Iterable[Read]) -> list[Rule]:
    """How this entry says what was read."""
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
            if (part := rule if read.length is None else _part_of(rule, parts, read)) is not None:
                rules.append(part)
                break
    return rules


def _part_of(rule: Rule, parts: Parts, read: Read) -> Rule | None:
    """The same rule, with the positions of what says which part is read."""
    for start, offset in enumerate(parts):
        if offset != read.offset:
            continue
        for stop in range(len(parts)):
            for ends in (False, True):
                told = replace(rule, start=start, stop=stop, ends=ends)
                said = told.read(parts)
                if said is None or stop == start or (said.length or 0) < _SHORTEST_PART:
                    continue
                if _is(read, said):
                    return told
    return None


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
