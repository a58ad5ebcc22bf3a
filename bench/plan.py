"""``ioaccel plan`` against what happens: a cache of 25, 50, 80 and 120% of the data, three epochs each.

A store with 20 ms to the first byte and 80 MB/s a connection holds two sets of objects of one size. The
first is measured as ``ioaccel plan --measure`` does, and a job over it tells what a worker takes for a
sample. The epochs of the second are predicted from that, and then run. Nothing of a predicted run goes into
a prediction. Each round measures anew, so that a machine that gets slower does so for both.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ioaccel
from bench.arm import Arm
from bench.measure import spread
from bench.torch_data import name, write_objects
from ioaccel.predict import Node, Store, Workload, predict
from ioaccel.predict.measure import chosen, measure
from ioaccel.testing.shaped import ShapedStore

DELAY_MS, RATE = 20.0, 80_000_000
BUCKET = "bench"
OBJECTS = 3000
SHARES = (0.25, 0.5, 0.8, 1.2)
EPOCHS, ROUNDS = 3, 5
BATCH, WORKERS = 64, 2
# A larger error is marked. What is counted follows from the design; times are a model's.
ALLOWED = {"hit share": 0.01, "requests": 0.01, "bytes": 0.01, "seconds": 0.10}

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
        """The median over the rounds: of hit shares the difference, else a share of what was measured."""
        pairs = list(zip(self.predicted, self.measured, strict=True))
        if self.figure == "hit share":
            return statistics.median(told - seen for told, seen in pairs)
        return statistics.median(told / seen - 1 if seen else float(told != seen) for told, seen in pairs)

    @property
    def met(self) -> bool:
        return abs(self.error) <= ALLOWED[self.figure]


@dataclass(frozen=True)
class Known:
    """What the first set told: settings of the predictions."""

    work: dict[str, Any]
    store: Store
    node: Node


def run(directory: Path | None = None) -> dict[str, Any]:
    """Runs all and prints the table; the figures."""
    told: dict[tuple[float, int, str], list[float]] = defaultdict(list)
    seen: dict[tuple[float, int, str], list[float]] = defaultdict(list)
    constants: dict[str, list[float]] = defaultdict(list)
    hedged: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as scratch,
        ShapedStore(Path(scratch) / "store", delay_ms=DELAY_MS, rate=RATE) as store,
    ):
        sizes = {
            part: write_objects(store.directory / BUCKET / part, OBJECTS)[:, 0].tolist()
            for part in ("known", "new")
        }
        for number in range(1, ROUNDS + 1):
            print(f"round {number} of {ROUNDS} ...", flush=True)
            known = calibrate(Path(scratch), store, sizes["known"], constants)
            job = Workload.of_sizes(sizes["new"], **known.work)
            for share in SHARES:
                node = replace(known.node, cache_bytes=int(job.bytes * share))
                epochs = measured_epochs(Path(scratch), store, int(node.cache_bytes))
                for epoch, figures in zip(predict(job, known.store, node), epochs, strict=True):
                    hedged.append(figures.pop("hedged"))
                    for figure, value in figures.items():
                        seen[share, epoch.epoch, figure].append(value)
                    for figure, value in (
                        ("hit share", epoch.hit_share),
                        ("requests", epoch.requests),
                        ("bytes", epoch.store_bytes),
                        ("seconds", epoch.seconds),
                    ):
                        told[share, epoch.epoch, figure].append(value)
    rows = [Row(*key, told[key], seen[key]) for key in seen]
    show(rows, constants, hedged)
    return {
        "measured_first": constants,
        "hedged_requests": hedged,
        "rows": [{**vars(row), "error": row.error, "met": row.met} for row in rows],
    }


def calibrate(
    scratch: Path, store: ShapedStore, sizes: list[int], constants: dict[str, list[float]]
) -> Known:
    """Measures the first set, and notes what was found among the constants."""
    urls = _urls("known")
    with (
        tempfile.TemporaryDirectory(dir=scratch) as directory,
        ioaccel.connect(directory, "1GB", store.storage_options) as cache,
    ):
        extents = [(urls[index], offset, length) for index, offset, length in chosen(sizes)]
        found = measure(cache, extents, _processes(store.pid))
    with tempfile.TemporaryDirectory(dir=scratch) as caches, _job(caches, store, "known", 10**9) as job:
        first = job.ask("epoch")["first"]
        warm = statistics.mean(job.ask("epoch")["seconds"] for _ in range(EPOCHS - 1))
    cores = os.cpu_count() or 1
    work = {
        "batch": BATCH,
        "workers": WORKERS,
        "epochs": EPOCHS,
        "sample_s": warm / len(sizes) * min(WORKERS, cores),
        "start_s": max(0.0, first - found.request_s),
    }
    node = {
        "fetches_per_s": found.fetches_per_s,
        "fetch_cpu_s": found.fetch_cpu_s,
        "copy_rate": found.copy_rate,
    }
    for key, value in {"request_s": found.request_s, **node, **work}.items():
        constants[key].append(value)
    return Known(work, Store(found.request_s), Node(0, cores, **node))


def measured_epochs(scratch: Path, store: ShapedStore, size: int) -> list[Figures]:
    """The epochs of a job with a new cache of ``size`` bytes.

    Requests that were asked twice because the first took long are counted apart: how many they are is up
    to the store, and 2% of all at most.
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
    print("\nmeasured first                median (min..max) of the rounds")
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
        "urls": _urls(part),
        "options": store.storage_options,
        "cache_dir": f"{caches}/cache",
        "cache_size": size,
        "batch": BATCH,
        "workers": WORKERS,
    }
    return Arm("bench.plan_arms:Job", settings)


def _urls(part: str) -> list[str]:
    return [f"s3://{BUCKET}/{part}/{name(index)}" for index in range(OBJECTS)]


def _processes(pid: int | None) -> list[int]:
    """A process and its children."""
    if pid is None:
        return []
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
