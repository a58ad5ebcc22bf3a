"""Runs a workload: every contestant in turn, again and again, and what each epoch took."""

from __future__ import annotations

import random
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import data, machine, stores
from bench.arm import ArmFailedError
from bench.contestants import Entry
from bench.contestants.contract import KEPT
from bench.job import Job, Setting, advice, disk_usage, leave, start, unmount, watched
from bench.processes import Processes
from bench.records import Record, Results
from bench.workload import ALL, Workload

CONVERSION_S = 600.0
AMPLE = 4_000_000_000  # bytes of a cache that is meant to hold all
SHARD = 64 << 20  # bytes; what the documentation of Streaming and LitData has
SHARDS = 32  # at least, so that there is something to shuffle, and four of them fit into a small cache
TRIES = 3  # to keep accelerators busy: fewer each time


@dataclass(frozen=True)
class Lane:
    """A contestant with a size of its cache: a row of the table."""

    name: str
    entry: Entry
    ratio: float


def run(
    workload: Workload,
    contestants: Mapping[str, Entry],
    scratch: Path,
    say: Callable[[str], None] = print,
) -> list[Record]:
    """The records of all contestants, also of those that failed. RuntimeError if there is no such store."""
    with stores.started(workload, scratch) as store:
        return _Run(workload, store, scratch, say).all(contestants)


class _Run:
    def __init__(
        self, workload: Workload, store: stores.Store, scratch: Path, say: Callable[[str], None]
    ) -> None:
        self.workload, self.store, self.scratch, self.say = workload, store, scratch, say
        say(f"{workload.name}: writing {workload.samples:,} samples in {workload.files:,} objects ...")
        self.truth = data.write(store.directory / data.PREFIX, workload)
        np.save(scratch / "truth.npy", self.truth)
        self.some = data.some(self.truth, workload.slow_samples)
        np.save(scratch / "some.npy", self.some)
        store.publish(data.PREFIX)
        self.described = machine.describe()  # of the beginning, when the code is read
        self.noise = machine.Calibration()
        self.page_cache = "caches empty before epoch 1; what an epoch wrote may be in memory in the next"
        self.results = Results()
        self.setting = Setting(
            options=store.options,
            endpoint=store.options["endpoint_url"],
            key=store.options["key"],
            secret=store.options["secret"],
            bucket=data.BUCKET,
            prefix=data.PREFIX,
            files=str(store.directory),
            samples_per_file=workload.samples_per_file,
            kept=min(KEPT, int(self.truth[:, data.LENGTH].min())),
            batch=workload.batch,
            workers=workload.workers,
            shard=min(SHARD, int(self.truth[:, data.LENGTH].sum()) // SHARDS),
        )

    def all(self, contestants: Mapping[str, Entry]) -> list[Record]:
        lanes = []
        for name, entry in contestants.items():
            if self.workload.samples_per_file > 1 and not entry.pieces:
                self.results.failed(name, 0.0, "reads whole objects or shards only, no parts of them")
                continue
            ratios = self.workload.cache_ratios if entry.cached and entry.bounded else (ALL,)
            lanes += [Lane(name, entry, ratio) for ratio in ratios]
        for repeat in range(self.workload.repeats):
            # In another order each time, the same in each run: nobody always comes after the same neighbour.
            for lane in random.Random(repeat).sample(lanes, len(lanes)):
                if not self.results.has_failed(lane.name, lane.ratio):
                    self.noise.measure()
                    self._lane(lane, repeat)
        return self.results.records(
            {
                "workload": self.workload.name,
                "store": self.store.about,
                "page_cache": self.page_cache,
                "noise": round(self.noise.spread, 3),
                "noisy": self.noise.spread > machine.NOISY,
                "jobs": self.workload.jobs,
                **self.described,
            }
        )

    def _lane(self, lane: Lane, repeat: int) -> None:
        """One contestant's conversion, if it is the first time, and its epochs."""
        begun = time.monotonic()
        caches = self.scratch / "caches" / f"{lane.name}-{secrets.token_hex(4)}"
        caches.mkdir(parents=True)
        try:
            if lane.entry.converts and lane.name not in self.results.conversions:
                self._convert(lane, caches / "conversion")
            if repeat == 0 and self.workload.repeats > 1 and lane.entry.cached:
                # Who has a cache gets its bytes in two ways; those of a warm one are checked below.
                self._check_cold(lane, caches / "cold")
            self._epochs(lane, caches / "cache", check=repeat == 0)
        except (ArmFailedError, OSError) as error:
            reason = str(error).removeprefix(f"{lane.entry.kind}: ").removeprefix(f"{lane.entry.kind}.")
            reason += advice(lane.entry, reason)
            self.results.failed(lane.name, lane.ratio, reason)
            self.say(f"  {lane.name}: failed: {reason}")
        else:
            rates = self.results.rates(lane.name, lane.ratio)
            label = (
                f"{lane.name} ({lane.ratio:.0%} cache)" if len(self.workload.cache_ratios) > 1 else lane.name
            )
            self.say(
                f"  {repeat + 1}/{self.workload.repeats} {label}: "
                f"{', '.join(f'{rate:,.0f}' for rate in rates)} samples/s ({time.monotonic() - begun:.0f} s)"
            )
        finally:
            unmount(caches)
            shutil.rmtree(caches, ignore_errors=True)

    def _convert(self, lane: Lane, caches: Path) -> None:
        """Makes the contestant's own format, once: its lanes and repeats share it."""
        setting = self._setting(lane, caches)
        Path(setting.converted).mkdir(parents=True, exist_ok=True)
        with watched() as processes, start(lane.entry, setting, processes) as arm:
            taken = arm.ask("conversion", patience=CONVERSION_S)["seconds"]
        self.store.publish(setting.converted_prefix)
        self.results.conversions[lane.name] = taken
        shutil.rmtree(caches, ignore_errors=True)

    def _check_cold(self, lane: Lane, caches: Path) -> None:
        """An epoch with an empty cache, in which every sample is compared with the truth."""
        with watched() as processes, self._jobs(lane, caches, processes) as jobs:
            _all(jobs, "verify")
        shutil.rmtree(caches, ignore_errors=True)

    def _epochs(self, lane: Lane, caches: Path, *, check: bool) -> None:
        workload = self.workload
        if workload.cold:  # as for who came first: the store's files are in memory
            data.read_all(self.store.directory)
        with watched() as processes, self._jobs(lane, caches, processes) as jobs:
            self.results.versions[lane.name] = jobs[0].version
            number = 0
            while number < (workload.epochs if lane.entry.cached else 1):
                number += 1
                if number > 1 and workload.restart:
                    _restart(jobs, processes)
                if number > 1 and workload.cold:  # in the first one the store reads its files, too
                    self.page_cache = machine.empty_page_cache([caches, self.store.directory])
                self._epoch(lane, number, jobs, processes)
            if workload.step_s:
                self._accelerators(lane, number, jobs[0])
            if check:
                _all(jobs, "verify")

    def _epoch(self, lane: Lane, number: int, jobs: list[Job], processes: Processes) -> None:
        """One epoch of all jobs at once, and all that is counted meanwhile."""
        before = self.store.counts()
        used_before = processes.begin()
        begun = time.perf_counter()
        answers = _all(jobs, "epoch")
        wall = time.perf_counter() - begun if len(jobs) > 1 else answers[0]["seconds"]
        after = self.store.counts()
        used, peak = processes.usage(), processes.peak()
        size = sum(answer["bytes"] for answer in answers)
        caches = {job.setting.cache_dir: job.setting.cache_size for job in jobs}
        self.results.add(
            lane.name,
            lane.ratio,
            number,
            {
                "samples": sum(answer["samples"] for answer in answers),
                "samples_per_s": sum(answer["samples"] for answer in answers) / wall,
                "mb_per_s": size / wall / 1e6,
                "first_batch_s": max(answer["first_batch_s"] for answer in answers),
                "p50_wait_s": max(answer["p50_wait_s"] for answer in answers),
                "p99_wait_s": max(answer["p99_wait_s"] for answer in answers),
                "cpu_s_per_gb": (used.cpu_s - used_before.cpu_s) / size * 1e9,
                "peak_pss_mb": peak,
                "store_requests": after.requests - before.requests,
                "store_bytes": after.bytes - before.bytes,
                "disk_written_bytes": used.written_bytes - used_before.written_bytes,
                "cache_size": sum(caches.values()),
                "cache_bytes": sum(map(disk_usage, caches)),
                "setup_s": max(job.setup_s for job in jobs),
            },
            lane.entry,
        )

    def _accelerators(self, lane: Lane, epoch: int, job: Job) -> None:
        """How many are kept busy: as many as the rate promises, then fewer, until they really are."""
        workload = self.workload
        needed = workload.utilisation * workload.batch / workload.step_s  # samples/s of one
        promised = self.results.rates(lane.name, lane.ratio)[-1] / needed
        count = max(1, int(promised))
        for left in reversed(range(TRIES)):
            reached = job.ask("epoch", step_s=workload.step_s / count)["utilisation"]
            if reached >= workload.utilisation or not left:
                break
            # The last try is one alone, of which at least the utilisation is said.
            fewer = min(count - 1, int(count * reached / workload.utilisation))
            count = max(1, fewer) if left > 1 else 1
        kept = count if reached >= workload.utilisation else 0
        figures = {"accelerators_kept": kept, "accelerators_promised": promised, "utilisation": reached}
        self.results.extend(lane.name, lane.ratio, epoch, figures)

    @contextmanager
    def _jobs(self, lane: Lane, caches: Path, processes: Processes) -> Iterator[list[Job]]:
        """All jobs of a contestant, with one cache if they can share one."""
        shared = caches if lane.entry.shares else None
        places = [shared or caches / str(job) for job in range(self.workload.jobs)]
        with ExitStack() as stack:
            yield [stack.enter_context(self._job(lane, place, processes)) for place in places]

    def _job(self, lane: Lane, caches: Path, processes: Processes) -> Job:
        truth = self.some if lane.entry.slow else self.truth
        right = len(truth), int(truth[:, data.LENGTH].sum())
        return Job(lane.entry, self._setting(lane, caches), processes, right, self.workload.deadline_s)

    def _setting(self, lane: Lane, caches: Path) -> Setting:
        name, truth = ("some.npy", self.some) if lane.entry.slow else ("truth.npy", self.truth)
        size = int(truth[:, data.LENGTH].sum())
        caches.mkdir(parents=True, exist_ok=True)
        flag = caches.parent / f"{caches.name}.flag"
        flag.write_bytes(b"\0")
        prefix = f"converted-{lane.name}/"
        return replace(
            self.setting,
            truth=str(self.scratch / name),
            converted=str(self.store.directory / prefix),
            converted_prefix=prefix,
            cache_dir=str(caches),
            cache_size=int(size * lane.ratio) if lane.ratio < ALL else max(2 * size, AMPLE),
            flag=str(flag),
            workers=lane.entry.workers or self.workload.workers,
        )


def _all(jobs: list[Job], method: str) -> list[dict[str, Any]]:
    """What all of them answer, who are asked at once."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        try:
            return list(pool.map(lambda job: job.ask(method), jobs))
        except (KeyboardInterrupt, SystemExit):
            for job in jobs:
                job.kill()  # or the pool waits for their answers
            raise


def _restart(jobs: list[Job], processes: Processes) -> None:
    """All of them end, and what they have started; then all begin anew."""
    for job in jobs:
        job.__exit__(None, None, None)
    leave(processes)
    for job in jobs:
        job.__enter__()
