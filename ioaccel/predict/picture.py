"""Efficiencies over the number of accelerators, as a chart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ioaccel.errors import ConfigError
from ioaccel.predict.scale import Efficiency

FORMATS = (".png", ".svg", ".pdf")
INK, FAINT = "#1f2933", "#616e7c"
LINES = {
    "without ioaccel": ("direct", "#9aa5b1", "-"),
    "epoch 1": ("first", "#0b7a75", ":"),
    "last epoch": ("last", "#0b7a75", "--"),
    "all epochs": ("job", "#0b7a75", "-"),
}


def check(path: Path) -> None:
    """ConfigError unless a chart can be written to ``path``."""
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: write a chart to a file that ends with {', '.join(FORMATS)}")
    place = path.absolute().parent
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"{path} cannot be written: {place} has to be a directory that you may write to")
    if find_spec("matplotlib") is None:
        raise ConfigError("a chart needs matplotlib, which is not installed: pip install 'ioaccel[demo]'")


def draw(scale: Sequence[Efficiency], *, setting: str, path: Path) -> None:
    """Writes the chart, in the format that the suffix of ``path`` names; ``setting`` goes under the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    counts = [one.accelerators for one in scale]
    for label, (name, colour, style) in LINES.items():
        shares = [100 * getattr(one, name) for one in scale]
        axes.plot(counts, shares, style, color=colour, label=label, marker="o", markersize=3)
    axes.set_xscale("log")
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, 105)
    axes.set_xlabel("accelerators", color=INK)
    axes.set_ylabel("% of the time that they compute", color=INK)
    axes.grid(visible=True, color="#e4e7eb")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle("Parallel efficiency, predicted by ioaccel plan", x=0.06, ha="left", color=INK)
    figure.text(0.06, 0.89, setting, fontsize=9, color=FAINT)
    figure.subplots_adjust(left=0.09, right=0.8, bottom=0.12, top=0.86)
    figure.savefig(path)
