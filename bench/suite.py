"""All workloads one after the other, and where their records go."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import runner, workload
from bench.contestants import CONTESTANTS, Entry
from bench.records import Record, put, read, skipped
from bench.workload import Workload

RESULTS = Path(__file__).parent / "results"


def listing() -> str:
    """The workloads and the contestants, a line each."""
    lines = ["workloads:"]
    lines += [f"  {name:24} {workload.load(name).about}" for name in workload.names()]
    lines += ["", "contestants:"]
    lines += [f"  {name:24} {entry.about}" for name, entry in CONTESTANTS.items()]
    return "\n".join(lines)


def run(
    names: Sequence[str],
    quick: bool,
    only: Sequence[str] | None,
    directory: Path | None,
    json_file: Path | None,
    contestants: Mapping[str, Entry] = CONTESTANTS,
) -> int:
    """Runs workloads, all by default, and writes their records after each. Returns the exit code, 1 if
    nobody has figures.

    In ``bench/results`` they take the place of what the same workloads and contestants had, and the others
    stay; a file of one's own is begun anew. ValueError, before anything runs, if there is no such workload
    or contestant, if none of them takes part, if another run writes there, or if the file is broken.
    """
    chosen = [workload.load(name) for name in names or workload.names()]
    if unknown := [name for name in only or () if name not in contestants]:
        raise ValueError(f"no contestant {', '.join(unknown)}; there are {', '.join(contestants)}")
    entered = _entered([each.quickly() if quick else each for each in chosen], quick, only, contestants)
    file = json_file or RESULTS / ("quick.json" if quick else "full.json")
    with _alone(file.parent):
        records: list[Record] = []
        others = [] if json_file or not file.exists() else read(file)
        for each, taking_part in entered:
            command = " ".join(
                [
                    "python -m bench run",
                    each.name,
                    *(["--quick"] if quick else []),
                    *(["--only", *only] if only else []),
                ]
            )
            begun = time.monotonic()
            made = _one(each, taking_part, directory)
            records += [{**record, "command": command, "quick": quick} for record in made]
            print(f"{each.name}: {time.monotonic() - begun:.0f} s", flush=True)
            others = [
                record
                for record in others
                if record["workload"] != each.name or (only and record["contestant"] not in only)
            ]
            put(file, json.dumps(records + others, indent=1) + "\n")
    nobody = all(record["failed"] for record in records)
    print(f"{len(records)} records in {file}{', none with figures' if nobody else ''}")
    return int(nobody)


def _entered(
    chosen: Sequence[Workload], quick: bool, only: Sequence[str] | None, contestants: Mapping[str, Entry]
) -> list[tuple[Workload, dict[str, Entry]]]:
    """The workloads in which somebody takes part, and who. Says who of ``only`` does not."""
    entered = []
    for each in chosen:
        wanted = contestants if each.contestants == ("all",) else each.contestants
        taking_part = {
            name: contestants[name] for name in wanted if name in contestants and name in (only or wanted)
        }
        for name in only or ():
            if name not in taking_part:
                print(f"{name} takes no part in {each.name}{' (quick)' if quick else ''}")
        if taking_part:
            entered.append((each, taking_part))
    if not entered:
        raise ValueError("nobody takes part, so there is nothing to run; the TOML files say who does")
    return entered


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """No other run writes in this directory meanwhile: they would lose records, and measure each other."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another run writes in {directory}; wait for it, or say --json in another directory"
            raise ValueError(message) from None
        yield
    finally:
        os.close(descriptor)


def _one(each: Workload, taking_part: Mapping[str, Entry], directory: Path | None) -> list[Record]:
    with tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as scratch:
        try:
            return runner.run(each, taking_part, Path(scratch), lambda line: print(line, flush=True))
        except RuntimeError as error:  # the store; it says what to install
            print(f"{each.name}: skipped: {error}")
            return skipped(each.name, taking_part, f"skipped: {error}")
