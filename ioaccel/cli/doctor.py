"""``ioaccel doctor``: what this machine offers and lacks, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ioaccel.cli.errors import FOUND_SOMETHING
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, Sizes, StoreOptions

if TYPE_CHECKING:
    from rich.console import Console

    from ioaccel.cli.checks import Finding


DataSet = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="MODULE:NAME",
        help="Look at a torch data set, or what makes one, instead of the machine: read three of its "
        "samples, and tell which of their reads ioaccel.torch.accelerate() serves.",
    ),
]
Paths = Annotated[
    list[str] | None,
    typer.Option("--path", metavar="DIR", help="With --dataset: as paths= of accelerate(). Repeat it."),
]


def doctor(
    cache_dir: Directories = None,
    cache_size: Sizes = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    dataset: DataSet = None,
    path: Paths = None,
    as_json: Json = False,
) -> None:
    """Check what this machine offers and lacks, and say what to do.

    Writes up to 256 MiB to the disk of each cache directory, for 3 seconds at most, and removes it.
    Exit code 1 if there is a problem, which keeps ioaccel from working; a note tells what could be better.
    """
    import ioaccel
    from ioaccel.cli.checks import Level, check_all
    from ioaccel.cli.checks.dataset import check_dataset
    from ioaccel.cli.output import console, print_json

    arguments = CacheArguments(cache_dir, cache_size, option, config)
    findings: list[Finding] = []
    screen = console()
    if dataset is not None:
        looked_at = check_dataset(dataset, path or (), arguments)
    else:
        looked_at = check_all(arguments.load().directories)
    for found in looked_at:
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
        print(_conclusion(problems, notes, "with this data set" if dataset else "here"))
    if problems:
        raise typer.Exit(FOUND_SOMETHING)


def _conclusion(problems: int, notes: int, where: str) -> str:
    from ioaccel.cli.output import number

    if problems:
        return f"\n{number(problems, 'problems')} to solve before ioaccel works {where}"
    return f"\nioaccel works {where}; {number(notes, 'notes')}"


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
