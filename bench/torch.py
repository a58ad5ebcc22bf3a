"""PyTorch jobs over a store with 20 ms to the first byte and 80 MB/s a connection, in one run.

plain        a DataLoader, 2 workers, over an unmodified data set that reads with fsspec: one GET a sample
obstore      bare obstore in 128 threads: the limit of epoch 1
accelerate   `ioaccel.torch.accelerate` over that same loader: epochs 1, 2 and 3
loader       `ioaccel.torch.Loader` over an ObjectDataset: epochs 1 to 3
local        the plain loader over the same bytes in local files, in the page cache: the ceiling of epoch 2
whole        the same with whole files as samples, as `Loader` hands them out
joined       the same with each batch put into one buffer, as `Loader` does

Arms are processes of their own (bench/arm.py) and take turns epoch by epoch; a ratio is the median of
those of the rounds. Every timed epoch must bring as many samples and bytes as there are. That they are
the right bytes is checked in epochs of their own, of every arm, cold and warm, which are not timed:
checksums take as long as reading does.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench import torch_report
from bench.arm import ArmFailedError
from bench.torch_costs import cold_cache, first_batch, memory
from bench.torch_data import write_objects
from bench.torch_setting import CACHED, KINDS, Results, Setting
from ioaccel.testing.shaped import ShapedStore

SAMPLES = 10_000
DELAY_MS, RATE = 20.0, 80_000_000
BUCKET = "bench"
ROUNDS = 3

# The epochs of a round. Epoch 1 of the local files brings them into memory, and does not count.
ORDER = [
    *("plain", "obstore", "accelerate", "loader", "local", "whole", "joined"),
    *("local", "whole", "joined", "accelerate", "loader"),
    *("local", "accelerate", "loader"),
]


def run(directory: Path | None = None, samples: int = SAMPLES) -> dict[str, Any]:
    """Runs all arms and prints the table; the figures by name, None where an arm failed."""
    results = Results()
    with (
        tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as name,
        ShapedStore(Path(name) / "store", delay_ms=DELAY_MS, rate=RATE) as store,
    ):
        print(f"writing {samples:,} objects of ~110 KB ...", flush=True)
        scratch, objects = Path(name), store.directory / BUCKET / "o"
        np.save(scratch / "truth.npy", write_objects(objects, samples))
        setting = Setting(
            root=f"s3://{BUCKET}/o/",
            many=f"s3://{BUCKET}/many/",
            samples=samples,
            files=str(objects),
            truth=str(scratch / "truth.npy"),
            options=store.storage_options,
        )
        _verify(setting, scratch, results)
        for number in range(1, ROUNDS + 1):
            print(f"round {number} of {ROUNDS} ...", flush=True)
            _round(setting, scratch, store, results)
        cold_cache(setting, scratch, results)
        memory(setting, scratch, results)
        first_batch(setting, scratch, objects, results)
    results.ratio("epoch1_vs_plain", "accelerate 1", "plain 1")
    results.ratio("epoch1_vs_obstore", "accelerate 1", "obstore 1")
    results.ratio("epoch2_vs_local", "accelerate 2", "local 2")
    results.ratio("epoch3_vs_local", "accelerate 3", "local 3")
    results.ratio("loader_epoch1_vs_obstore", "loader 1", "obstore 1")
    # Both hand out whole objects; a plain loader's samples of 4 KB are another job.
    results.ratio("loader_epoch2_vs_local", "loader 2", "whole 2")
    results.ratio("loader_epoch2_vs_local_joined", "loader 2", "joined 2")
    results.ratio("loader_epoch2_vs_local_4k", "loader 2", "local 2")
    return torch_report.show(results)


def _verify(setting: Setting, scratch: Path, results: Results) -> None:
    """Compares every sample of each arm with the truth; where there is a cache, cold and then warm."""
    print("checking the bytes of every sample ...", flush=True)
    for kind in KINDS:
        with tempfile.TemporaryDirectory(dir=scratch) as caches, setting.arm(kind, Path(caches)) as arm:
            try:
                for _ in range(2 if kind in CACHED else 1):
                    arm.ask("verify")
            except ArmFailedError as error:
                results.failed(error)


def _round(setting: Setting, scratch: Path, store: ShapedStore, results: Results) -> None:
    """Every arm's epochs, in turns; caches are empty at the start."""
    epochs: dict[str, int] = defaultdict(int)
    with tempfile.TemporaryDirectory(dir=scratch) as caches, ExitStack() as stack:
        arms = {kind: stack.enter_context(setting.arm(kind, Path(caches))) for kind in KINDS}
        for arm in arms.values():
            with suppress(ArmFailedError):  # its epochs will say so
                arm.ask("prepare")
        for kind in ORDER:
            epochs[kind] += 1
            label = f"{kind} {epochs[kind]}"
            store.reset()
            try:
                answer = setting.epoch(kind, arms[kind])
            except ArmFailedError as error:
                results.failed(error)
                continue
            gets = sum(n for (method, _), n in store.reset().requests.items() if method == "GET")
            results.rates[label].append(answer["samples"] / answer["seconds"])
            results.gets[label].append(gets / answer["samples"])
