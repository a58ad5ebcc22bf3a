"""What the benchmark concludes from its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import scale
from bench.contestants import CONTESTANTS
from bench.tables import comparison, overview


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
        "* epoch 1: `ioaccel` is 0.25 times the best of 4 peers, `litdata`: it loses; what is fetched"
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
    over = "*0.5 `msc-fifo` (beyond its limit) (ioaccel is beyond its limit)*"
    assert overview({"one": ahead, "two": behind, "three": both})[2:] == [
        "| one | 5 `boto3` | 250 `boto3` |",
        "| two | *0.5 `webdataset`, which converts* |  |",
        f"| three | {over} | {over} |",
    ]


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
