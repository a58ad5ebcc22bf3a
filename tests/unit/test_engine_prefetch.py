"""Waves of prefetches: what there was no room for leaves again, in its order."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from support import wait_for

from ioaccel import wire
from ioaccel._core._engine import Index, block_key
from ioaccel.engine.block import Block
from ioaccel.engine.passing import Passing
from ioaccel.engine.prefetch import Prefetches, Settled, Wave
from ioaccel.engine.transit import SEGMENT_SIZE, SEGMENTS, Transit

SIZE = 1 << 20


def message(numbers: range, round_: int = 0) -> wire.Prefetch:
    extents: list[wire.Extent] = [(f"s3://b/{n}", 0, None) for n in numbers]
    return wire.Prefetch("job", {}, extents, 0, 10.0, plan=("plan", round_))


def key_of(number: int) -> bytes:
    return block_key(bytes(16), f"s3://b/{number}")


class FullCache:
    """Brings what its plan has room for past a cache that is full."""

    def __init__(self, transit: Transit) -> None:
        self.transit = transit
        self.passing = Passing(transit, lambda: frozenset({"job"}))
        self.prefetches = Prefetches(self.settle, lambda: frozenset({"job"}), self.passing)
        self.left: Counter[int] = Counter()
        self.brought: list[int] = []
        self.lock = threading.Lock()
        self.held_up = threading.Event()
        self.held_up.set()

    def settle_down(self) -> None:
        """Waits until no wave leaves any more; those that were called take a moment to come."""
        for _ in range(3):
            wait_for(lambda: self.prefetches._idle == self.prefetches._threads)
            time.sleep(0.01)

    def settle(self, wave: Wave) -> Settled:
        ahead = wave.ahead
        assert ahead is not None
        refused = []
        for n, (url, _, _) in enumerate(wave.extents):
            number = int(url.rpartition("/")[2])
            key = key_of(number)
            self.left[number] += 1
            if self.passing.admit(ahead, key, SIZE):
                location = self.transit.store(Block(key, url, "v", SIZE, 0, 1), bytes(SIZE), SIZE)
                self.passing.bring(ahead, key, location, 7, SIZE)
                with self.lock:
                    self.brought.append(number)
            elif self.passing.wants(ahead, [key]):
                refused.append(n)
        assert self.held_up.wait(10)
        return Settled(False, refused)


@pytest.fixture
def full() -> Iterator[FullCache]:
    transit = Transit(0, Index([SEGMENTS], [SEGMENT_SIZE]))
    full = FullCache(transit)
    yield full
    full.prefetches.close()
    wait_for(lambda: not any(t.name == "ioaccel-prefetch" for t in threading.enumerate()))
    transit.close()


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_what_there_was_no_room_for_leaves_again_in_its_order(full: FullCache, batch: int) -> None:
    count = 200
    for start in range(0, count, batch):
        full.prefetches.add(message(range(start, min(start + batch, count))))
    on_demand = 0
    for number in range(count):
        if number % 4 == 0:
            full.settle_down()
        assert max(full.brought) - number <= SEGMENTS * SEGMENT_SIZE // 2 // SIZE, "or it is overwritten"
        on_demand += full.passing.take("job", key_of(number), 7, whole=True) is None
    assert len(set(full.brought)) == len(full.brought) == count - on_demand
    assert on_demand <= 16
    assert max(full.left.values()) <= 8, "they wait for room, and do not go round and round"


def test_what_there_was_no_room_for_is_dropped_with_its_round(full: FullCache) -> None:
    full.held_up.clear()
    full.prefetches.add(message(range(64)))
    wait_for(lambda: sum(full.left.values()) == 64)
    full.prefetches.add(message(range(100, 110), round_=1))
    full.held_up.set()
    wait_for(lambda: set(range(100, 110)) <= set(full.brought))
    assert full.left == Counter([*range(64), *range(100, 110)])
