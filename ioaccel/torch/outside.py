"""What a sampler draws from that a copy of it would share.

A copy of a sampler may be run ahead of it only if that changes nothing for the sampler. Random generators
that stand outside of it (in its module, in its class, in a closure) can be put back; anything else that it
might change there means that it must not be copied at all.
"""

from __future__ import annotations

import dis
import functools
import logging
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

# Attributes under which samplers keep what they draw from.
DATA = ("data_source", "dataset")

# Of these it is known that they only look at their indices, weights and data.
TORCHS = (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

# Their functions change nothing but the global random states, which are put back.
_TRUSTED = sys.stdlib_module_names | {"torch", "numpy", "ioaccel"}

# Calls into functions of functions: beyond this a sampler is hardly a sampler any more.
_DEPTH = 6

_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type, frozenset, logging.Logger)
_CALLING = (map, filter, type(iter(int, 1)))  # their copies call the same functions


class Shared(Exception):
    """A copy would share something with the sampler that it may change."""


def is_data(owner: Any, name: str, value: Any) -> bool:
    """Whether an attribute of a sampler is what it draws from, and no part of it."""
    if isinstance(value, (Dataset, DataLoader, torch.nn.Module)):
        return True
    # A data set of another library; what is made of lists may be shuffled in place.
    return name in DATA and (
        type(owner) in TORCHS
        or type(value).__module__.partition(".")[0] not in ("builtins", "numpy", "collections")
    )


def is_generator(thing: Any) -> bool:
    """Whether it is a generator of random numbers whose state can be put back."""
    numpy = sys.modules.get("numpy")
    if isinstance(thing, (torch.Generator, random.Random)):
        return not isinstance(thing, random.SystemRandom)
    return numpy is not None and isinstance(thing, (numpy.random.Generator, numpy.random.RandomState))


def generators_outside(sampler: Any) -> list[Any]:
    """The random generators that a copy of the sampler would share. Raises Shared if there is more."""
    found: dict[int, Any] = {}
    _Look(found).object(sampler, "sampler", _DEPTH)
    return list(found.values())


class _Look:
    def __init__(self, found: dict[int, Any]) -> None:
        self._found = found
        self._seen: set[int] = set()

    def object(self, thing: Any, name: str, depth: int) -> None:
        """What is copied: its attributes are its copy's own, its class and its functions are not."""
        if not depth or id(thing) in self._seen:
            return
        if isinstance(thing, _CALLING):
            raise Shared(f"{name} calls functions as it goes")
        if isinstance(
            thing, (types.FunctionType, types.MethodType, types.BuiltinMethodType, functools.partial)
        ):
            self.shared(thing, name, depth)
            return
        self._seen.add(id(thing))
        if isinstance(thing, (Dataset, torch.nn.Module, torch.Tensor)) or is_generator(thing):
            return
        for cls in type(thing).__mro__:
            if cls.__module__.partition(".")[0] not in _TRUSTED:
                for key, value in list(vars(cls).items()):
                    self._member(cls, key, value, depth)
        for key, value in list(getattr(thing, "__dict__", {}).items()):
            if not is_data(thing, key, value):
                self.object(value, f"{name}.{key}", depth - 1)

    def _member(self, cls: type, key: str, value: Any, depth: int) -> None:
        if isinstance(value, property):
            functions = [value.fget]
        elif isinstance(value, (staticmethod, classmethod)):
            functions = [value.__func__]
        elif isinstance(value, types.FunctionType):
            functions = [value]
        elif key.startswith("__") or isinstance(
            value, (types.MemberDescriptorType, types.GetSetDescriptorType)
        ):
            return
        else:
            functions = [value]
        for function in functions:
            self.shared(function, f"{cls.__name__}.{key}", depth)

    def shared(self, thing: Any, name: str, depth: int) -> None:
        """What the copy shares with the sampler."""
        if is_generator(thing):
            self._found[id(thing)] = thing
        elif isinstance(thing, types.ModuleType):
            self._module(thing)
        elif isinstance(thing, types.FunctionType):
            self._function(thing, name, depth)
        elif isinstance(thing, (types.MethodType, types.BuiltinMethodType)):
            owner = thing.__self__
            if isinstance(thing, types.MethodType):
                self.shared(thing.__func__, name, depth)
            if is_generator(owner):
                self._found[id(owner)] = owner
            elif owner is not None and isinstance(thing, types.MethodType):
                self.shared(owner, name, depth)
        elif isinstance(thing, functools.partial):
            for part in (thing.func, *thing.args, *thing.keywords.values()):
                self.shared(part, name, depth)
        elif isinstance(thing, tuple):
            for part in thing:
                self.shared(part, name, depth)
        elif isinstance(thing, type) or _harmless(thing):
            return
        else:
            raise Shared(f"{name}, a {type(thing).__name__}, is not the sampler's own")

    def _module(self, module: types.ModuleType) -> None:
        if module.__name__.startswith("torch.distributed"):
            raise Shared("it talks to other ranks, which a copy of it must not")
        if module.__name__.partition(".")[0] not in _TRUSTED:
            self._found.update((id(v), v) for v in list(vars(module).values()) if is_generator(v))

    def _function(self, function: types.FunctionType, name: str, depth: int) -> None:
        if not depth or id(function) in self._seen or _trusted(function):
            return
        self._seen.add(id(function))
        reads, writes = _names(function.__code__)
        if writes:
            raise Shared(f"{name} changes {writes[0]}")
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            self.shared(value, f"a variable around {name}", depth - 1)
        for read in reads:
            if read in function.__globals__:
                self.shared(function.__globals__[read], read, depth - 1)
        for value in function.__defaults__ or ():
            self.shared(value, f"a default of {name}", depth - 1)


def _trusted(function: Any) -> bool:
    return (function.__module__ or "").partition(".")[0] in _TRUSTED


def _harmless(thing: Any) -> bool:
    """What is not changed by using it, or is at home in a package that is trusted."""
    if isinstance(thing, (*_PLAIN, torch.dtype, torch.device)):
        return True
    if isinstance(thing, (types.BuiltinFunctionType, types.WrapperDescriptorType)):
        return True
    # functools.cache and ufuncs, typing's forms
    return callable(thing) and type(thing).__module__.partition(".")[0] in ("numpy", "typing", "torch")


@functools.lru_cache(1024)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The global names that a function reads, and those outside of it that it assigns to."""
    reads, writes = [], []
    for part in _parts(code):
        for step in dis.get_instructions(part):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                reads.append(step.argval)
            elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL") or (
                step.opname in ("STORE_DEREF", "DELETE_DEREF") and step.argval in code.co_freevars
            ):
                writes.append(step.argval)
    return tuple(dict.fromkeys(reads)), tuple(writes)


def _parts(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _parts(value)
