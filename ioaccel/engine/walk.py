"""How far the listing of one directory has been read, to check the versions of what is in it.

A page of a listing costs one request and checks a thousand objects, so neighbours are checked together.
The first page shows how many of those that are asked for stand on it, and so about how many pages there
are; further ones are then read from several places at once. For few pages, whoever checks something waits;
where there are many, each object is asked for by itself, and pages are read in the background.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence

# Pages that are asked for at once, and how many times somebody waits for that: a store that answers a
# request for one object in 20 ms takes 100 ms and more for a page.
_AT_ONCE = 8
WAITS = 3
_MOST_PAGES = 1 + (WAITS - 1) * _AT_ONCE


class Front:
    """A place in the listing from which it is read on, until where the next one began."""

    __slots__ = ("after", "begun", "done", "under_way")

    def __init__(self, after: str) -> None:
        self.begun = after
        self.after = after
        self.done = False
        self.under_way = False  # in the background


class Walk:
    """One directory's listing, for all who want what it says as of ``begun_ms`` or later. Any thread."""

    def __init__(self, begun_ms: int) -> None:
        self.begun_ms = begun_ms
        self.large = False  # of so many pages that nobody should wait for them
        self._asked = 0  # objects
        self._read = 0  # pages
        self._lock = threading.Lock()
        self._fronts = [Front("")]

    def ask(self, objects: int) -> int:
        """So many objects of the directory are to be checked; how many that have been, with these."""
        with self._lock:
            self._asked += objects
            return self._asked

    def pages(self, wanted: Sequence[str]) -> list[tuple[Front, str]]:
        """The pages that come next where these keys, in their order, may stand: each begins behind a key."""
        with self._lock:
            pages = []
            ends = [*(front.begun for front in self._fronts[1:]), None]
            for front, end in zip(self._fronts, ends, strict=True):
                ahead = bisect_right(wanted, front.after)
                if not front.done and ahead < len(wanted) and (end is None or wanted[ahead] <= end):
                    pages.append((front, front.after))
            return pages

    def pays(self, front: Front) -> bool:
        """Whether there is a page left, and no more were read than objects were asked for."""
        return not front.done and self._read < self._asked

    def begin(self) -> list[Front]:
        """The fronts that are to be moved on in the background, and are not; they are from now on."""
        with self._lock:
            idle = [front for front in self._fronts if not front.under_way and self.pays(front)]
            for front in idle:
                front.under_way = True
            return idle

    def read(self, front: Front, after: str, last: str | None) -> None:
        """The page behind ``after`` was read; ``last`` is the last key on it, None where the listing ends."""
        with self._lock:
            self._read += 1
            if front.after != after:
                return  # somebody else has read it, too
            following = self._fronts[self._fronts.index(front) + 1 :]
            if last is None:
                for each in (front, *following):
                    each.done = True
            else:
                front.after = last
                front.done = any(last >= each.begun for each in following)

    def spread(self, found: int, left: Sequence[str]) -> None:
        """Who looks for these keys, in their order, has found as many more on the first page."""
        with self._lock:
            first = self._fronts[0]
            if len(self._fronts) > 1 or first.done:
                return
            self.large = len(left) >= _MOST_PAGES * max(found, 1)
            count = min(_AT_ONCE, -(-len(left) // max(found, 1)))
            # The listing begins behind a key: that without its last character stands before it.
            starts = sorted({left[len(left) * n // count][:-1] for n in range(1, count)})
            self._fronts += [Front(start) for start in starts if start > first.after]
