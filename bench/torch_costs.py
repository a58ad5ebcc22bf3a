"""What a PyTorch job pays besides time: a cold cache, the first batch, memory."""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.arm import ArmFailedError
from bench.cold import READERS, disk_rate, forget
from bench.measure import median_ratio
from bench.pread import PreadLoop
from bench.torch_data import SIZE, link_copies
from bench.torch_setting import CACHED, Results, Setting

COLD_ROUNDS = 3
COPIES = 100  # names of each object: 10,000 objects make a million keys
# Enough for four batches a worker, few enough for twenty epochs in seconds.
MEMORY_SAMPLES = 1000
MEMORY_EPOCHS = 20


def cold_cache(setting: Setting, scratch: Path, results: Results) -> None:
    """Epochs from a cache that is on the disk alone, in turns with 64 threads reading the same file."""
    print("epochs with a cold page cache ...", flush=True)
    loop = PreadLoop(scratch, READERS, SIZE)
    for kind, name in zip(CACHED, ("cold_cache_vs_disk", "loader_cold_cache_vs_disk"), strict=True):
        with tempfile.TemporaryDirectory(dir=scratch) as caches, setting.arm(kind, Path(caches)) as arm:
            mine, disk = [], []
            shard = Path(caches) / kind / "shard.data"
            try:
                setting.epoch(kind, arm)
                for _ in range(COLD_ROUNDS):
                    forget(shard)
                    answer = setting.epoch(kind, arm)
                    mine.append(answer["bytes"] / answer["seconds"])
                    forget(shard)
                    disk.append(disk_rate(shard, SIZE, loop))
            except (ArmFailedError, OSError) as error:
                results.failed(error)
                continue
        results.figures[name] = median_ratio(mine, disk)
        results.figures[f"{name}_mb_per_s"] = statistics.median(mine) / 1e6
        results.figures["disk_mb_per_s"] = statistics.median(disk) / 1e6


def memory(setting: Setting, scratch: Path, results: Results) -> None:
    """Workers beside those of the plain loader over local files, which import neither fsspec nor s3fs;
    and what the main process grows by in 20 epochs."""
    print("memory ...", flush=True)
    setting = replace(setting, samples=min(setting.samples, MEMORY_SAMPLES), persistent=True)
    for kind in ("local", *CACHED):
        with tempfile.TemporaryDirectory(dir=scratch) as caches, setting.arm(kind, Path(caches)) as arm:
            try:
                # After two epochs all that is made once has been made.
                setting.epoch(kind, arm), setting.epoch(kind, arm)
                before = arm.ask("memory")
                for _ in range(MEMORY_EPOCHS):
                    setting.epoch(kind, arm)
                after = arm.ask("memory")
            except ArmFailedError as error:
                results.failed(error)
                continue
        results.figures[f"{kind}_main_growth_mb"] = after["main"] - before["main"]
        if after["workers"]:
            results.figures[f"{kind}_worker_mb"] = max(after["workers"])
    if {"accelerate_worker_mb", "local_worker_mb"} <= results.figures.keys():
        over = results.figures["accelerate_worker_mb"] - results.figures["local_worker_mb"]
        results.figures["worker_mb_over_plain"] = over


def first_batch(setting: Setting, scratch: Path, objects: Path, results: Results) -> None:
    """A job's second start over a hundred times as many keys: from `connect` to the first batch.

    The first start lists the keys. Each start is a process of its own, with an engine of its own.
    """
    print(f"first batch of {setting.samples * COPIES:,} samples ...", flush=True)
    link_copies(objects.parent / "many", objects, setting.samples, COPIES)
    for kind, name in zip(CACHED, ("first_batch_s", "loader_first_batch_s"), strict=True):
        with tempfile.TemporaryDirectory(dir=scratch) as caches:
            try:
                for _ in range(2):
                    with setting.arm(kind, Path(caches)) as arm:
                        results.figures[name] = arm.ask("first_batch")["seconds"]
            except ArmFailedError as error:
                results.failed(error)
                results.figures.pop(name, None)
