"""Index -> extents: given by the user, derived from names that the data set tells, or recorded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ioaccel.intercept import Read
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

    A rule is learnt from the first sample that was read, and holds as long as what is read fits it.
    """

    def __init__(
        self,
        told: tuple[Names, str] | None,
        given: Extents | None,
        trace: Trace,
        rules: dict[int, Rule] | None = None,
    ) -> None:
        self._told = told[0] if told else None
        self._attribute = told[1] if told else ""
        self._given = given
        self._trace = trace
        self.rules = rules  # by position among the names of an entry
        self._stores: dict[str, str] = {}  # scheme -> the store that it was read from
        self.exact = given is not None  # the rules alone say all that is read

    def of(self, indices: Sequence[int]) -> list[Read]:
        """What these samples will read, in order; nothing for those that are not known."""
        if self._given is not None:
            return [self._placed(read) for reads in self._given(indices) for read in reads]
        rules, told = self.rules, self._told
        if rules is not None and told is not None and (self.exact or not self._trace.known):
            found = []
            for index in indices:
                names = told(index)
                found += [rule.read(names[at]) for at, rule in rules.items() if at < len(names)]
            return found
        return self._trace.of(indices)

    def learn(self, index: int, reads: Sequence[Read]) -> None:
        """Takes note of what a sample has read."""
        if self._given is not None:
            self._stores.update((read.url.partition("://")[0], read.store) for read in reads)
        if self._given is not None or not reads or self._told is None:
            return
        try:
            names = self._told(index)
        except Exception:  # noqa: BLE001  # a guess of ours about a stranger's class
            self._told = None
            return
        urls = {read.url: read.store for read in reads}
        if self.rules is None:
            self.rules = _rules(names, urls)
            if not self.rules:
                self._told = None
        self.exact = {rule.read(names[at]).url for at, rule in self.rules.items()} == urls.keys()

    def record(self, records: Iterable[tuple[int, Sequence[Read]]]) -> None:
        """Has what samples have read written down, if nothing else says it."""
        if not self.exact:
            self._trace.add(records)

    def keep(self) -> None:
        """Writes the records down; without them, the next epoch is only slower."""
        try:
            self._trace.keep()
        except OSError as error:
            log.warning("what samples read cannot be written down: %s", error)

    def source(self) -> str:
        """Where it is known from what samples read."""
        if self._given is not None:
            return "what each sample reads is given: prefetch is exact from the first batch on"
        if self.rules and self.exact:
            return f"the data set tells what each sample reads, in .{self._attribute}: prefetch is exact"
        if self._trace.known:
            return "what each sample reads was recorded in an earlier epoch: prefetch is exact"
        return "what each sample reads is being recorded: prefetch begins with the next epoch"

    def _placed(self, read: Read) -> Read:
        """The extent in the store that the data set reads it from, if that was seen."""
        return read._replace(store=self._stores.get(read.url.partition("://")[0], read.store))


def _rules(names: Sequence[str], urls: dict[str, str]) -> dict[int, Rule]:
    rules = {}
    for at, name in enumerate(names):
        for url, store in urls.items():
            if name and url.endswith(name):
                rules[at] = Rule(store, url.removesuffix(name), absolute=False)
            elif url == "file://" + os.path.abspath(name):
                rules[at] = Rule(store, "file://", absolute=True)
    return rules


def fingerprint(dataset: Any) -> str:
    """Names a data set from run to run: its class, its length, and what is simple among its attributes.

    Two data sets with one fingerprint share their records: that costs needless prefetches, no more.
    """
    parts = [type(dataset).__module__, type(dataset).__qualname__, str(_length(dataset))]
    for name, value in sorted(getattr(dataset, "__dict__", {}).items()):
        parts.append(f"{name}={_simple(value)}")
    return "\n".join(parts)


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:
        return None


def _simple(value: Any) -> str:
    if isinstance(value, (str, int, float, bool, os.PathLike)) or value is None:
        return repr(value)
    if isinstance(value, (list, tuple)) and value:
        return f"{len(value)}:{_simple(value[0])}:{_simple(value[-1])}"
    return type(value).__qualname__
