"""The random numbers that a sampler may draw from: torch's, numpy's, Python's, and generators."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

State = dict[str, Any]


def save(generators: Iterable[Any] = (), *, whole: bool = True) -> State:
    """The state of the global generators, and of these; of these alone, if not ``whole``."""
    if not whole:
        return {"generators": [_state_of(generator) for generator in generators]}
    numpy = sys.modules.get("numpy")
    return {
        "torch": torch.random.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state() if numpy is not None else None,
        "generators": [_state_of(generator) for generator in generators],
    }


def restore(state: State, generators: Iterable[Any] = (), *, whole: bool = True) -> None:
    """Puts back what `save` found."""
    for generator, saved in zip(generators, state["generators"], strict=False):
        _set_state(generator, saved)
    if not whole:
        return
    torch.random.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if state["numpy"] is not None:
        sys.modules["numpy"].random.set_state(state["numpy"])


def _state_of(generator: Any) -> Any:
    """Of torch's, numpy's or Python's."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.get_state()


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


@contextlib.contextmanager
def preserved(generators: Iterable[Any] = (), *, whole: bool = True) -> Iterator[None]:
    """Whatever is drawn inside, outside it was not."""
    generators = list(generators)
    state = save(generators, whole=whole)
    try:
        yield
    finally:
        restore(state, generators, whole=whole)


def packed(state: State) -> State:
    """The same in numbers and tensors only."""
    numpy = state["numpy"]
    return state | {"numpy": numpy and [numpy[0], torch.from_numpy(numpy[1].astype("i8")), *numpy[2:]]}


def unpacked(state: State) -> State:
    """What `packed` has packed."""
    numpy, (version, words, gauss) = state["numpy"], state["python"]
    return state | {
        "numpy": numpy and (numpy[0], numpy[1].numpy().astype("u4"), *numpy[2:]),
        "python": (version, tuple(words), gauss),
    }
