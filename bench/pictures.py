"""Records as pictures: bars of samples a second, or what a small cache has to fetch again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.records import BEYOND, Record, beyond
from bench.tables import partial

OURS, OTHERS, PALE = "#c2410c", "#475569", 0.45


def draw(records: Sequence[Record], path: Path) -> Path | None:
    """Draws the records of one workload into ``path``. None if there is nothing to draw, or no matplotlib."""
    ran = [record for record in records if not record["failed"]]
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return None
    if not ran:
        return None
    mpl.use("agg")
    import matplotlib.pyplot as plt

    several = len({record["cache_ratio"] for record in ran} - {None}) > 1
    rows = 1 if several else len({record["contestant"] for record in ran})
    figure, axes = plt.subplots(figsize=(8, 4.5 if several else 1.2 + 0.4 * rows), layout="constrained")
    (_fetched if several else _bars)(axes, ran)
    axes.set_title(records[0]["workload"], loc="left", fontsize=11, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _bars(axes: Any, records: Sequence[Record]) -> None:
    """Two bars a contestant: its first epoch and its last one."""
    last = {record["contestant"]: record for record in records}
    first = {record["contestant"]: record for record in reversed(records)}
    names = sorted(last, key=lambda name: last[name]["samples_per_s"])
    for place, name in enumerate(names):
        colour = OURS if name.startswith("ioaccel") else OTHERS
        for record, offset, alpha in ((first[name], -0.19, PALE), (last[name], 0.19, 1.0)):
            rate = record["samples_per_s"]
            axes.barh(place + offset, rate, 0.36, color=colour, alpha=alpha)
            axes.text(
                rate * 1.04,
                place + offset,
                f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
                va="center",
                fontsize=7,
            )
    axes.margins(x=0.1, y=0.01)
    some = partial(records)
    labels = [f"{name}, a part only" if name in some else name for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("samples a second (logarithmic); pale: epoch 1, full: last epoch", fontsize=8)


def _fetched(axes: Any, records: Sequence[Record]) -> None:
    """Bytes from the store in the last epoch, of the data set's, over the size of the cache."""
    lines: dict[str, dict[float, float]] = {}
    over = set()
    for record in records:
        if beyond(record):
            over.add(record["contestant"])
        size = record["mb_per_s"] / record["samples_per_s"] * record["samples"] * 1e6
        if record["cache_ratio"]:
            lines.setdefault(record["contestant"], {})[record["cache_ratio"]] = record["store_bytes"] / size
    for name, points in lines.items():
        ratios = sorted(points)
        style = {"color": OURS, "linewidth": 2.5} if name.startswith("ioaccel") else {"linewidth": 1.2}
        axes.plot(
            ratios,
            [points[ratio] for ratio in ratios],
            marker="o",
            label=f"{name}, {BEYOND}" if name in over else name,
            **style,
        )
    axes.plot(
        [0, 1], [1, 0], linestyle=":", color="black", linewidth=1, label="the least possible: 1 - cache"
    )
    axes.set_xlabel("cache, of the data set", fontsize=8)
    axes.set_ylabel("fetched in the last epoch, of the data set", fontsize=8)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
