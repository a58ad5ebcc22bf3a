"""Tables and pictures of records, for bench/results and, of a full run, for the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import machine, pictures, workload
from bench.arm import ROOT
from bench.records import BEYOND, BEYOND_SHARE, Record, read
from bench.suite import RESULTS
from bench.tables import (
    apart,
    commits,
    comparison,
    dates,
    grouped,
    machines,
    measured,
    noisy,
    overview,
    short_table,
    table,
    varied,
)

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
RUNS = ("full.json", "quick.json")  # what `run` writes where no file is named


def write(files: Sequence[Path], results: Path = RESULTS, readme: Path = ROOT / "README.md") -> Path:
    """Writes the report of these files, or of the latest run, beside the first of them; returns its path.

    The README gets the tables of a full run in ``results``; who names a file gets a report of that name.
    ValueError if there is nothing to report.
    """
    files = files or _latest(results)
    records = _read(files)
    quick = any(record.get("quick") for record in records)
    place = files[0].absolute().parent
    tag = files[0].stem if files[0].name not in RUNS else "quick" if quick else ""
    path = place / f"report{tag and f'-{tag}'}.md"
    parts = [_title(records, quick)]
    where = len(machines(records)) > 1
    for name, some in grouped(records, "workload").items():
        drawn = pictures.draw(some, place / f"{tag and f'{tag}-'}{name}.png")
        parts.append(_section(name, some, drawn, where))
    path.write_text("\n\n".join(parts) + "\n")
    print(f"{path}: {len(records)} records")
    if not tag and place.samefile(results):
        _into(
            readme,
            _summary(records, path.relative_to(readme.parent) if readme.parent in path.parents else path),
        )
        print(f"{readme}: tables")
    return path


def _latest(results: Path) -> list[Path]:
    found = [path for name in RUNS if (path := results / name).exists()]
    if not found:
        raise ValueError(f"there is no run in {results}; make one: python -m bench run --quick")
    return [max(found, key=lambda path: path.stat().st_mtime)]


def _read(files: Iterable[Path]) -> list[Record]:
    once = {file.resolve(): file for file in files}.values()
    records = [record for file in once for record in read(file)]
    if all(record["failed"] for record in records):
        raise ValueError(f"no figures in {', '.join(map(str, once))}: all failed, or were skipped")
    return records


def _title(records: Sequence[Record], quick: bool) -> str:
    lines = ["# ioaccel beside what else people would pick", ""]
    lines.append("Written by `python -m bench report`; never edit it by hand.")
    lines.append(_measured(records))
    if quick:
        lines.append("A quick run: small, once or twice, to see that everything works. No figure to quote.")
    lines += ["", NOTES]
    return "\n".join(lines)


NOTES = f"""\
Medians of the repeats, contestants in turn, each in processes of its own, 2 workers that stay from epoch to
epoch, batches of 64 where nothing else is said. A sample of a timed epoch is its length and its first 4 KiB
as a tensor, for everybody. What is done once (listings, mounts, an engine) is `setup`, conversion
to a format of one's own is apart, and both are outside the epochs. Every contestant's samples were compared
with their CRC32 in an epoch of its own, which is not timed: a wrong byte is a failure. CPU and memory (PSS)
are of all processes, engines and mounts included; requests and bytes are counted at the store. Contestants
with one request at a time a worker read only `n` samples, the same for all of them and chosen at random from
the whole data set, so that an epoch of theirs ends: what an epoch costs once (its first batch, the pause
before it) weighs more in their rates. Those of them with a cache are in no ratio: in a first epoch they fetch
large pieces of files and use little of them, and later ones take a moment. Two figures with a slash are of
the first and the last epoch; one alone is of a contestant without a cache, where each epoch is a first one.
Accelerators kept are at least so many: as many as the last epoch's rate promises are tried, fewer, and
one. Mosaic Streaming imports torchvision, which is a stand-in here without
any function that is measured. `local` is no peer: plain files on the disk, what a plain loader can reach.
`{BEYOND}` is whoever's cache, with all that its files hold, takes more of the disk than it was given, by more
than {BEYOND_SHARE:.0%}."""


def _section(name: str, records: list[Record], picture: Path | None, where: bool = False) -> str:
    lines = [f"## {name}", "", f"{_about(name)}."]
    ran = [record for record in records if not record["failed"]]
    if ran:
        some = ran[0]
        lines.append(f"Store: {some['store']}. Page cache: {some['page_cache']}.")
        repeats = max(record["repeats"] for record in ran)
        lines.append(f"{repeats} repeats, {some['jobs']} job(s), {measured(ran, where)}{_noisy(ran)}.")
    lines += ["", *table(records)]
    lines += ["", *apart(records), *_failures(records), *comparison(ran)]
    if picture:
        lines += ["", f"![{name}]({picture.name})"]
    lines += ["", f"    {records[0].get('command', f'python -m bench run {name}')}"]
    return "\n".join(lines)


def _measured(records: Sequence[Record]) -> str:
    """When, where and at which commit all was measured; where commits differ, each workload names its own."""
    names = commits(records)
    at = f"commit {names[0]}" if len(names) == 1 else f"{len(names)} commits, each workload says its own"
    return f"{dates(records)}, {at}: {'; '.join(machines(records))}."


def _noisy(records: Sequence[Record]) -> str:
    return f"; **noisy: equal work varied by {varied(records)}**" if noisy(records) else ""


def _about(name: str) -> str:
    about = workload.load(name).about if name in workload.names() else name
    return about[:1].upper() + about[1:]


def _failures(records: Sequence[Record]) -> list[str]:
    failed = [record for record in records if record["failed"]]
    lines = [f"* **{record['contestant']}** has no figure: {record['reason']}" for record in failed]
    return ["Who has no figures, and why:", "", *lines, ""] if lines else []


def _summary(records: Sequence[Record], report: Path) -> str:
    """What the README shows: small images in full, of everything else who is ahead."""
    repeats = sorted({record["repeats"] for record in records if not record["failed"]})
    lines = [_measured(records)]
    lines += [f"Medians of {_span(repeats)} repeats; all tables: [{report}]({report})."]
    where = len(machines(records)) > 1
    groups = grouped([record for record in records if not record["failed"]], "workload")
    images = groups.pop("small-images", [])
    if images:
        lines += ["", f"**small-images**: {_about('small-images')} ({images[0]['store']})."]
        lines += [f"Measured {measured(images, where)}{_noisy(images)}.", ""]
        lines += [*short_table(images), "", f"![samples a second]({report.parent / 'small-images'}.png)"]
        lines += ["", f"    {images[0].get('command', '')}"]
    if groups:
        lines += ["", ELSEWHERE, "", *overview(groups, where), ""]
        lines += [f"    {next(iter(groups.values()))[0].get('command', '').rpartition(' ')[0]} WORKLOAD"]
    return "\n".join(lines)


def _span(numbers: Sequence[int]) -> str:
    return "?" if not numbers else "-".join(str(one) for one in dict.fromkeys((numbers[0], numbers[-1])))


ELSEWHERE = f"""\
**Everything else**: the best of ioaccel's rows in that epoch, named first, over the best of the peers, with
how many there are and how many of them keep a cache; where ioaccel loses, in italics. Where none keeps one,
the last epoch is a cache beside none. Caches that read only a part of the samples are `in no ratio`. In a
first epoch the engine also writes what it fetches, on the cores that store and job have, too; after a
restart it asks the store what is current. `obstore-threads` is a bare client with 128 threads and no cache.
`noise` is by how much equal work varied meanwhile; above {machine.NOISY:.0%} the machine was noisy, and the
ratios are rough."""


def _into(readme: Path, text: str) -> None:
    """Puts the text between the markers. ValueError if they are not there."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no lines {BEGIN} and {END}, between which the tables go")
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
