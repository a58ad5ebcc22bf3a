"""What ``ioaccel doctor`` looks at: one file a subject, each a generator of findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ioaccel.cli.checks.directory import check_directory
from ioaccel.cli.checks.engine import check_engine
from ioaccel.cli.checks.finding import Finding, Level
from ioaccel.cli.checks.machine import check_machine
from ioaccel.cli.checks.packages import check_packages
from ioaccel.cli.checks.system import check_system

__all__ = ["Finding", "Level", "check_all"]


def check_all(directories: Sequence[str]) -> Iterator[Finding]:
    """Everything, each finding as soon as it is known."""
    yield from check_system()
    yield from check_machine()
    yield from check_packages()
    yield from check_engine()
    for directory in directories:
        yield from (replace(found, directory=directory) for found in check_directory(directory))
