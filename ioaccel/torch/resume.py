"""Where a loader stands in its epoch, and how to go on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import BatchSampler, DistributedSampler

from ioaccel.errors import ConfigError
from ioaccel.torch import random_state
from ioaccel.torch.shadow import Shadow, drop, generators_of

_VERSION = 1


@dataclass
class Place:
    """Where one iteration stands: the batches that were taken, and the random states that it began with.

    A resumed epoch may have changed its number of ranks on the way: ``earlier`` samples, of all ranks
    together, were handed out before that, and ``batches`` by this rank since. ``skip`` of them are to be
    drawn again before the first that is handed out. ``drawn`` were drawn from the sampler in all.
    """

    batches: int = 0
    earlier: int = 0
    skip: int = 0
    drawn: int = 0
    at_iter: random_state.State | None = None  # when the sampler was last asked for an iterator
    at_draw: random_state.State | None = None  # before the first draw
    generators: list[torch.Generator] = field(default_factory=list)
    rest: list[Any] | None = None  # what is drawn from in place of the sampler, if ranks have changed
    resumed: bool = False
    ended: bool = False

    def ask_sampler(self) -> None:
        """Before the sampler is asked for an iterator, which may draw the whole order at once.

        How often a loader asks depends on its workers, and on whether they stay; the last time counts. All
        times of a resumed epoch begin in the state of that one.
        """
        if self.resumed and self.at_iter is not None:
            random_state.restore(self.at_iter, self.generators)
        else:
            self.at_iter = random_state.save(self.generators)

    def first_draw(self, real: Iterator[Any], shadow: Shadow | None) -> tuple[Iterator[Any], Shadow | None]:
        """What to draw from, moved to where the epoch goes on, and its shadow."""
        if self.rest is not None:
            left = self.rest[self.skip :]
            return iter(left), Shadow(left, [])
        if self.at_draw is None:
            self.at_draw = random_state.save(self.generators)
            return real, shadow
        with random_state.preserved():
            random_state.restore(self.at_draw, self.generators)
            for _ in range(self.skip if shadow is not None else 0):
                shadow.next()  # type: ignore[union-attr]
            drop(real, self.skip)
            # Workers are given batches before they are taken: these were drawn when the state was.
            again = list(islice(real, self.drawn - self.skip))
        return chain(again, real), shadow


class Position:
    """Where a loader stands: in its latest iteration, or in a state that the next one goes on from."""

    def __init__(self) -> None:
        self._latest: Place | None = None
        self._pending: dict[str, Any] | None = None
        self.beginning: Place | None = None  # while an iterator is being made

    def state_dict(self, loader: Any) -> dict[str, Any]:
        """Numbers, strings and tensors: `torch.load` takes it with ``weights_only=True``."""
        if self._pending is not None:
            return self._pending
        place = self._latest
        if place is None or place.ended:  # the next epoch begins at its beginning
            place = Place()
        sampler = distributed_in(loader)
        states = (place.at_iter, place.at_draw)
        return {
            "version": _VERSION,
            "batches": place.batches,
            "drawn": place.drawn,
            "earlier": place.earlier,
            "random": [random_state.packed(s) for s in states if s is not None],
            "generators": [generator.get_state() for generator in generators_of(loader)],
            "replicas": sampler.num_replicas if sampler is not None else 1,
            "epoch": sampler.epoch if sampler is not None else None,
        }

    def load(self, state: dict[str, Any], loader: Any) -> None:
        """Has the next iteration go on from a state."""
        if not isinstance(state, dict) or state.get("version") != _VERSION:  # type: ignore[redundant-expr]
            raise ConfigError(
                "this is no state of an ioaccel loader of this release; pass what state_dict() returned"
            )
        sampler = distributed_in(loader)
        replicas = sampler.num_replicas if sampler is not None else 1
        underway = state["batches"] + state["earlier"]
        if underway and replicas != state["replicas"]:
            batches = loader.batch_sampler
            if type(sampler) is not DistributedSampler or (
                batches is not None and type(batches) is not BatchSampler
            ):
                raise ConfigError(
                    f"the state is of {state['replicas']} ranks and there are {replicas} now: in the middle "
                    "of an epoch that goes with torch's own DistributedSampler and BatchSampler only; resume "
                    "with as many ranks, or at the beginning of an epoch"
                )
        self._pending = state

    @contextlib.contextmanager
    def begin(self, loader: Any) -> Iterator[Place]:
        """Around the making of an iterator: an epoch that goes on has the random states that it had."""
        state, self._pending = self._pending, None
        place = self._latest = self.beginning = Place(generators=generators_of(loader))
        try:
            if state is None or not state["random"]:
                for generator, saved in zip(
                    place.generators, (state or {}).get("generators", ()), strict=False
                ):
                    generator.set_state(saved)
                place.at_iter = random_state.save(place.generators)
                yield place
                return
            states = [random_state.unpacked(packed) for packed in state["random"]]
            place.at_iter, place.at_draw = states[0], states[1] if len(states) > 1 else None
            place.resumed = True
            _go_on(place, state, loader)
            with random_state.preserved():
                random_state.restore(states[0], place.generators)
                yield place
        finally:
            self.beginning = None


def _go_on(place: Place, state: dict[str, Any], loader: Any) -> None:
    """Where the samples come from that are left, and how many batches of them were handed out."""
    place.batches = place.skip = state["batches"]
    place.drawn = max(state["drawn"], place.skip)
    place.earlier = state["earlier"]
    sampler = distributed_in(loader)
    if sampler is None:
        return
    sampler.set_epoch(state["epoch"])
    batches = loader.batch_sampler
    size = getattr(batches, "batch_size", None) or 1
    if sampler.num_replicas != state["replicas"]:
        place.earlier += state["batches"] * size * state["replicas"]
        place.batches = place.skip = place.drawn = 0
    if place.earlier:
        rest = _rest(sampler, place.earlier)
        if batches is not None:
            rest = [rest[i : i + size] for i in range(0, len(rest), size)]
            if batches.drop_last and rest and len(rest[-1]) < size:
                rest.pop()
        place.rest = rest


def distributed_in(loader: Any) -> DistributedSampler[Any] | None:
    """The sampler that divides the data set among ranks, if there is one."""
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    for _ in range(4):  # in a batch sampler, in the user's own around that
        if isinstance(sampler, DistributedSampler):
            return sampler
        sampler = getattr(sampler, "sampler", None)
    return None


def _rest(sampler: DistributedSampler[Any], earlier: int) -> list[Any]:
    """What no rank has handed out, spread over the ranks that there are now; none twice, none missing.

    Rank r of n draws the items r, r + n, r + 2n ... of one order: what all have handed out is its
    beginning.
    """
    count = len(sampler.dataset)  # type: ignore[arg-type]
    order = list(range(count))
    if sampler.shuffle:
        generator = torch.Generator()
        generator.manual_seed(sampler.seed + sampler.epoch)
        order = torch.randperm(count, generator=generator).tolist()
    return list(islice(order, earlier + sampler.rank, None, sampler.num_replicas))
