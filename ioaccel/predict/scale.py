"""How well accelerators are used, over their number: with a cache on each node, and without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ioaccel.errors import ConfigError
from ioaccel.predict.epochs import predict, predict_direct
from ioaccel.predict.inputs import Node, Store, Workload

LARGEST = 1000  # nodes


@dataclass(frozen=True)
class Efficiency:
    """Shares of the time that accelerators compute: 1 is as if data took no time."""

    nodes: int
    accelerators: int
    direct: float  # plain workers, one request at a time each
    first: float  # epoch 1 through the cache
    last: float  # the last epoch
    job: float  # all epochs together
    hit_share: float  # of the last epoch


def node_counts(largest: int = LARGEST) -> list[int]:
    """1, 2, 5, 10, 20, 50 ... up to ``largest``, which is always one of them."""
    if largest < 1:
        raise ConfigError(f"{largest} nodes; say at least 1")
    digits = range(math.floor(math.log10(largest)) + 1)
    counts = [step * 10**digit for digit in digits for step in (1, 2, 5)]
    return sorted({count for count in counts if count <= largest} | {largest})


def efficiency(
    work: Workload, store: Store, node: Node, counts: Sequence[int] | None = None
) -> list[Efficiency]:
    """For each number of nodes, over the same data; batches and workers are an accelerator's, as ever.

    Without ``counts``: up to 1,000 nodes, but no more than have a batch for each accelerator. ConfigError
    without `step_s`: then nobody knows how fast accelerators ask.
    """
    if work.step_s is None:
        raise ConfigError("how long accelerators compute is not known; say how many seconds a step takes")
    if counts is None:
        counts = node_counts(max(1, min(LARGEST, work.objects // (work.batch * node.accelerators))))
    found = []
    for count in counts:
        epochs = predict(work, store, node, count)
        direct = predict_direct(work, store, node, count).busy
        busy = [epoch.busy or 0.0 for epoch in epochs]
        total = sum(epoch.seconds for epoch in epochs)
        job = sum(epoch.seconds * share for epoch, share in zip(epochs, busy, strict=True)) / total
        found.append(
            Efficiency(
                count, count * node.accelerators, direct or 0.0, busy[0], busy[-1], job, epochs[-1].hit_share
            )
        )
    return found
