"""Records as tables of Markdown, and who is ahead of whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.contestants import CONTESTANTS
from bench.records import BEYOND, Record, beyond

# Share of the bytes; below, an epoch needs nothing from the store but to ask what is current.
_FETCHING = 0.01
OVERVIEW = (
    "workload",
    "epoch 1, times the best peer",
    "last epoch, times the best peer",
    "in no ratio",
    "noise",
    "measured",
)
CEILING = "local"  # no peer: what a plain loader can reach
# A client in each worker of a plain loader: what people have before they look for something better.
ONE_AT_A_TIME = {name for name, entry in CONTESTANTS.items() if entry.slow and not entry.cached}


def table(records: Sequence[Record]) -> list[str]:
    """A row a contestant, the fastest last epoch first."""
    rows = [row for row in _rows(records).values() if not row[0]["failed"]]
    rows.sort(key=lambda row: -row[-1]["samples_per_s"])
    epochs = sorted({record["epoch"] for row in rows for record in row})
    ratios = len({row[0]["cache_ratio"] for row in rows} - {None}) > 1
    counted = any("accelerators_kept" in record for record in records)
    head = ["contestant", "version", *(["cache"] if ratios else [])]
    head += [f"samples/s, epoch {epoch}" for epoch in epochs]
    head += ["MB/s, last", *(["accelerators kept"] if counted else [])]
    head += ["first batch s", "p99 wait ms", "CPU s/GB", "peak MB", "requests a sample", "bytes from store"]
    head += ["written MB", "cache MB", "setup s", "conversion s", "n", "note"]
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row, epochs, ratios, counted)) for row in rows]
    return lines


def _cells(row: list[Record], epochs: Sequence[int], ratios: bool, counted: bool) -> list[str]:
    first, last = row[0], row[-1]
    by_epoch = {record["epoch"]: record for record in row}
    size = _bytes(first)
    cells = [first["contestant"], first["version"]]
    cells += [f"{first['cache_ratio']:.0%}" if first["cache_ratio"] else ""] if ratios else []
    cells += [_rate(by_epoch[epoch]) if epoch in by_epoch else "" for epoch in epochs]
    cells += [f"{last['mb_per_s']:,.0f}"]
    cells += [_accelerators(last)] if counted else []
    cells += [_each(row, lambda record: f"{record['first_batch_s']:.2f}")]
    cells += [_each(row, lambda record: f"{record['p99_wait_s'] * 1e3:.0f}")]
    cells += [_each(row, lambda record: f"{record['cpu_s_per_gb']:.1f}")]
    cells += [f"{max(record['peak_pss_mb'] for record in row):,.0f}"]
    cells += [_each(row, lambda record: f"{record['store_requests'] / record['samples']:.2g}")]
    cells += [_each(row, lambda record: f"{record['store_bytes'] / size:.0%}")]
    cells += [f"{sum(record['disk_written_bytes'] for record in row) / 1e6:,.0f}"]
    limit = f" of {last['cache_size'] / 1e6:,.0f}" if ratios and last["cached"] else ""
    limit += f", {BEYOND}" if limit and any(map(beyond, row)) else ""
    cells += [f"{last['cache_bytes'] / 1e6:,.0f}{limit}"]
    cells += [f"{first['setup_s']:.1f}", f"{first['conversion_s']:.1f}" if first["converts"] else ""]
    return [*cells, f"{first['samples']:,.0f}", first["reason"]]


def _bytes(record: Record) -> float:
    """What the samples of an epoch come to."""
    size: float = record["mb_per_s"] / record["samples_per_s"] * record["samples"] * 1e6
    return size


def _rate(record: Record) -> str:
    low, high = record["spread"]["samples_per_s"]
    spread = f" ({_short(low)}..{_short(high)})" if record["repeats"] > 1 else ""
    return f"{_short(record['samples_per_s'])}{spread}"


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _accelerators(record: Record) -> str:
    if "accelerators_kept" not in record:
        return ""
    kept = record["accelerators_kept"]
    return f"{kept:.0f} at {record['utilisation']:.0%}" if kept else f"0 (one: {record['utilisation']:.0%})"


def _each(row: Sequence[Record], form: object) -> str:
    """The first epoch's figure and the last one's."""
    assert callable(form)
    return " / ".join(form(record) for record in (row if len(row) < 3 else [row[0], row[-1]]))


def comparison(records: Sequence[Record]) -> list[str]:
    """The best of ioaccel's rows against the best of the others, cache by cache and epoch by epoch."""
    ratios = sorted({record["cache_ratio"] for record in records if record["cache_ratio"] is not None})
    if len(ratios) < 2:
        return _compared(records, "")
    lines = []
    for ratio in ratios:
        # What has no cache is beside each of them.
        some = [record for record in records if record["cache_ratio"] in (ratio, None)]
        lines += _compared(some, f"cache of {ratio:.0%}, ")
    return lines


def _compared(records: Sequence[Record], where: str) -> list[str]:
    lines = []
    for epoch in sorted({record["epoch"] for record in records}):
        ours, kinds = rivals(records, epoch)
        said: list[Record] = []
        for what, some in kinds.items() if ours else ():
            if some and not any(_best(some) is one for one in said):
                said.append(_best(some))
                count = len({record["contestant"] for record in some})
                who = f"the best of {count} {what}" if count > 1 else f"the only one of {what}"
                lines.append(_against(where, epoch, who, _best(ours), _best(some)))
    return lines


def partial(records: Sequence[Record]) -> list[str]:
    """Who keeps a cache and read only a part of the samples: no rate of theirs is like those of the others.

    A cold one fetches whole pieces of files for a few samples, a warm one is done in a moment. Without a
    cache the rate is the same, however much is read.
    """
    most = max(record["samples"] for record in records)
    some = [record for record in records if record["cached"] and record["samples"] < most]
    return list(dict.fromkeys(record["contestant"] for record in some))


def apart(records: Sequence[Record]) -> list[str]:
    """For under the table: who is in no ratio, and why."""
    ran = [record for record in records if not record["failed"]]
    names = partial(ran) if ran else []
    if not names:
        return []
    most = max(record["samples"] for record in ran)
    part = max(record["samples"] for record in ran if record["contestant"] in names)
    who = ", ".join(f"`{name}`" for name in names)
    return [
        f"In no ratio: {who}; with a cache, and read a part only, {part:,.0f} of {most:,.0f} samples.",
        "",
    ]


def rivals(records: Sequence[Record], epoch: int) -> tuple[list[Record], dict[str, list[Record]]]:
    """Ioaccel's records of an epoch, and those of all peers, and of narrower kinds of them."""
    nobody = {CEILING, *partial(records)}
    # Without a cache every epoch is like the first.
    some = [record for record in records if record["epoch"] == epoch or not record["cached"]]
    peers = [record for record in some if not record["ours"] and record["contestant"] not in nobody]
    plain = [record for record in peers if not record["converts"]]
    return [record for record in some if record["ours"]], {
        "peers": peers,
        "peers that convert nothing": plain,
        "caches that convert nothing": [record for record in plain if record["cached"]],
        "caches within their limit": [r for r in peers if r["cached"] and not beyond(r)],
        "clients with one request at a time a worker": [
            record for record in plain if record["contestant"] in ONE_AT_A_TIME
        ],
    }


def times(ours: Record, peer: Record) -> str:
    """How many times as fast ours is."""
    ratio = ours["samples_per_s"] / peer["samples_per_s"]
    if ratio >= 100:
        return f"{ratio:,.0f}"
    digits = 3 if f"{ratio:.2g}" == "1" else 2  # which side of it
    return f"{ratio:.{digits}g}"


def _against(where: str, epoch: int, what: str, ours: Record, peer: Record) -> str:
    line = f"* {where}epoch {epoch}: {_name(ours)} is {times(ours, peer)} times {what}, {_name(peer)}"
    if ours["samples_per_s"] >= peer["samples_per_s"]:
        return line
    entry = CONTESTANTS[ours["contestant"]]
    if ours["store_bytes"] > _FETCHING * _bytes(ours):
        return f"{line}: it loses; {entry.why}"
    # Of the slower one's repeats, the best was faster than the worst of the faster one's.
    even = ours["spread"]["samples_per_s"][1] > peer["spread"]["samples_per_s"][0]
    return f"{line}: it loses; {'their repeats overlap' if even else entry.why_cached}"


def _name(record: Record) -> str:
    return f"`{record['contestant']}`{f' ({BEYOND})' if record['cached'] and beyond(record) else ''}"


def overview(groups: dict[str, list[Record]], where: bool = False) -> list[str]:
    """A row a workload: the best of ioaccel's rows in the first and the last epoch, of the best peer's."""
    lines = [_line([*OVERVIEW]), _line(["---"] * len(OVERVIEW))]
    for name, records in groups.items():
        ratios = sorted({record["cache_ratio"] for record in records if record["cache_ratio"] is not None})
        for ratio in ratios if len(ratios) > 1 else [None]:
            some = [r for r in records if ratio is None or r["cache_ratio"] in (ratio, None)]
            cells = [name if ratio is None else f"{name}, {ratio:.0%}"]
            for epoch in (1, max(record["epoch"] for record in some)):
                ours, kinds = rivals(some, epoch)
                peers = kinds["peers"]
                cells.append(_cell(_best(ours), peers) if ours and peers else "")
            cells.append(", ".join(f"`{name}`" for name in partial(some)))
            cells.append(f"**noisy: {varied(some)}**" if noisy(some) else varied(some))
            lines.append(_line([*cells, measured(some, where)]))
    return lines


def _cell(ours: Record, peers: Sequence[Record]) -> str:
    peer = _best(peers)
    text = f"{times(ours, peer)}, {_name(ours)} over {_name(peer)}"
    text += f"{', which converts' if peer['converts'] else ''}; {_of(peers)}"
    return text if ours["samples_per_s"] >= peer["samples_per_s"] else f"*{text}*"


def _of(peers: Sequence[Record]) -> str:
    """How many they are, and how many of them keep what they have fetched."""
    count = len({record["contestant"] for record in peers})
    caches = len({record["contestant"] for record in peers if record["cached"]})
    if count == 1:
        return f"the only peer, {'with a' if caches else 'no'} cache"
    return f"best of {count}, {caches or 'none'} with a cache"


def varied(records: Sequence[Record]) -> str:
    """By how much equal work varied meanwhile."""
    known = [record["noise"] for record in records if "noise" in record]
    return f"{max(known):.0%}" if known else "?"


def noisy(records: Sequence[Record]) -> bool:
    """Whether that was too much for figures that can be relied upon."""
    return any(record.get("noisy") for record in records)


def measured(records: Sequence[Record], where: bool = False) -> str:
    """When, and at which commit: all of them, if there are several. ``where``: also on which machine."""
    names = commits(records)
    at = f"{dates(records)}, commit{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return f"{at}, on {'; '.join(machines(records))}" if where else at


def dates(records: Sequence[Record]) -> str:
    """When these figures were measured: the first and the last date."""
    found = sorted({record.get("date", "?") for record in _measurements(records)})
    return " to ".join(dict.fromkeys((found[0], found[-1])))


def commits(records: Sequence[Record]) -> list[str]:
    """The commits at which these figures were measured."""
    return list(dict.fromkeys(record.get("commit", "?") for record in _measurements(records)))


def machines(records: Sequence[Record]) -> list[str]:
    """The machines on which these figures were measured."""
    return list(dict.fromkeys(record.get("machine", "?") for record in _measurements(records)))


def _measurements(records: Sequence[Record]) -> Sequence[Record]:
    """Those with figures: what was skipped has no date, commit or machine."""
    return [record for record in records if not record.get("failed")] or records


def _best(records: Sequence[Record]) -> Record:
    return max(records, key=lambda record: record["samples_per_s"])


def _rows(records: Sequence[Record]) -> dict[tuple[str, float | None], list[Record]]:
    rows: dict[tuple[str, float | None], list[Record]] = {}
    for record in records:
        rows.setdefault((record["contestant"], record["cache_ratio"]), []).append(record)
    return rows


def grouped(records: Iterable[Record], key: str) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return groups


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |"


def short_table(records: Sequence[Record]) -> list[str]:
    rows = sorted(_rows(records).values(), key=lambda row: -row[-1]["samples_per_s"])
    head = ["contestant", "converts", "epoch 1", "last epoch", "samples", "CPU s/GB, first / last", "peak MB"]
    head += ["store bytes, last"]
    lines = [_line(head), _line(["---"] * len(head))]
    for row in rows:
        first, last = row[0], row[-1]
        cells = [
            f"{first['contestant']} {first['version']}",
            f"{first['conversion_s']:.0f} s" if first["converts"] else "",
        ]
        cells += [_short(first["samples_per_s"]), _short(last["samples_per_s"])]
        cells += [f"{first['samples']:,.0f}", _each(row, lambda record: f"{record['cpu_s_per_gb']:.1f}")]
        cells += [
            f"{max(record['peak_pss_mb'] for record in row):,.0f}",
            f"{last['store_bytes'] / 1e6:,.0f} MB",
        ]
        lines.append(_line(cells))
    return [*lines, "", *apart(records), *comparison(records)]
