"""Where a loader stands in its epoch, and how to go on from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from ioaccel.errors import ConfigError
from ioaccel.torch import random_state
from ioaccel.torch.shadow import Shadow, generators_of

_VERSION = 1


class Position:
    """Counts the batches that were taken, and remembers the random states that the epoch began with.

    A resumed epoch may have changed its number of ranks on the way: ``earlier`` samples, of all ranks
    together, were handed out before that, and ``batches`` by this rank since.
    """

    def __init__(self) -> None:
        self._batches = 0
        self._earlier = 0
        self._at_iter: random_state.State | None = None  # when the iterator was made
        self._at_draw: random_state.State | None = None  # before the first draw
        self._pending: dict[str, Any] | None = None  # a state that the next iteration goes on from
        self._skip = 0

    def taken(self) -> None:
        """One more batch was handed out."""
        self._batches += 1

    def ended(self) -> None:
        """The epoch was gone through: the next one begins at its beginning."""
        self._batches = self._earlier = 0

    # ---- saving ---------------------------------------------------------------------------------

    def state_dict(self, loader: Any) -> dict[str, Any]:
        """Numbers, strings and tensors: `torch.load` takes it with ``weights_only=True``."""
        if self._pending is not None:
            return self._pending
        sampler = distributed_in(loader)
        states = (self._at_iter, self._at_draw) if self._batches + self._earlier else ()
        return {
            "version": _VERSION,
            "batches": self._batches,
            "earlier": self._earlier,
            "random": [random_state.packed(s) for s in states if s is not None],
            "generators": [generator.get_state() for generator in generators_of(loader)],
            "replicas": sampler.num_replicas if sampler is not None else 1,
            "epoch": sampler.epoch if sampler is not None else None,
        }

    # ---- going on -------------------------------------------------------------------------------

    def load(self, state: dict[str, Any]) -> None:
        """Has the next iteration go on from a state."""
        if not isinstance(state, dict) or state.get("version") != _VERSION:  # type: ignore[redundant-expr]
            raise ConfigError(
                "this is no state of an ioaccel loader of this release; pass what state_dict() returned"
            )
        self._pending = state

    @contextlib.contextmanager
    def begin(self, loader: Any) -> Iterator[None]:
        """Around the making of an iterator: an epoch that goes on has the random states that it had."""
        state, self._pending = self._pending, None
        generators = generators_of(loader)
        self._batches = self._earlier = self._skip = 0
        if state is not None:
            for generator, saved in zip(generators, state["generators"], strict=False):
                generator.set_state(saved)
        if state is None or not state["random"]:
            self._at_iter = random_state.save(generators)
            yield
            return
        self._at_iter, self._at_draw = map(random_state.unpacked, state["random"])
        sampler = distributed_in(loader)
        if sampler is not None:
            sampler.set_epoch(state["epoch"])
        self._batches = self._skip = state["batches"]
        self._earlier = state["earlier"]
        if sampler is not None and sampler.num_replicas != state["replicas"]:
            self._earlier += state["batches"] * (loader.batch_size or 1) * state["replicas"]
            self._batches = self._skip = 0
        with random_state.preserved():
            random_state.restore(self._at_iter, generators)
            yield

    def first_draw(
        self, real: Iterator[Any], shadow: Shadow | None, loader: Any, generators: list[torch.Generator]
    ) -> Iterator[Any]:
        """What to draw from: ``real``, of which is dropped what was handed out before, or what is left."""
        sampler = distributed_in(loader)
        if self._earlier and sampler is not None:
            rest = _rest(sampler, self._earlier, loader.batch_size)
            return islice(rest, self._skip, None)
        if not self._skip:
            self._at_draw = random_state.save(generators)
            return real
        assert self._at_draw is not None
        with random_state.preserved():
            random_state.restore(self._at_draw, generators)
            for _ in range(self._skip if shadow is not None else 0):
                shadow.next()  # type: ignore[union-attr]
            for _ in islice(real, self._skip):
                pass
        return real


def distributed_in(loader: Any) -> DistributedSampler[Any] | None:
    """The sampler that divides the data set among ranks, if there is one."""
    sampler = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler
    for _ in range(4):  # in a batch sampler, in the user's own around that
        if isinstance(sampler, DistributedSampler):
            return sampler
        sampler = getattr(sampler, "sampler", None)
    return None


def _rest(sampler: DistributedSampler[Any], earlier: int, size: int | None) -> Iterator[Any]:
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
    mine = order[earlier:][sampler.rank :: sampler.num_replicas]
    if size is None:
        return iter(mine)
    return (mine[i : i + size] for i in range(0, len(mine), size))
