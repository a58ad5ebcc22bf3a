"""A workload: what is read, from what kind of store, how often. One TOML file each in bench/workloads."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec

from bench.contestants import CONTESTANTS

ALL = 2.0  # times the data set: a cache of which nobody can say that it is too small
DIRECTORY = Path(__file__).parent / "workloads"

Count = Annotated[int, msgspec.Meta(ge=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


@dataclass(frozen=True)
class Workload:
    """The keys of a TOML file. Its table ``[quick]`` replaces some of them in a quick run."""

    name: str
    about: str  # one line, printed by `list` and above the table
    files: Count
    size: Count  # mean bytes of a sample
    size_sd: Annotated[int, msgspec.Meta(ge=0)] = 0
    samples_per_file: Count = 1  # 1: a sample is a whole object; else a piece of one
    batch: Count = 64
    workers: Count = 2
    epochs: Count = 3
    repeats: Count = 5
    # Of contestants with one request at a time a worker: an epoch is this many samples, the same
    # for all of them and chosen from the whole data set, so that it ends.
    slow_samples: Count = 512
    store: str = "shaped"  # or "seaweed"
    delay_ms: Amount = 20.0
    rate: Count = 80_000_000  # bytes a second of a connection
    throttled: Share = 0.0  # share of requests that get 503
    contestants: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("all",)
    cache_ratios: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] = (
        ALL,
    )  # size of the cache, of the data set's; an arm for each
    jobs: Count = 1  # at once, on the same data
    restart: bool = False  # each epoch in a process of its own, with the cache of the last one
    cold: bool = False  # page caches are emptied before each epoch but the first
    step_s: Amount = 0.0  # of an accelerator, a batch: 0 means that nobody counts accelerators
    utilisation: Share = 0.0  # that an accelerator must reach
    accelerator: str = ""
    deadline_s: Positive = 240.0  # of an epoch; an arm that takes longer is a row without figures
    quick: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def samples(self) -> int:
        """All samples of the data set."""
        return self.files * self.samples_per_file

    def quickly(self) -> Workload:
        """The same, with what ``[quick]`` says."""
        return _made(self.name, {**_keys(self), **self.quick})


def load(name: str) -> Workload:
    """The workload of that name, or in that TOML file. ValueError says what is wrong."""
    path = Path(name) if name.endswith(".toml") else DIRECTORY / f"{name}.toml"
    try:
        found = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"there is no workload {name}; there are {', '.join(names())}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from None
    return _made(path.stem, found)


def names() -> list[str]:
    """The workloads there are."""
    return sorted(path.stem for path in DIRECTORY.glob("*.toml"))


def _keys(workload: Workload) -> dict[str, Any]:
    return {each.name: getattr(workload, each.name) for each in fields(workload) if each.name != "name"}


def _made(name: str, keys: dict[str, Any]) -> Workload:
    known = {each.name for each in fields(Workload)} - {"name"}
    quickly = keys.get("quick", {})
    if unknown := sorted({*keys, *(quickly if isinstance(quickly, dict) else ())} - known):
        raise ValueError(
            f"workload {name}: unknown keys {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    if missing := sorted({"about", "files", "size"} - keys.keys()):
        raise ValueError(f"workload {name} lacks {', '.join(missing)}")
    made = _converted(name, keys)
    quick = _converted(f"{name}, [quick]", {**keys, **made.quick})
    if wrong := {made.store, quick.store} - {"shaped", "seaweed"}:
        raise ValueError(f"workload {name}: store is shaped or seaweed, not {wrong.pop()}")
    if strangers := sorted({*made.contestants, *quick.contestants} - {"all", *CONTESTANTS}):
        raise ValueError(f"workload {name}: no contestant {', '.join(strangers)}; `bench list` names them")
    return made


def _converted(name: str, keys: dict[str, Any]) -> Workload:
    try:
        return msgspec.convert({**keys, "name": name}, Workload)
    except msgspec.ValidationError as error:
        raise ValueError(f"workload {name}: {str(error).replace('$.', '')}") from None
