"""``ioaccel doctor``: what this machine offers and lacks, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ioaccel.cli.errors import FOUND_SOMETHING
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json

if TYPE_CHECKING:
    from rich.console import Console

    from ioaccel.cli.checks import Finding


def doctor(cache_dir: Directories = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check what this machine offers and lacks, and say what to do.

    Writes up to 256 MiB to the disk of each cache directory, for 3 seconds at most, and removes it.
    Exit code 1 if there is a problem, which keeps ioaccel from working; a note tells what could be better.
    """
    import ioaccel
    from ioaccel.cli.checks import Level, check_all
    from ioaccel.cli.output import console, print_json

    directories = CacheArguments(cache_dir, config=config).load().directories
    findings: list[Finding] = []
    screen = console()
    for found in check_all(directories):
        if not as_json:
            _print(screen, found, heading=not findings or findings[-1].directory != found.directory)
        findings.append(found)
    problems = sum(f.level is Level.PROBLEM for f in findings)
    notes = sum(f.level is Level.NOTE for f in findings)
    if as_json:
        print_json(
            {"ok": not problems, "version": ioaccel.__version__, "findings": [_as_dict(f) for f in findings]}
        )
    else:
        print(_conclusion(problems, notes))
    if problems:
        raise typer.Exit(FOUND_SOMETHING)


def _conclusion(problems: int, notes: int) -> str:
    from ioaccel.cli.output import number

    if problems:
        return f"\n{number(problems, 'problems')} to solve before ioaccel works here"
    return f"\nioaccel works here; {number(notes, 'notes')}"


def _print(screen: Console, found: Finding, *, heading: bool) -> None:
    from rich.text import Text

    from ioaccel.cli.checks import Level

    if heading and found.directory:
        screen.print(f"\n{found.directory}")
    colour = {Level.OK: "green", Level.NOTE: "yellow", Level.PROBLEM: "bold red"}[found.level]
    advice = f"; {found.advice}" if found.advice else ""
    screen.print(Text(f"{found.level.value:8}", colour), f"{found.topic:14} {found.text}{advice}")


def _as_dict(found: Finding) -> dict[str, object]:
    return {
        "level": found.level.value.lower(),
        "topic": found.topic,
        "directory": found.directory or None,
        "text": found.text,
        "advice": found.advice or None,
        "facts": found.facts,
    }
