"""What every benchmark measures with: medians over interleaved rounds, and CPU time of processes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

_TICKS = os.sysconf("SC_CLK_TCK")


def interleaved(rounds: int, *arms: Callable[[], float]) -> list[list[float]]:
    """The figures of each arm, the arms taking turns: a change of the machine's speed meets all."""
    results: list[list[float]] = [[] for _ in arms]
    for _ in range(rounds):
        for arm, figures in zip(arms, results, strict=True):
            figures.append(arm())
    return results


def median_ratio(of: list[float], to: list[float]) -> float:
    """The median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def spread(figures: list[float]) -> str:
    """``median (min..max)``."""
    return f"{statistics.median(figures):.3g} ({min(figures):.3g}..{max(figures):.3g})"


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def megabytes(pid: int | str = "self") -> float:
    """Memory of a process; what it shares counts in parts (PSS)."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
