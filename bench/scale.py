"""From the node that was measured to 1,000 of them: how busy accelerators are, with the cache and without.

The job is shaped like MLPerf Storage's resnet50 on H100s; node and store are assumed, of a kind that clouds
rent out. Only what one engine and one worker do is measured, on the machine of this run.
"""

from __future__ import annotations

from pathlib import Path

from ioaccel.predict import Efficiency, Node, Store, Workload, efficiency
from ioaccel.predict.inputs import ORDERS
from ioaccel.predict.picture import draw

SAMPLES, SAMPLE_BYTES = 50_000_000, 114_660  # so many that 8,000 accelerators have a batch in each step
BATCH, STEP_S, EPOCHS = 400, 0.224, 10
WORKERS, ACCELERATORS, CORES = 8, 8, 96
CACHE, MEMORY = 8e12, 1e12  # bytes of NVMe and of page cache a node: all of the data fits
DISKS, NETWORK, COPY = 20e9, 12.5e9, 50e9  # bytes a second: four drives, 100 Gb/s, and memory
# 100 prefixes of 5,500 GETs a second each (Amazon S3, "Best practices design patterns"), 20 ms and 80 MB/s
# a connection, as in the other benchmarks.
STORE = Store(delay_s=0.020, connection_rate=80e6, requests_per_s=550_000)


def extrapolate(fetches_per_s: float, fetch_cpu_s: float, sample_s: float) -> dict[str, list[Efficiency]]:
    """The efficiencies for each order of samples, from what was measured of one node (`bench.plan`)."""
    node = Node(
        cache_bytes=CACHE,
        cores=CORES,
        accelerators=ACCELERATORS,
        memory_bytes=MEMORY,
        disk_rate=DISKS,
        copy_rate=COPY,
        network_rate=NETWORK,
        fetches_per_s=fetches_per_s,
        fetch_cpu_s=fetch_cpu_s,
    )
    found = {}
    for order in ORDERS[:2]:  # a sequential one is no other than sharded, where all of a node's part fits
        work = Workload(
            SAMPLES,
            SAMPLES * SAMPLE_BYTES,
            SAMPLES,
            batch=BATCH,
            workers=WORKERS,
            epochs=EPOCHS,
            order=order,
            sample_s=sample_s,
            step_s=STEP_S,
        )
        found[order] = efficiency(work, STORE, node)
    return found


def show(found: dict[str, list[Efficiency]], directory: Path) -> list[Path]:
    """Prints the table, and draws a picture for each order; their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    print(f"\nshaped like resnet50 on H100s, {EPOCHS} epochs of {SAMPLES:,} samples; busy accelerators")
    print(f"{'':10} {'nodes':>6} {'accelerators':>13} {'without':>8} {'epoch 1':>8} {'last':>6} {'all':>6}")
    paths = []
    for order, scale in found.items():
        for one in scale:
            print(
                f"{order:10} {one.nodes:6,} {one.accelerators:13,} {one.direct:8.0%} {one.first:8.0%} "
                f"{one.last:6.0%} {one.job:6.0%}"
            )
        setting = (
            f"{order}: {SAMPLES:,} samples of {SAMPLE_BYTES:,} bytes, {EPOCHS} epochs, "
            f"{ACCELERATORS} H100s and a cache of {CACHE / 1e12:.0f} TB a node"
        )
        paths.append(directory / f"efficiency-{order}.png")
        draw(scale, setting=setting, path=paths[-1])
    return paths
