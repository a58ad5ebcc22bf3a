"""The figures as a chart: how fast each epoch was, and how much of it was waiting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ioaccel.demo.figures import Runs
    from ioaccel.demo.train import Epoch

FORMATS = (".png", ".svg", ".pdf")
COLOURS = {"direct": "#9aa5b1", "ioaccel": "#0b7a75"}
INK, FAINT = "#1f2933", "#616e7c"
TITLE = "One training job, read directly and through ioaccel"
WIDTH = 0.38
"""Of a bar, where 1 is the distance between epochs."""


def draw(runs: Runs, *, setting: str, path: Path) -> None:
    """Write the chart to ``path``, in the format that its suffix names; ``setting`` goes under the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.2), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    speed, waiting = figure.subplots(1, 2)
    _bars(speed, runs, lambda epoch: epoch.samples_per_s, "{:,.0f}")
    speed.set_title("Samples per second", loc="left", fontsize=11, color=INK)
    _bars(waiting, runs, lambda epoch: 100 * epoch.wait_share, "{:.0f}%")
    waiting.set_title("Share of the time spent waiting for data", loc="left", fontsize=11, color=INK)
    waiting.set_ylim(0, 112)
    figure.suptitle(TITLE, x=0.045, y=0.975, ha="left", fontsize=15, color=INK)
    figure.text(0.045, 0.865, setting, fontsize=9, color=FAINT, wrap=True)
    handles, names = speed.get_legend_handles_labels()
    figure.legend(handles, names, loc="upper right", bbox_to_anchor=(0.97, 0.99), ncols=2, frameon=False)
    figure.subplots_adjust(left=0.045, right=0.97, bottom=0.1, top=0.75, wspace=0.1)
    figure.savefig(path)


def _bars(axes: Axes, runs: Runs, value: Callable[[Epoch], float], form: str) -> None:
    """One bar an epoch and run, labelled with its value in place of a y axis."""
    longest = max(len(epochs) for epochs in runs.values())
    small = min(9, 48 / longest)  # points: so that labels of many epochs do not run into each other
    for place, (name, epochs) in enumerate(runs.items()):
        offset = (place - (len(runs) - 1) / 2) * WIDTH
        at = [number + offset for number in range(len(epochs))]
        heights = [value(epoch) for epoch in epochs]
        bars = axes.bar(at, heights, WIDTH * 0.94, label=name, color=COLOURS[name])
        axes.bar_label(
            bars, [form.format(height) for height in heights], fontsize=small, color=INK, padding=2
        )
    ticks = [f"epoch {number}" if longest <= 6 else str(number) for number in range(1, longest + 1)]
    axes.set_xticks(range(longest), ticks, color=INK)
    axes.tick_params(length=0)
    axes.set_yticks([])
    axes.margins(y=0.12)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
