"""Figures as text, tables and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_NO_WRAP = 10_000
"""Columns of what is no terminal: nothing is wrapped or cut there, so that grep and awk find it whole."""


def console(*, stderr: bool = False) -> Console:
    """rich's console on stdout or stderr; without a terminal there, plain lines of any length."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich's own way out has an exit code that means something else here

    stream = sys.stderr if stderr else sys.stdout
    return Screen(
        stderr=stderr, width=None if stream.isatty() else _NO_WRAP, highlight=False, markup=False, emoji=False
    )


def print_json(data: Any) -> None:
    """Prints one JSON document to stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table to stdout; a heading that ends with ``>`` is that of a column of figures."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(
            heading.removesuffix(">"), justify="right" if heading.endswith(">") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*row)
    _print(table)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Prints ``name   what about it``, a line each, to stdout."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in facts:
        table.add_row(name, text)
    _print(table)


def _print(table: Table) -> None:
    screen = console()
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())  # rich fills every line up


def size(count: float) -> str:
    """Bytes for people, in powers of 1000: ``1.05 GB``."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.0f} PB"


def number(count: int, what: str) -> str:
    """``1,234 objects``, ``1 object``; ``what`` is the plural."""
    return f"{count:,} {what.removesuffix('s') if count == 1 else what}"


def duration(seconds: float) -> str:
    """Seconds for people: ``40 ms``, ``0.4 s``, ``3 min 12 s``, ``2 h 5 min``."""
    if 0 < seconds < 0.0995:
        return f"{seconds * 1e3:.2g} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, small, units in ((86400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if whole >= large:
            first, second = units.split()
            return f"{whole // large} {first} {whole % large // small} {second}"
    return f"{whole} s"


def rate(seconds: float, objects: int, count: int) -> str:
    """``12 s, 90 MB/s, 813 objects/s``; ``count`` in bytes."""
    seconds = max(seconds, 1e-3)
    return f"{duration(seconds)}, {size(count / seconds)}/s, {objects / seconds:,.0f} objects/s"
