"""The figures of a demo, as sentences and as the dictionary that ``--json`` writes."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ioaccel.demo.options import DemoOptions
    from ioaccel.demo.stage import Stage
    from ioaccel.demo.train import Epoch

Runs = Mapping[str, "Sequence[Epoch]"]
"""The epochs of each run, by its name: ``direct`` and ``ioaccel``."""


def identical(runs: Runs) -> bool:
    """Whether the losses of all runs agree, epoch by epoch, to the last bit."""
    return len({tuple(epoch.loss for epoch in epochs) for epochs in runs.values()}) == 1


def as_dict(runs: Runs, options: DemoOptions, stage: Stage) -> dict[str, Any]:
    """What ``--json`` writes: one entry a run, and beside them how they were made."""
    return {
        **{name: {"epochs": [asdict(epoch) for epoch in epochs]} for name, epochs in runs.items()},
        "losses_identical": identical(runs),
        "setting": {
            "store": stage.store,
            "samples": len(stage.urls),
            "bytes": stage.size,
            "batch_size": options.batch_size,
            "workers": options.workers,
            "cores": _cores(),
            "platform": platform.platform(),
        },
    }


def setting(options: DemoOptions, stage: Stage) -> str:
    """What was measured and where, in one line."""
    return (
        f"{len(stage.urls):,} objects, {stage.size / 1e6:,.0f} MB, in {stage.store}; "
        f"DataLoader with {options.workers} workers; {_cores()} cores"
    )


def conclusion(runs: Runs) -> str:
    """What the figures say, in one or two sentences."""
    direct, ioaccel = runs["direct"][-1], runs["ioaccel"][-1]
    if not identical(runs):
        return "The losses of the two runs differ."
    return (
        f"In the last epoch, {direct.samples_per_s:,.0f} samples/s directly and {ioaccel.samples_per_s:,.0f} "
        f"through ioaccel ({ioaccel.samples_per_s / direct.samples_per_s:.1f} times). "
        "The losses of both runs are identical to the last bit."
    )


NOTES = (
    "waiting: share of the epoch that the training loop waited for its next batch. from store: counted by "
    "the data set's own reads (direct) and by the cache where it asks the store (ioaccel)."
)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
