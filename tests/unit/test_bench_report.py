"""What the benchmark concludes from its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import pictures, report, scale
from bench.contestants import CONTESTANTS
from bench.tables import comparison, overview, short_table, table, times


def record(contestant: str, epoch: int, rate: float) -> dict[str, Any]:
    entry = CONTESTANTS[contestant]
    return {
        "contestant": contestant,
        "epoch": epoch,
        "samples_per_s": rate,
        "samples": 100.0,
        "mb_per_s": rate,  # of 1 MB each
        "store_bytes": 100e6 if epoch == 1 else 0.0,
        "spread": {"samples_per_s": [rate, rate]},
        "cache_ratio": None,
        "cache_size": 100.0,
        "cache_bytes": 100.0,
        "ours": entry.ours,
        "cached": entry.cached,
        "converts": entry.converts,
        "reason": entry.why,
    }


def part(contestant: str, epoch: int, rate: float) -> dict[str, Any]:
    """The record of one that reads a few of the samples."""
    return record(contestant, epoch, rate) | {"samples": 20.0}


def complete(*records: dict[str, Any]) -> list[dict[str, Any]]:
    """Records with all that a table shows."""
    more = dict.fromkeys(("first_batch_s", "p99_wait_s", "cpu_s_per_gb", "peak_pss_mb", "setup_s"), 1.0)
    more |= dict.fromkeys(("store_requests", "disk_written_bytes", "conversion_s"), 1.0)
    said = {"workload": "one", "store": "a store", "page_cache": "empty", "version": "1", "failed": False}
    return [{**more, **said, "repeats": 1, "jobs": 1, **one} for one in records]


def written(directory: Path, workloads: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """The report and the README of two contestants in each workload, with what it has in common."""
    records = [
        {**one, "workload": name, "machine": "a machine", **common}
        for name, common in workloads.items()
        for one in complete(record("ioaccel", 1, 9.0), record("litdata", 1, 3.0))
    ]
    file, readme = directory / "full.json", directory / "README.md"
    file.write_text(json.dumps(records))
    readme.write_text(f"{report.BEGIN}\n{report.END}\n")
    return report.write([file], directory, readme).read_text(), readme.read_text()


def test_ioaccel_is_compared_with_the_best_of_each_kind() -> None:
    lines = comparison(
        [
            *(record("ioaccel", epoch, 100.0 * epoch) for epoch in (1, 2)),
            *(record("litdata", epoch, 400.0) for epoch in (1, 2)),
            *(record("litdata-raw", epoch, 50.0) for epoch in (1, 2)),
            record("boto3", 1, 10.0),
            record("s3fs", 1, 5.0),
            record("local", 1, 9999.0),
        ]
    )
    slow = "clients with one request at a time a worker, `boto3`"
    assert len(lines) == 6
    assert lines[0].startswith(
        "* epoch 1: `ioaccel` is 0.25 times the best of 4 peers, `litdata`: it loses; a GET for each object"
    )
    assert (
        lines[1] == "* epoch 1: `ioaccel` is 2 times the best of 3 peers that convert nothing, `litdata-raw`"
    )
    assert lines[2] == f"* epoch 1: `ioaccel` is 10 times the best of 2 {slow}"
    assert lines[3].startswith(
        "* epoch 2: `ioaccel` is 0.5 times the best of 4 peers, `litdata`: it loses; nothing is fetched"
    )
    assert lines[5] == f"* epoch 2: `ioaccel` is 20 times the best of 2 {slow}"


def test_a_cache_beyond_its_limit_is_marked_and_not_the_only_rival() -> None:
    ours, most, kept = (
        record(name, 1, rate) for name, rate in (("ioaccel", 9), ("msc-fifo", 50), ("juicefs", 3))
    )
    most["cache_bytes"] = 300.0
    ours["store_bytes"] = 0.0
    ours["spread"]["samples_per_s"] = [8, 60]
    lines = comparison([ours, most, kept])
    assert lines[0] == (
        "* epoch 1: `ioaccel` is 0.18 times the best of 2 peers, `msc-fifo` (beyond its limit): it loses; "
        "their repeats overlap"
    )
    assert lines[-1] == "* epoch 1: `ioaccel` is 3 times the only one of caches within their limit, `juicefs`"


def test_an_overview_says_who_is_ahead_of_whom() -> None:
    ahead = [record("ioaccel", 1, 10.0), record("ioaccel", 2, 500.0), record("boto3", 1, 2.0)]
    behind = [record("ioaccel", 1, 10.0), record("webdataset", 1, 20.0), record("webdataset", 2, 30.0)]
    both = [record("ioaccel", 1, 10.0), record("msc-fifo", 1, 20.0)]
    for one in both:
        one["cache_bytes"] = 200.0
    over = "`ioaccel` (beyond its limit) over `msc-fifo` (beyond its limit); the only peer, with a cache"
    boto3 = "`ioaccel` over `boto3`; the only peer, no cache"
    lines = [
        line.rpartition(" |  | ? | ")[0] for line in overview({"one": ahead, "two": behind, "three": both})
    ]
    assert lines[2:] == [
        f"| one | 5, {boto3} | 250, {boto3}",
        "| two | *0.5, `ioaccel` over `webdataset`, which converts; the only peer, with a cache* | ",
        f"| three | *0.5, {over}* | *0.5, {over}*",
    ]


def test_an_overview_names_the_row_of_ours_and_counts_peers_and_caches() -> None:
    first = (("ioaccel", 20), ("ioaccel-loader", 9), ("litdata", 10), ("streaming", 4), ("boto3", 1))
    last = (("ioaccel", 50), ("ioaccel-loader", 90), ("litdata", 30), ("streaming", 4))
    some = [record(name, 1, rate) for name, rate in first] + [record(name, 2, rate) for name, rate in last]
    (line,) = overview({"one": some})[2:]
    count = "`litdata`, which converts; best of 3, 2 with a cache"
    assert line.startswith(f"| one | 2, `ioaccel` over {count} | 3, `ioaccel-loader` over {count} | ")
    bare = [record("ioaccel", 1, 9.0), record("boto3", 1, 3.0), record("s3fs", 1, 1.0)]
    assert "3, `ioaccel` over `boto3`; best of 2, none with a cache" in overview({"one": bare})[2]


def test_a_cache_of_which_a_part_was_read_is_in_no_ratio() -> None:
    """In either epoch; what has no cache is, and all have their rows."""
    some = complete(
        *(record("ioaccel", epoch, 100.0 * epoch) for epoch in (1, 2)),
        *(record("litdata", epoch, 50.0) for epoch in (1, 2)),
        *(part("msc-fifo", epoch, 40.0 * epoch**3) for epoch in (1, 2)),
        *(part("juicefs", epoch, 40.0 * epoch**3) for epoch in (1, 2)),
        part("boto3", 1, 10.0),
    )
    said = comparison(some)
    assert said[0] == "* epoch 1: `ioaccel` is 2 times the best of 2 peers, `litdata`"
    assert "* epoch 2: `ioaccel` is 4 times the best of 2 peers, `litdata`" in said
    assert any("`boto3`" in line for line in said)
    (row,) = overview({"one": some})[2:]
    ratios, apart, _ = row.partition(" | `msc-fifo`, `juicefs` | ")
    assert apart, "the overview names them"
    assert not any(name in line for line in (*said, ratios) for name in ("msc-fifo", "juicefs"))
    reason = "In no ratio: `msc-fifo`, `juicefs`; with a cache, and read a part only, 20 of 100 samples."
    for lines in (short_table(some), report._section("one", some, None).splitlines()):
        assert lines.count(reason) == 1
        assert sum(line.startswith(("| msc-fifo ", "| juicefs ")) for line in lines) == 2
        assert lines.index(reason) < lines.index(said[0])
    assert sum("one request at a time" in line for line in table(some)) == 3


def test_nothing_is_said_of_parts_where_all_read_all() -> None:
    some = complete(record("ioaccel", 1, 9.0), record("msc-fifo", 1, 3.0), part("boto3", 1, 1.0))
    assert comparison(some)[0] == "* epoch 1: `ioaccel` is 3 times the best of 2 peers, `msc-fifo`"
    assert "In no ratio" not in "\n".join(short_table(some))


def test_cpu_is_that_of_the_first_and_of_the_last_epoch() -> None:
    some = complete(*(record("ioaccel", epoch, 9.0) for epoch in (1, 2, 3)), record("boto3", 1, 1.0))
    for one, cpu in zip(some, (4.0, 0.9, 0.5, 30.0), strict=True):
        one["cpu_s_per_gb"] = cpu
    lines = short_table(some)
    place = lines[0].split(" | ").index("CPU s/GB, first / last")
    assert [line.split(" | ")[place] for line in lines[2:4]] == ["4.0 / 0.5", "30.0"]


def test_who_was_measured_when_at_which_commit_and_on_how_noisy_a_machine(tmp_path: Path) -> None:
    of = {
        "small-images": {"commit": "aaa", "date": "2026-11-30", "noise": 0.9, "noisy": True},
        "quiet": {"commit": "bbb", "date": "2026-11-23", "noise": 0.03, "noisy": False},
        "loud": {"commit": "ccc", "date": "2026-11-24", "noise": 0.5, "noisy": True},
    }
    text, told = written(tmp_path, of)
    for shown in (text.split("##")[0], told):
        assert "2026-11-23 to 2026-11-30, 3 commits, each workload says its own: a machine." in shown
    assert "commit aaa" not in text.split("##")[0]
    assert "Measured 2026-11-30, commit aaa; **noisy: equal work varied by 90%**." in told
    rows = {line.split(" | ")[0]: line for line in told.splitlines() if line.startswith("| ")}
    assert rows["| quiet"].endswith(" | 3% | 2026-11-23, commit bbb |")
    assert rows["| loud"].endswith(" | **noisy: 50%** | 2026-11-24, commit ccc |")
    assert "2026-11-23, commit bbb.\n" in text
    assert "2026-11-24, commit ccc; **noisy: equal work varied by 50%**." in text


def test_each_workload_says_its_machine_where_there_are_several(tmp_path: Path) -> None:
    of = {name: {"machine": f"machine of {name}", "commit": "aaa"} for name in ("small-images", "two")}
    text, told = written(tmp_path, of)
    for shown in (text.split("##")[0], told):
        assert "commit aaa: machine of small-images; machine of two." in shown
    for name in of:
        assert f"commit aaa, on machine of {name}.\n" in text
    assert "commit aaa, on machine of small-images." in told
    assert "commit aaa, on machine of two |" in told


def test_reports_of_several_files_do_not_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(pictures, "draw", lambda records, path: drawn.append(path.name))
    readme, empty = tmp_path / "README.md", f"{report.BEGIN}\n{report.END}\n"

    def made(name: str, quick: bool) -> tuple[str, str, bool]:
        some = [{**one, "quick": quick} for one in complete(record("ioaccel", 1, 9.0))]
        (tmp_path / name).write_text(json.dumps(some))
        readme.write_text(empty)
        path = report.write([tmp_path / name], tmp_path, readme)
        return path.name, drawn.pop(), readme.read_text() != empty

    assert made("full.json", False) == ("report.md", "one.png", True)
    assert made("quick.json", True) == ("report-quick.md", "quick-one.png", False)
    for quick in (False, True):
        assert made("mine.json", quick) == ("report-mine.md", "mine-one.png", False)


def test_a_file_that_is_named_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(complete(record("ioaccel", 1, 9.0))))
    report.write([file, tmp_path / ".." / tmp_path.name / "mine.json"], tmp_path.parent)
    assert ": 1 records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", r"mine\.json is broken: "),
        ("\udcff", r"mine\.json is broken: "),
        ('[{"workload": "one"}]', r"mine\.json holds no records"),
        ("[]", r"no figures in .*mine\.json"),
        (
            '[{"workload": "one", "contestant": "local", "failed": true}]',
            r"no figures in .*mine\.json: all failed",
        ),
    ],
)
def test_a_file_without_figures_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        report.write([file], tmp_path)


def test_a_commit_that_all_share_is_named_once_for_all(tmp_path: Path) -> None:
    of = {name: {"commit": "aaa", "date": f"2026-11-2{day}"} for day, name in enumerate(("one", "two"))}
    for shown in written(tmp_path, of):
        assert "2026-11-20 to 2026-11-21, commit aaa: a machine." in shown


def test_records_of_one_workload_from_two_commits_name_both(tmp_path: Path) -> None:
    some = complete(record("ioaccel", 1, 9.0), record("litdata", 1, 3.0))
    for one, commit in zip(some, ("aaa", "bbb"), strict=True):
        one |= {"commit": commit, "date": "2026-11-30"}
    assert "2026-11-30, commits aaa, bbb." in report._section("one", some, None)
    assert overview({"one": some})[2].endswith("2026-11-30, commits aaa, bbb |")


def test_a_node_is_extrapolated_to_a_thousand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found = scale.extrapolate(fetches_per_s=2500, fetch_cpu_s=0.6e-3, sample_s=150e-6)
    assert {(found[order][-1].nodes, found[order][-1].accelerators) for order in found} == {(1000, 8000)}
    last = {order: {one.nodes: one.last for one in each} for order, each in found.items()}
    assert last["sharded"][1000] > 0.9
    assert last["shuffled"][1000] < 0.2, "nodes do not share their caches"
    paths = scale.show(found, tmp_path)
    assert [path.stat().st_size > 10_000 for path in paths] == [True, True]
    assert "1,000         8,000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ours", "told"), [(99.6, "0.996"), (100.4, "1"), (104.0, "1.04"), (85.1, "0.85"), (25_049.0, "250")]
)
def test_a_ratio_says_which_side_of_one_it_is(ours: float, told: str) -> None:
    assert times(record("ioaccel", 1, ours), record("litdata", 1, 100.0)) == told
