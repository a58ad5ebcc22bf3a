"""What a prediction is made from. Sizes in bytes, times in seconds, rates a second."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from ioaccel.errors import ConfigError

Order = Literal["shuffled", "sharded", "sequential"]
ORDERS = ("shuffled", "sharded", "sequential")

# A block of the cache: larger objects are fetched in pieces of it (csrc/ia_layout.h).
BLOCK_BYTES = 4 << 20

# The governor's LARGEST_LIMIT: what one engine ever has in flight to one endpoint.
IN_FLIGHT = 256
# The same of what a full cache has no room for: the waves of ioaccel.engine.prefetch.
PASSING_IN_FLIGHT = 128

# CPU seconds of planner and worker for a cached sample, in an epoch in which others are missing: where all is
# there, nobody looks (docs/design/0004).
LOOKED_AFTER_S = 30e-6


class _Checked:
    """Fields are finite and not negative; those named in ``_POSITIVE`` are not zero either.

    None stands for what has no limit, or is not known.
    """

    _POSITIVE: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value: Any = getattr(self, field.name)
            if value is None or isinstance(value, str):
                continue
            positive = field.name in self._POSITIVE
            if not math.isfinite(value) or value < 0 or (positive and value == 0):
                least = "above 0" if positive else "0 or more"
                raise ConfigError(f"{field.name} is {value}; it has to be a number {least}")


@dataclass(frozen=True)
class Workload(_Checked):
    """A training job. Each sample is one object, read whole, once an epoch.

    ``order``     "shuffled": all samples anew, over all nodes, each epoch (RandomSampler,
                  DistributedSampler); "sharded": each node shuffles its own part, the same each epoch;
                  "sequential": the same order each epoch
    ``batch``     samples a step and accelerator
    ``workers``   processes that read, an accelerator
    ``sample_s``  what a worker takes for a sample that is cached: to copy, decode and collate it
    ``step_s``    what an accelerator takes for a batch; None: not known, or no matter
    ``start_s``   by how much the first epoch is longer: workers start, and the engine finds its pace
    """

    objects: int
    bytes: int
    blocks: int  # pieces of at most BLOCK_BYTES: one GET each
    batch: int = 64
    workers: int = 2
    epochs: int = 3
    order: Order = "shuffled"
    sample_s: float = 0.0
    step_s: float | None = None
    start_s: float = 0.0

    _POSITIVE = frozenset({"objects", "bytes", "blocks", "batch", "workers", "epochs", "step_s"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order not in ORDERS:
            raise ConfigError(f"order is one of {', '.join(ORDERS)}, not {self.order!r}")

    @classmethod
    def of_sizes(cls, sizes: Iterable[int], **settings: Any) -> Self:
        """A job over objects of these sizes. ConfigError if there are none, or none has any bytes."""
        objects = count = blocks = 0
        for size in sizes:
            if size < 0:
                raise ConfigError(f"an object of {size} bytes: sizes are 0 or more")
            objects += 1
            count += size
            blocks += max(1, -(-size // BLOCK_BYTES))
        if not count:
            what = f"{objects} objects without a byte" if objects else "no object"
            raise ConfigError(f"there is nothing to read: {what}; check the URL")
        return cls(objects, count, blocks, **settings)


@dataclass(frozen=True)
class Store(_Checked):
    """An object store. None: without limit.

    ``delay_s``         from a request to its first byte
    ``connection_rate`` bytes a second of one connection
    ``bytes_per_s``     of all its clients together
    ``requests_per_s``  of all its clients together
    """

    delay_s: float
    connection_rate: float | None = None
    bytes_per_s: float | None = None
    requests_per_s: float | None = None
    price_per_1000_gets: float = 0.0
    price_per_gb: float = 0.0  # of 10^9 bytes

    _POSITIVE = frozenset({"connection_rate", "bytes_per_s", "requests_per_s"})

    def request_s(self, size: float) -> float:
        """What one request for ``size`` bytes takes, alone."""
        return self.delay_s + (size / self.connection_rate if self.connection_rate else 0.0)

    def cost(self, requests: float, count: float) -> float:
        """Of so many requests and bytes."""
        return requests / 1000 * self.price_per_1000_gets + count / 1e9 * self.price_per_gb


@dataclass(frozen=True)
class Node(_Checked):
    """A machine with its accelerators and its cache. None: without limit.

    ``memory_bytes``  of page cache: what is left beside the job
    ``disk_rate``     bytes a second, random reads of cached blocks that are not in memory
    ``copy_rate``     bytes a second from memory
    ``network_rate``  bytes a second
    ``fetches_per_s`` blocks a second that one engine brings, however fast the store
    ``fetch_cpu_s``   CPU seconds of a fetch, over all processes of the node
    ``passing_per_s`` and ``passing_cpu_s``: the same of blocks that the cache has no room for, which each
                      batch asks for; None: as those that it keeps
    ``store_per_s``   blocks a second that the store gives this node, whatever asks; None: more than it needs
    """

    cache_bytes: float
    cores: int
    accelerators: int = 1
    memory_bytes: float | None = None
    disk_rate: float | None = None
    copy_rate: float | None = None
    network_rate: float | None = None
    fetches_per_s: float | None = None
    fetch_cpu_s: float = 0.0
    passing_per_s: float | None = None
    passing_cpu_s: float | None = None
    store_per_s: float | None = None

    _POSITIVE = frozenset(
        {
            "cores",
            "accelerators",
            "disk_rate",
            "copy_rate",
            "network_rate",
            "fetches_per_s",
            "passing_per_s",
            "store_per_s",
        }
    )
