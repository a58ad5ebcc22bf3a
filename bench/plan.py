"""``ioaccel plan`` against what happens: a cache of 25, 50, 80 and 120% of the data, three epochs each.

A store with 20 ms to the first byte and 80 MB/s a connection holds two sets of objects of one size. The
first is measured as ``ioaccel plan --measure`` does, and a job over it tells what a worker takes for a
sample. The epochs of the second are predicted from that, and then run. Nothing of a predicted run goes into
a prediction. The first set is measured anew before and after each round over the second, whose epochs are
predicted from the means of both: a machine that gets slower does so for both. An error is the median of those
of the rounds.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ioaccel
from bench.arm import Arm
from bench.measure import spread
from bench.plan_arms import BUCKET, object_urls
from bench.torch_data import write_objects
from ioaccel.predict import Node, Store, Workload, predict
from ioaccel.predict.measure import NO_ROOM, chosen, measure
from ioaccel.testing.shaped import ShapedStore

DELAY_MS, RATE = 20.0, 80_000_000
OBJECTS = 10_000
SHARES = (0.25, 0.5, 0.8, 1.2)
EPOCHS, ROUNDS = 3, 4
BATCH, WORKERS = 64, 2
WARM_EPOCHS = 4
# A larger error is marked. What is counted follows from the design; times are a model's.
ALLOWED = {"hit share": 0.01, "requests": 0.01, "bytes": 0.01, "seconds": 0.10}

# What `bench.scale` goes on with.
NODE = ("fetches_per_s", "fetch_cpu_s", "sample_s")

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A figure of one epoch, predicted and measured in each round."""

    cache_share: float
    epoch: int
    figure: str
    predicted: list[float]
    measured: list[float]

    @property
    def error(self) -> float:
        """The median of the rounds: of hit shares the difference, else a share of what was measured."""
        return statistics.median(self._errors)

    @property
    def _errors(self) -> list[float]:
        return list(map(self._error, self.predicted, self.measured))

    def _error(self, told: float, seen: float) -> float:
        if self.figure == "hit share":
            return told - seen
        return told / seen - 1 if seen else float(told != seen)

    @property
    def met(self) -> bool:
        """Whether most rounds were as near as wanted: errors of two signs do not make up for each other."""
        return statistics.median(map(abs, self._errors)) <= ALLOWED[self.figure]


def run(directory: Path | None = None) -> dict[str, Any]:
    """Runs all and prints the table; the figures."""
    seen: dict[tuple[float, int, str], list[float]] = defaultdict(list)
    told: dict[tuple[float, int, str], list[float]] = defaultdict(list)
    hedged: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as scratch,
        ShapedStore(Path(scratch) / "store", delay_ms=DELAY_MS, rate=RATE) as store,
    ):
        sizes = {
            part: write_objects(store.directory / BUCKET / part, OBJECTS)[:, 0].tolist()
            for part in ("known", "new")
        }
        total = sum(sizes["new"])
        known = [calibrate(Path(scratch), store, sizes["known"])]
        for number in range(1, ROUNDS + 1):
            print(f"round {number} of {ROUNDS} ...", flush=True)
            for share in SHARES:
                epochs = measured_epochs(Path(scratch), store, int(total * share))
                for epoch, figures in enumerate(epochs, 1):
                    hedged.append(figures.pop("hedged"))
                    for figure, value in figures.items():
                        seen[share, epoch, figure].append(value)
            known.append(calibrate(Path(scratch), store, sizes["known"]))
            around = {key: statistics.mean((known[-2][key], known[-1][key])) for key in known[-1]}
            for which, value in predicted(sizes["new"], around).items():
                told[which].append(value)
    constants = {key: [one[key] for one in known] for key in known[0]}
    rows = [Row(*key, told[key], seen[key]) for key in seen]
    show(rows, constants, hedged)
    return {
        "constants": constants,
        "node": {key: statistics.median(constants[key]) for key in NODE},
        "hedged_requests": hedged,
        "rows": [{**vars(row), "error": row.error, "met": row.met} for row in rows],
    }


def predicted(sizes: list[int], known: Figures) -> dict[tuple[float, int, str], float]:
    """All figures of all epochs, from what `calibrate` tells."""
    work = Workload.of_sizes(
        sizes,
        batch=BATCH,
        workers=WORKERS,
        epochs=EPOCHS,
        sample_s=known["sample_s"],
        start_s=known["start_s"],
    )
    told: dict[tuple[float, int, str], float] = {}
    for share in SHARES:
        node = Node(
            cache_bytes=work.bytes * share,
            cores=os.cpu_count() or 1,
            copy_rate=known["copy_rate"],
            fetches_per_s=known["fetches_per_s"],
            fetch_cpu_s=known["fetch_cpu_s"],
            passing_per_s=known["passing_per_s"],
            passing_cpu_s=known["passing_cpu_s"],
        )
        for epoch in predict(work, Store(known["request_s"]), node):
            told[share, epoch.epoch, "hit share"] = epoch.hit_share
            told[share, epoch.epoch, "requests"] = epoch.requests
            told[share, epoch.epoch, "bytes"] = epoch.store_bytes
            told[share, epoch.epoch, "seconds"] = epoch.seconds
    return told


def calibrate(scratch: Path, store: ShapedStore, sizes: list[int]) -> Figures:
    """What the first set tells: of store and engine as ``--measure`` does, of the workers from a job."""
    urls = object_urls("known", len(sizes))
    with (
        tempfile.TemporaryDirectory(dir=scratch) as directory,
        ioaccel.connect(f"{directory}/cache", "1GB", store.storage_options) as cache,
        ioaccel.connect(f"{directory}/full", NO_ROOM, store.storage_options) as full,
    ):
        extents = [(urls[index], offset, length) for index, offset, length in chosen(sizes)]
        found = measure(cache, extents, full, _processes(store.pid))
    with (
        tempfile.TemporaryDirectory(dir=scratch) as caches,
        _job(caches, store, "known", 2 * sum(sizes)) as job,
    ):
        first = job.ask("epoch")["first"]
        warm = statistics.median(job.ask("epoch")["seconds"] for _ in range(WARM_EPOCHS))
    return {
        "request_s": found.request_s,
        "fetches_per_s": found.fetches_per_s,
        "fetch_cpu_s": found.fetch_cpu_s,
        "passing_per_s": found.passing_per_s or 0.0,
        "passing_cpu_s": found.passing_cpu_s or 0.0,
        "copy_rate": found.copy_rate,
        "sample_s": warm / len(sizes) * min(WORKERS, os.cpu_count() or 1),
        "start_s": max(0.0, first - found.request_s) + found.start_s,
    }


def measured_epochs(scratch: Path, store: ShapedStore, size: int) -> list[Figures]:
    """The epochs of a job with a new cache of ``size`` bytes.

    Requests that were asked twice because the first took long are counted apart: how many they are is up
    to the store, and 0.5% of all at most.
    """
    figures = []
    with tempfile.TemporaryDirectory(dir=scratch) as caches, _job(caches, store, "new", size) as job:
        for _ in range(EPOCHS):
            store.reset()
            answer = job.ask("epoch")
            counts = store.reset()
            requests = sum(n for (method, _), n in counts.requests.items() if method == "GET")
            fetched = counts.bytes - answer["hedged"] * answer["bytes"] / answer["samples"]
            figures.append(
                {
                    "hit share": 1 - fetched / answer["bytes"],
                    "requests": requests - answer["hedged"],
                    "bytes": fetched,
                    "seconds": answer["seconds"],
                    "hedged": answer["hedged"],
                }
            )
    return figures


def show(rows: list[Row], constants: dict[str, list[float]], hedged: list[float]) -> None:
    """Prints the tables."""
    print("\nof the first set              median (min..max), before and after each round")
    for constant, values in constants.items():
        print(f"{constant:29} {spread(values)}")
    print(f"{'requests asked twice':29} {spread(hedged)} an epoch, not counted below")
    print(f"\n{'cache, epoch, figure':29} {'predicted':30} {'measured':30}   error")
    for row in rows:
        label = f"{row.cache_share:4.0%} {row.epoch} {row.figure}"
        mark = "" if row.met else f"   MORE THAN {ALLOWED[row.figure]:.0%}"
        print(f"{label:29} {spread(row.predicted):30} {spread(row.measured):30} {row.error:+7.1%}{mark}")
    timed = [row for row in rows if row.figure == "seconds"]
    counted = [row for row in rows if row.figure != "seconds"]
    for what, some in (("what is counted", counted), ("epoch times", timed)):
        worst = max(abs(row.error) for row in some)
        print(f"{what}: {sum(row.met for row in some)} of {len(some)} as near as wanted, worst {worst:.1%}")


def _job(caches: str, store: ShapedStore, part: str, size: int) -> Arm:
    settings = {
        "part": part,
        "objects": OBJECTS,
        "options": store.storage_options,
        "cache_dir": f"{caches}/cache",
        "cache_size": size,
        "batch": BATCH,
        "workers": WORKERS,
    }
    return Arm("bench.plan_arms:Job", settings)


def _processes(pid: int | None) -> list[int]:
    """A process and its children."""
    if pid is None:
        return []
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
