"""Index -> extents: given by the user, derived from names that the data set tells, or recorded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ioaccel.intercept.reads import Read
from ioaccel.plan.told import Names
from ioaccel.plan.trace import Trace

log = logging.getLogger("ioaccel")

Extents = Callable[[Sequence[int]], Iterable[Iterable[Read]]]


@dataclass(frozen=True)
class Rule:
    """How the name at one position of an entry becomes a URL: ``prefix + name``."""

    store: str
    prefix: str
    absolute: bool  # the name is a path, to be made absolute first

    def read(self, name: str) -> Read:
        return Read(self.store, self.prefix + (os.path.abspath(name) if self.absolute else name), 0, None)


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
        rules: dict[int, Rule] | None = None,
        exact: bool | None = None,
        count: int = 0,
    ) -> None:
        self._told = told[0] if told else None
        self._attribute = told[1] if told else ""
        self._given = given
        self._trace = trace
        self._count = count  # of samples
        self.rules = rules  # by position among the names of an entry; empty: they say nothing
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
        names = self._told(index)
        return [rule.read(names[at]) for at, rule in self.rules.items() if at < len(names)]

    def learn(self, index: int, reads: Sequence[Read]) -> bool:
        """Takes note of what a sample has read; whether that tells what others read."""
        if self._given is not None:
            known = len(self._stores)
            self._stores.update((read.url.partition("://")[0], read.store) for read in reads)
            return len(self._stores) > known
        if not reads or self._told is None or self.rules == {}:
            return False
        try:
            names = self._told(index)
            first = self.rules is None
            if self.rules is None:
                self.rules = _rules(names, reads)
            said = {rule.read(names[at]) for at, rule in self.rules.items()}
        except Exception:  # noqa: BLE001  # a guess of ours about a stranger's class
            self.rules = {}
            said = set()
            first = False
        if said == set(reads) and self.exact is None:
            self.exact = True
        elif said != set(reads):
            self.exact = False
            if not said <= set(reads):
                self.rules = {}
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


def _rules(names: Sequence[str], reads: Iterable[Read]) -> dict[int, Rule]:
    rules = {}
    whole = [read for read in reads if read.offset == 0 and read.length is None]
    for at, name in enumerate(names):
        for read in whole if name else ():
            if read.url.endswith(name):
                rules[at] = Rule(read.store, read.url.removesuffix(name), absolute=False)
            elif read.url == "file://" + os.path.abspath(name):
                rules[at] = Rule(read.store, "file://", absolute=True)
    return rules


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
