"""What a run leaves: a record for each contestant, size of its cache and epoch."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.contestants import Entry

Record = dict[str, Any]
Row = tuple[str, float]  # contestant, ratio of its cache

# The figures of an epoch. Medians over the repeats; where there are several, all of them are in "repeats".
FIGURES = (
    "samples_per_s",
    "mb_per_s",
    "first_batch_s",
    "p99_wait_s",
    "cpu_s_per_gb",
    "peak_pss_mb",
    "store_requests",
    "store_bytes",
)

# A cache that takes so much more of the disk than its limit has not kept to it.
BEYOND_SHARE = 0.1
BEYOND = "beyond its limit"


def beyond(record: Record) -> bool:
    """Whether the contestant's cache has not kept to its limit. The same question for everybody."""
    return bool(record["cache_bytes"] > (1 + BEYOND_SHARE) * record["cache_size"])


class Results:
    """What was measured so far."""

    def __init__(self) -> None:
        self._figures: dict[Row, dict[int, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
        self._entries: dict[Row, Entry] = {}
        self._failed: dict[Row, str] = {}
        self.versions: dict[str, str] = {}
        self.conversions: dict[str, float] = {}

    def add(self, name: str, ratio: float, epoch: int, figures: dict[str, float], entry: Entry) -> None:
        """The figures of an epoch."""
        self._figures[name, ratio][epoch].append(figures)
        self._entries[name, ratio] = entry

    def extend(self, name: str, ratio: float, epoch: int, figures: dict[str, float]) -> None:
        """More figures of the epoch that was added last."""
        self._figures[name, ratio][epoch][-1].update(figures)

    def failed(self, name: str, ratio: float, reason: str) -> None:
        """From now on this contestant is a row without figures: what failed once is not believed."""
        self._failed[name, ratio] = reason

    def has_failed(self, name: str, ratio: float) -> bool:
        """Whether it is such a row."""
        return (name, ratio) in self._failed

    def rates(self, name: str, ratio: float) -> list[float]:
        """Samples a second of the last repeat, epoch by epoch."""
        return [rounds[-1]["samples_per_s"] for rounds in self._figures[name, ratio].values()]

    def records(self, common: Record) -> list[Record]:
        """All records, each with ``common``."""
        found = []
        for row in {**self._figures, **self._failed}:
            if row in self._failed:
                found.append(self._failure(row, common))
            else:
                found += [self._record(row, epoch, common) for epoch in self._figures[row]]
        return found

    def _record(self, row: Row, epoch: int, common: Record) -> Record:
        rounds, entry = self._figures[row][epoch], self._entries[row]
        keys = dict.fromkeys(key for figures in rounds for key in figures)
        each = {key: [figures[key] for figures in rounds if key in figures] for key in keys}
        return {
            "workload": common["workload"],
            **self._who(row),
            "epoch": epoch,
            **{key: statistics.median(each[key]) for key in FIGURES},
            **{key: statistics.median(each[key]) for key in keys if key not in FIGURES},
            "spread": {key: [min(each[key]), max(each[key])] for key in FIGURES},
            "rounds": each["samples_per_s"],
            "repeats": len(rounds),
            "ours": entry.ours,
            "cached": entry.cached,
            "converts": entry.converts,
            "conversion_s": self.conversions.get(row[0]),
            "failed": False,
            "reason": entry.why,
            **common,
        }

    def _failure(self, row: Row, common: Record) -> Record:
        nothing: Record = dict.fromkeys(FIGURES)
        return {
            "workload": common["workload"],
            **self._who(row),
            "epoch": None,
            **nothing,
            "failed": True,
            "reason": self._failed[row],
            **common,
        }

    def _who(self, row: Row) -> Record:
        name, ratio = row
        ratio_or_none = ratio or None
        return {"contestant": name, "version": self.versions.get(name, "-"), "cache_ratio": ratio_or_none}


def skipped(workload: str, contestants: Iterable[str], reason: str) -> list[Record]:
    """The records of a workload that could not be run."""
    results = Results()
    for name in contestants:
        results.failed(name, 0.0, reason)
    return results.records({"workload": workload})


def read(file: Path) -> list[Record]:
    """The records in a file. ValueError, with its name, if it holds something else."""
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is broken: {error}") from None
    if not isinstance(found, list) or not all(map(_is_record, found)):
        raise ValueError(f"{file} holds no records; `python -m bench run --json FILE` writes some")
    return found


def put(file: Path, text: str) -> None:
    """The file holds this text, or still what it held before."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(text)
    part.replace(file)


def _is_record(found: object) -> bool:
    return isinstance(found, dict) and {"workload", "contestant"} <= found.keys()
