"""What the demo says: a progress bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

    from ioaccel.demo.train import Epoch

REFRESH_S = 0.1
"""Seconds between redraws of a bar."""


class Task:
    """One thing that takes a while.

    The bar is redrawn by ``advance`` and not by a thread of rich's: a thread that prints while the
    DataLoader forks its workers could leave them a lock that nobody will ever release.
    """

    def __init__(self, progress: Progress, text: str, total: float | None) -> None:
        self._progress = progress
        self._id = progress.add_task(text, total=total)
        self._drawn = 0.0

    def advance(self, count: float) -> None:
        """Say that ``count`` more are done."""
        self._progress.advance(self._id, count)
        if perf_counter() - self._drawn >= REFRESH_S:
            self._progress.refresh()
            self._drawn = perf_counter()


class Report:
    """Prints to a console of rich's."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def line(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def task(self, text: str, total: float | None = None) -> Iterator[Task]:
        """Show a bar while the block runs; then leave a line that says how long it took."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        start = perf_counter()
        with Progress(
            *(columns if total else columns[:2]),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._console.is_terminal,
        ) as progress:
            task = Task(progress, text, total)
            progress.refresh()
            yield task
        self.line(f"{text}: {perf_counter() - start:.1f} s")

    def table(self, runs: Mapping[str, Sequence[Epoch]]) -> None:
        """Print the figures of all runs, an epoch a line."""
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("")
        for heading in ("epoch", "samples/s", "first batch", "waiting", "from store", "loss"):
            table.add_column(heading, justify="right")
        for name, epochs in runs.items():
            for number, epoch in enumerate(epochs, 1):
                table.add_row(
                    name if number == 1 else "",
                    str(number),
                    f"{epoch.samples_per_s:,.0f}",
                    f"{epoch.first_batch_s:.2f} s",
                    f"{epoch.wait_share:.0%}",
                    f"{epoch.store_bytes / 1e6:,.1f} MB",
                    f"{epoch.loss:.6f}",
                    end_section=number == len(epochs),
                )
        self._console.print(table)
