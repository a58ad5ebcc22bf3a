"""The copy of a sampler that is run ahead: what it draws, what it leaves alone, and what it refuses."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from support import torch_data as td
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ioaccel.torch import random_state
from ioaccel.torch.outside import Shared, generators_outside
from ioaccel.torch.shadow import Shadow

COUNT = 12


def drawn(shadow: Shadow) -> list[Any]:
    return list(iter(shadow.next, None))


TABLES: list[int] = []


class Foreign:
    """A data set of a library that does not derive its own from torch's (Hugging Face's)."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> int:
        TABLES.append(index)
        return index


class OverForeign:
    def __init__(self, data_source: Foreign) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(len(self.data_source)).tolist())


SAMPLERS: dict[str, Any] = {
    "sequential": lambda: SequentialSampler(range(COUNT)),
    "random": lambda: RandomSampler(range(COUNT)),
    "generator": lambda: RandomSampler(range(COUNT), generator=torch.Generator().manual_seed(1)),
    "weighted": lambda: WeightedRandomSampler([1.0] * COUNT, COUNT),
    "subset": lambda: SubsetRandomSampler([1, 3, 5]),
    "distributed": lambda: DistributedSampler(range(COUNT), 2, 0),  # type: ignore[arg-type]
    "eager": lambda: td.Eager(COUNT),
    "lazily": lambda: td.Lazily(COUNT),
    "in place": lambda: td.InPlace(COUNT),
    "module": lambda: td.OfItsModule(COUNT),
    "class": lambda: td.OfItsClass(COUNT),
    "batches": lambda: BatchSampler(td.Lazily(COUNT), 5, False),
    "another library's data": lambda: RandomSampler(Foreign()),
    "own, over another library's data": lambda: OverForeign(Foreign()),
    "list": lambda: [[1, 2], [3]],
    "iterator": lambda: iter([3, 1, 2]),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_it_draws_what_the_sampler_will_draw(name: str) -> None:
    td.seed()
    sampler = SAMPLERS[name]()
    for _ in range(2):
        states = td.state(), td.GLOBAL.bit_generator.state, td.OfItsClass.rng.getstate()
        shadow = Shadow(sampler, [])
        ahead = [shadow.next(), shadow.next()]
        assert (td.state(), td.GLOBAL.bit_generator.state, td.OfItsClass.rng.getstate()) == states
        ahead = [index for index in ahead if index is not None] + drawn(shadow)
        assert (td.state(), td.GLOBAL.bit_generator.state, td.OfItsClass.rng.getstate()) == states
        real = list(sampler)
        assert ahead == real


def closure() -> Any:
    count = 0

    class Counts(td.Eager):
        def __iter__(self) -> Iterator[int]:
            nonlocal count
            count += 1
            return iter([count])

    return Counts(1)


class Written(td.Eager):
    def __iter__(self) -> Iterator[int]:
        global WRITTEN  # noqa: PLW0603  # what is refused
        WRITTEN += 1
        return iter([WRITTEN])


WRITTEN = 0


class Calls(td.Eager):
    """What is changed is two calls away."""

    def __iter__(self) -> Iterator[int]:
        return iter(helper())


def helper() -> list[int]:
    random.shuffle(td.GLOBAL_ORDER)
    return deeper()


def deeper() -> list[int]:
    ORDER.append(1)
    return ORDER


ORDER: list[int] = []


class Queued(td.Eager):
    def __init__(self) -> None:
        super().__init__(3)
        self.queue: queue.Queue[int] = queue.Queue()

    def __iter__(self) -> Iterator[int]:
        while True:
            yield self.queue.get()  # for ever


class Itself(td.Eager):
    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Listed(td.Eager):
    order: ClassVar[list[int]] = [1, 2, 3]

    def __iter__(self) -> Iterator[int]:
        random.shuffle(self.order)
        return iter(self.order)


class Held(td.Eager):
    def __init__(self, draw: Any) -> None:
        super().__init__(3)
        self.draw = draw

    def __iter__(self) -> Iterator[int]:
        return iter([self.draw()])


REFUSED: dict[str, Any] = {
    "closure": closure,
    "global": lambda: Written(1),
    "another's list": lambda: td.ChangesAGlobal(COUNT),
    "two calls away": lambda: Calls(1),
    "a queue": Queued,
    "a generator": lambda: td.Uncopied(COUNT),
    "itself": lambda: Itself(3),
    "a list of the class": lambda: Listed(3),
    "an iterator that calls": lambda: iter(lambda: [ORDER.pop()], None),
    "map": lambda: map(ORDER.append, [1, 2]),
    "a function that it holds": lambda: Held(lambda: [ORDER.append(1)]),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_it_refuses_what_it_could_change(name: str) -> None:
    sampler = REFUSED[name]()
    ORDER[:] = [1, 2, 3]
    before = WRITTEN, list(ORDER), list(td.GLOBAL_ORDER), list(Listed.order)
    with pytest.raises((Shared, TypeError)):
        Shadow(sampler, [])
    assert (WRITTEN, ORDER, td.GLOBAL_ORDER, Listed.order) == before


def test_generators_that_a_function_holds_are_found() -> None:
    rng = random.Random(3)
    assert generators_outside(Held(rng.random)) == [rng]
    other = np.random.default_rng(3)
    assert generators_outside(Held(lambda: 1 + other.random())) == [other]


def test_a_sampler_that_raises_ends_its_shadow() -> None:
    shadow = Shadow(td.Raises(COUNT), [])
    assert drawn(shadow) == list(range(COUNT // 2))
    assert shadow.next() is None


def test_batches_in_one_list_are_lists_of_their_own() -> None:
    shadow = Shadow(td.OneList(COUNT), [])
    first, second = shadow.next(), shadow.next()
    assert first is not second


def test_what_is_drawn_by_others_in_between_does_not_count() -> None:
    """The shadow goes on from its own state."""
    td.seed()
    shadow = Shadow(td.Lazily(COUNT), [])
    ahead = [shadow.next()]
    for _ in range(COUNT - 1):
        torch.rand(3)
        random.random()
        ahead.append(shadow.next())
    td.seed()
    assert list(td.Lazily(COUNT)) == ahead


def test_random_states_go_through_numbers_and_tensors() -> None:
    generators = [torch.Generator().manual_seed(4)]
    state = random_state.save(generators)
    before = td.state()
    td.seed(99)
    random_state.restore(random_state.unpacked(random_state.packed(state)), generators)
    assert td.state() == before
