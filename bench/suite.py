"""All workloads one after the other, and where their records go."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import runner, workload
from bench.contestants import CONTESTANTS, Entry
from bench.records import Record, skipped
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
    """Runs workloads, all by default, and writes their records after each. Returns the exit code.

    In ``bench/results`` they take the place of what the same workloads and contestants had, and the others
    stay; a file of one's own is begun anew. ValueError if there is no such workload or contestant.
    """
    chosen = [workload.load(name) for name in names or workload.names()]
    if unknown := [name for name in only or () if name not in contestants]:
        raise ValueError(f"no contestant {', '.join(unknown)}; there are {', '.join(contestants)}")
    file = json_file or RESULTS / ("quick.json" if quick else "full.json")
    records: list[Record] = []
    others = [] if json_file or not file.exists() else json.loads(file.read_text())
    for each in chosen:
        command = " ".join(
            [
                "python -m bench run",
                each.name,
                *(["--quick"] if quick else []),
                *(["--only", *only] if only else []),
            ]
        )
        begun = time.monotonic()
        made = _one(each.quickly() if quick else each, only, directory, contestants)
        records += [{**record, "command": command, "quick": quick} for record in made]
        print(f"{each.name}: {time.monotonic() - begun:.0f} s", flush=True)
        others = [
            record
            for record in others
            if record["workload"] != each.name or (only and record["contestant"] not in only)
        ]
        _write(file, records + others)
    print(f"{len(records)} records in {file}")
    return 0


def _one(
    each: Workload, only: Sequence[str] | None, directory: Path | None, contestants: Mapping[str, Entry]
) -> list[Record]:
    wanted = contestants if each.contestants == ("all",) else each.contestants
    taking_part = {
        name: contestants[name] for name in wanted if name in contestants and name in (only or wanted)
    }
    with tempfile.TemporaryDirectory(prefix="ioaccel-bench-", dir=directory) as scratch:
        try:
            return runner.run(each, taking_part, Path(scratch), lambda line: print(line, flush=True))
        except RuntimeError as error:  # the store; it says what to install
            print(f"{each.name}: skipped: {error}")
            return skipped(each.name, taking_part, f"skipped: {error}")


def _write(file: Path, records: list[Record]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(records, indent=1) + "\n")
    part.replace(file)
