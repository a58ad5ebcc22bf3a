"""What ``ioaccel plan`` assumes, and where each of it comes from."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ioaccel.config import nearest
from ioaccel.errors import ConfigError, ObjectNotFoundError

if TYPE_CHECKING:
    from ioaccel import Cache
    from ioaccel.cli.options import CacheArguments
    from ioaccel.predict.measure import Measured

# Of one engine on 2 cores: 1,800 to 2,700 objects of 110 KB a second (docs/design/0003), at 5.9 CPU seconds
# a GB (README.md, "Figures").
FETCHES_PER_S = 2000.0
# Of large objects: bare obstore's, at 1.4 CPU seconds a GB (docs/design/0004).
FETCHED_BYTES_PER_S = 0.9e9
# Of those rates, for what passes by a full cache (docs/design/0004).
PASSING_SHARE = 0.8
FETCH_CPU_S, FETCH_CPU_S_PER_BYTE = 0.5e-3, 1.4e-9
# A worker of `python -m bench plan`, which keeps 4 KB of a sample and decodes nothing.
SAMPLE_S = 150e-6
GIVEN, MEASURED = "given", "measured"

# What the cache for a measurement holds beside the measured blocks: versions, and the room of a segment.
SPARE_BYTES = 256 << 20


@dataclass(frozen=True)
class Fact:
    """One thing that the prediction rests on; None: without limit."""

    name: str
    value: float | None
    unit: str
    origin: str


class Facts:
    """All of them, by name."""

    def __init__(self) -> None:
        self.all: dict[str, Fact] = {}

    def add(self, name: str, unit: str, *choices: tuple[float | None, str], last: str = "") -> float | None:
        """Notes the first choice that there is, and returns its value; ``last``: why there is none."""
        value, origin = next(((v, o) for v, o in choices if v is not None), (None, last))
        self.all[name] = Fact(name, value, unit, origin)
        return value

    def sure(self, name: str, unit: str, *choices: tuple[float | None, str]) -> float:
        """The same where the last choice is always there."""
        value = self.add(name, unit, *choices)
        assert value is not None
        return value


def place_of(arguments: CacheArguments, room: int = 0) -> Path:
    """A directory on the disk of the cache directory, which may not exist yet.

    Without ``room`` any other will do; with it, that disk has to have so many bytes free, or ConfigError.
    """
    from ioaccel.cli.output import size

    wanted = Path(arguments.load().directories[0])
    place = nearest(wanted)
    usable = place.is_dir() and os.access(place, os.W_OK)
    if not room:
        return place if usable else Path(tempfile.gettempdir())
    advice = "choose another --cache-dir, or say what is known with --store-delay-ms and --disk-rate"
    if not usable:
        raise ConfigError(
            f"--measure writes to the disk of {wanted}, and {place} cannot be written; {advice}"
        )
    if (free := shutil.disk_usage(place).free) < room:
        raise ConfigError(
            f"--measure takes {size(room)} of the disk of {wanted}, which has {size(free)} free; {advice}"
        )
    return place


@contextmanager
def scratch_cache(arguments: CacheArguments, size: int, place: Path) -> Iterator[tuple[Cache, Path]]:
    """A cache for this run alone, and its directory, which is below ``place``."""
    from ioaccel.client.cache import connect
    from ioaccel.demo.caches import temporary_directory

    with (
        temporary_directory(place) as directory,
        connect(directory, size, arguments.storage_options) as cache,
    ):
        yield cache, directory


def cache_bytes(arguments: CacheArguments) -> float:
    """What ``--cache-size`` or the configuration says that a node's cache holds; a disk need not be there."""
    from ioaccel.config import parse_size, split_size

    sizes = arguments.cache_size
    if sizes:
        parsed = [parse_size(size) for size in sizes]
        if all(isinstance(size, int) for size in parsed):
            return float(sum(parsed))
        return float(sum(split_size(arguments.size, arguments.load().directories), start=0))  # type: ignore[arg-type]
    known = [size for size in arguments.load().capacities if size is not None]
    if not known:
        raise ConfigError("how large is the cache of a node? Say --cache-size, such as 500GB")
    return float(sum(known))


def listed(cache: Cache, url: str) -> tuple[list[str], list[int]]:
    """URLs and sizes of the objects below ``url``. ObjectNotFoundError if there are none."""
    table = cache.manifest(url)
    root = table.schema.metadata[b"ioaccel.root"].decode()
    keys, sizes = table["key"].to_pylist(), table["size"].to_pylist()
    pairs = [(root + key, size) for key, size in zip(keys, sizes, strict=True) if not key.endswith("/")]
    if not pairs:
        raise ObjectNotFoundError(f"{url}: nothing is stored there; check the prefix", url=url)
    urls, counts = zip(*pairs, strict=True)
    return list(urls), list(counts)


def measured(
    arguments: CacheArguments, urls: Sequence[str], sizes: Sequence[int], *, passing: bool
) -> tuple[Measured, Any]:
    """What store and engine do, and the speeds of the disk (`ioaccel.cli.checks.disk.Speeds`).

    ``passing``: also what passes by a full cache, which takes as many GETs again.
    """
    from ioaccel.cli.checks import disk
    from ioaccel.predict.measure import NO_ROOM, chosen, measure

    blocks = chosen(sizes)
    extents = [(urls[index], offset, length) for index, offset, length in blocks]
    room = sum(length for _, _, length in blocks) * 3 // 2 + SPARE_BYTES
    place = place_of(arguments, room)
    with scratch_cache(arguments, room, place) as (cache, directory), ExitStack() as stack:
        full = stack.enter_context(scratch_cache(arguments, NO_ROOM, place))[0] if passing else None
        found = measure(cache, extents, full)
        with disk.scratch_file(str(directory)) as fd:
            space = os.statvfs(place)
            speeds = disk.measure(fd, space.f_bavail * space.f_frsize)
    return found, speeds


def engine_of(
    facts: Facts, found: Measured | None, block: float, cores: int, *, passing: bool
) -> dict[str, Any]:
    """Settings of `Node` that are the engine's and the machine's, for blocks of a mean size.

    ``passing``: some of them will pass by a full cache. Where the store was the limit, that is its own.
    """
    from ioaccel.cli.output import number

    measured = f"measured with {found.blocks} blocks only: rough" if found and found.rough else MEASURED
    usual = "README, Figures: 2 cores; --measure tells of this machine"
    fetches = min(FETCHES_PER_S, FETCHED_BYTES_PER_S / block)
    cpu = FETCH_CPU_S + FETCH_CPU_S_PER_BYTE * block
    refused = (
        f"; {number(found.throttled, 'requests')} had to be repeated" if found and found.throttled else ""
    )
    rates: dict[str, Any] = {}
    if found and found.limited_by_store(cores):  # nobody knows what the engine could do
        alike = f"{measured}; without ioaccel, 64 at once, it gave the same{refused}"
        rates["store_per_s"] = facts.sure("store", "requests/s", (found.fetches_per_s, alike))
    else:
        given = (found.fetches_per_s if found else None, f"{measured}{refused}")
        rates["fetches_per_s"] = facts.sure("engine", "requests/s", given, (fetches, usual))
        if passing:
            given = (found.passing_per_s if found else None, measured)
            rates["passing_per_s"] = facts.sure(
                "engine, full cache", "requests/s", given, (PASSING_SHARE * fetches, usual)
            )
    return rates | {
        "fetch_cpu_s": facts.sure(
            "CPU of a fetch", "s", (found.fetch_cpu_s if found else None, measured), (cpu, usual)
        ),
        "passing_cpu_s": found.passing_cpu_s if found else None,
        "copy_rate": facts.add(
            "copy from memory", "B/s", (found.copy_rate if found else None, MEASURED), last="not measured"
        ),
    }
