"""The hot paths, each side by side with its limit on the same machine, in one run.

read_many  batches of 64 random cached objects of ~110 KB, against a C loop of pread over the same bytes
read       one cached piece of 4 KB, against open + read + close of a local file
cold       3,000 objects fetched with 64 in flight, against obstore in 64 threads doing the same
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import ioaccel
from bench.measure import cpu_seconds, interleaved, median_ratio, seconds, spread
from bench.pread import PreadLoop
from ioaccel.client.reader import COPY_THREADS
from ioaccel.testing.seaweed import SeaweedS3

BUCKET = "bench"
OBJECTS = 3000
# Mean and spread of the JPEGs of ImageNet.
SIZE, SIZE_SPREAD = 110_000, 10_000
BATCH = 64
BATCHES_A_ROUND = 50
ROUNDS = 15
COLD_ROUNDS = 5
IN_FLIGHT = 64


def run(directory: Path | None = None) -> dict[str, Any]:
    """Runs all three and prints their figures; the figures by name."""
    with (
        tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as name,
        SeaweedS3(Path(name) / "store") as s3,
    ):
        scratch = Path(name)
        s3.create_bucket(BUCKET)
        random.seed(1)
        sizes = [SIZE + random.randint(-SIZE_SPREAD, SIZE_SPREAD) for _ in range(OBJECTS)]
        s3.put_many(BUCKET, ((f"o/{i:06d}", random.randbytes(n)) for i, n in enumerate(sizes)))
        urls = [f"s3://{BUCKET}/o/{i:06d}" for i in range(OBJECTS)]
        figures = cold(scratch, s3, urls)
        with ioaccel.connect(scratch / "warm", "2GB", s3.storage_options) as cache:
            cache.read_many(urls)
            figures |= read_many(cache, urls, sizes, scratch)
            figures |= read_4k(cache, urls[0], scratch)
    return figures


def read_many(
    cache: ioaccel.Cache, urls: Sequence[str], sizes: Sequence[int], scratch: Path
) -> dict[str, float]:
    """GB/s of ``read_many`` and of the C loop with as many threads, over equal pieces."""
    loop = PreadLoop(scratch, BATCH, SIZE + SIZE_SPREAD)
    shard = scratch / "warm" / "shard.data"
    fd = os.open(shard, os.O_RDONLY)
    span = os.fstat(fd).st_size
    choices = [random.sample(range(len(urls)), BATCH) for _ in range(BATCHES_A_ROUND)]
    total = sum(sizes[i] for batch in choices for i in batch)
    batches = [[urls[i] for i in batch] for batch in choices]
    lengths = np.array([sizes[i] for batch in choices for i in batch], np.int64)
    # Random places among the same cached bytes.
    used = int(cache.status()["cached_bytes"] * 0.9)
    offsets = np.array([random.randrange(span - used, span - 200_000) for _ in lengths], np.int64)

    def ours() -> float:
        def work() -> None:
            for batch in batches:
                cache.read_many(batch)

        return total / seconds(work) / 1e9

    def limit() -> float:
        taken = seconds(lambda: loop(fd, offsets, lengths, COPY_THREADS))
        return total / taken / 1e9

    ours(), limit()
    mine, theirs = interleaved(ROUNDS, ours, limit)
    os.close(fd)
    ratio = median_ratio(mine, theirs)
    print(f"read_many, {BATCH} x ~110 KB, {COPY_THREADS} threads   {spread(mine)} GB/s")
    print(f"C loop of pread, {COPY_THREADS} threads         {spread(theirs)} GB/s")
    print(f"read_many / pread                  {ratio:.2f}   (at least 0.6, goal 0.9)\n")
    return {
        "read_many_vs_pread": ratio,
        "read_many_gb_per_s": statistics.median(mine),
        "pread_gb_per_s": statistics.median(theirs),
    }


def read_4k(cache: ioaccel.Cache, url: str, scratch: Path) -> dict[str, float]:
    """Median microseconds of one cached 4 KB read, and of a local file's."""
    path = scratch / "four-kilobytes"
    path.write_bytes(random.randbytes(4096))
    times: dict[str, list[float]] = {"ours": [], "file": []}
    for _ in range(20_000):
        begun = time.perf_counter()
        cache.read(url, 8192, 4096)
        middle = time.perf_counter()
        with open(path, "rb") as file:
            file.read()
        times["file"].append((time.perf_counter() - middle) * 1e6)
        times["ours"].append((middle - begun) * 1e6)
    ours, local = statistics.median(times["ours"]), statistics.median(times["file"])
    print(f"cache.read of 4 KB                 {ours:.2f} us median   (under 10)")
    print(f"open + read + close of a file      {local:.2f} us median\n")
    return {"read_4k_us": ours, "local_file_4k_us": local}


def cold(scratch: Path, s3: SeaweedS3, urls: Sequence[str]) -> dict[str, float]:
    """Objects/s and CPU seconds per GB of a first epoch, and of bare obstore."""
    cpu: dict[str, list[float]] = {"ours": [], "obstore": []}
    size = 0

    def epoch(cache: ioaccel.Cache) -> None:
        # As a job does it: the order is known, and batches are read while others are on their way.
        cache.prefetch(urls)
        for start in range(0, len(urls), BATCH):
            cache.read_many(urls[start : start + BATCH])

    def ours() -> float:
        nonlocal size
        with (
            tempfile.TemporaryDirectory(dir=scratch) as directory,
            ioaccel.connect(directory, "2GB", s3.storage_options) as cache,
        ):
            engine = int(cache.status()["engine_pid"])
            before = time.process_time() + cpu_seconds(engine)
            taken = seconds(lambda: epoch(cache))
            cpu["ours"].append(time.process_time() + cpu_seconds(engine) - before)
            size = cache.status()["store_bytes"]
        return len(urls) / taken

    def bare() -> float:
        import obstore

        store = _bare_store(s3)
        keys = [url.removeprefix(f"s3://{BUCKET}/") for url in urls]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            before = time.process_time()
            taken = seconds(lambda: list(pool.map(lambda key: obstore.get(store, key).bytes(), keys)))
            cpu["obstore"].append(time.process_time() - before)
        return len(urls) / taken

    # Memory that a virtual machine touches for the first time is slow: one round does not count.
    ours(), bare()
    for spent in cpu.values():
        spent.clear()
    mine, theirs = interleaved(COLD_ROUNDS, ours, bare)
    ratio = median_ratio(mine, theirs)
    per_gb = {name: statistics.median(figures) / (size / 1e9) for name, figures in cpu.items()}
    for label, figures, cost in (
        (f"prefetch + read_many, {len(urls)}", mine, per_gb["ours"]),
        (f"bare obstore, {IN_FLIGHT} threads", theirs, per_gb["obstore"]),
    ):
        print(f"{label:34} {spread(figures)} objects/s, {cost:.2f} CPU s/GB")
    print(f"cold / obstore                     {ratio:.2f}   (at least 0.75, goal 0.95)\n")
    return {
        "cold_vs_obstore": ratio,
        "cold_objects_per_s": statistics.median(mine),
        "obstore_objects_per_s": statistics.median(theirs),
        "cold_cpu_s_per_gb": per_gb["ours"],
        "obstore_cpu_s_per_gb": per_gb["obstore"],
    }


def _bare_store(s3: SeaweedS3) -> Any:
    from obstore.store import S3Store

    options = s3.storage_options
    return S3Store(
        BUCKET,
        endpoint=options["endpoint_url"],
        access_key_id=options["key"],
        secret_access_key=options["secret"],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
