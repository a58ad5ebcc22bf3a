"""Index -> extents: what data sets tell, what was seen, and what is done when the two disagree."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import torch_data as td
from support import wait_for
from torch.utils.data import ConcatDataset, Subset

from ioaccel.intercept.reads import Read
from ioaccel.plan import reads as plan_reads
from ioaccel.plan.ahead import Ahead
from ioaccel.plan.reads import Reads, fingerprint
from ioaccel.plan.told import names_of
from ioaccel.plan.trace import Trace

STORE = "ab" * 16


def whole(url: str) -> Read:
    return Read(STORE, url, 0, None)


class Told(td.Numbers):
    def __init__(self, **told: Any) -> None:
        super().__init__(3)
        vars(self).update(told)


# ---- told ---------------------------------------------------------------------------------------

ALONE = [("a",), ("b",), ("c",)]
FORMS: list[tuple[str, Any, list[Any]]] = [
    ("samples", [("a", 0), ("b", 1), ("c", 0)], [("a", 0), ("b", 1), ("c", 0)]),
    ("imgs", [(0, "a"), (1, "b"), (2, "c")], [(0, "a"), (1, "b"), (2, "c")]),
    ("imgs", [("a", 0.5), ("b", None), ("c", {})], [("a", None), ("b", None), ("c", None)]),
    ("files", ["a", "b", "c"], ALONE),
    ("paths", [Path("a"), Path("b"), Path("c")], ALONE),
    ("urls", ("a", "b", "c"), ALONE),
    ("keys", np.array(["a", "b", "c"]), ALONE),
    ("samples", [["a", np.int64(7), np.uint8(1)]] * 3, [("a", 7, 1)] * 3),
]


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_names(number: int) -> None:
    attribute, value, parts = FORMS[number]
    told = names_of(Told(**{attribute: value}))
    assert told is not None
    names, where = told
    assert where == attribute
    assert [names(i) for i in range(3)] == parts


NOT_NAMES: list[Any] = [None, "abc", b"abc", ["a", "b"], [1, 2, 3], {"a": 1, "b": 2, "c": 3}, iter("abc"), []]


@pytest.mark.parametrize("number", range(len(NOT_NAMES)))
def test_no_names(number: int) -> None:
    assert names_of(Told(files=NOT_NAMES[number])) is None


def test_names_of_parts() -> None:
    first, second = Told(files=["a", "b", "c"]), Told(files=["d", "e", "f"])
    parts: Any = Subset(ConcatDataset([Subset(first, [2, 0]), td.Numbers(2), second]), [0, 1, 2, 4, 6])
    told = names_of(parts)
    assert told is not None
    assert [told[0](i) for i in range(5)] == [("c",), ("a",), (), ("d",), ("f",)]


# ---- reads --------------------------------------------------------------------------------------


def reads_of(dataset: Any, tmp_path: Path, given: Any = None) -> tuple[Reads, Trace]:
    trace = Trace(str(tmp_path), "name")
    return Reads(names_of(dataset), given, trace), trace


@pytest.mark.parametrize(
    ("names", "url"),
    [
        (["s3://b/x/a", "s3://b/x/b", "s3://b/x/c"], "s3://b/x/"),
        (["a", "b", "c"], "s3://b/x/"),
        (["x/a", "x/b", "x/c"], "gs://b/x/"),
        (["/d/a", "/d/b", "/d/c"], "file:///d/"),
        (["./a", "./b", "./c"], f"file://{os.getcwd()}/"),
    ],
)
def test_one_sample_tells_of_all(names: list[str], url: str, tmp_path: Path) -> None:
    reads, _ = reads_of(Told(files=names), tmp_path)
    assert reads.of([0, 1]) == []
    assert reads.learn(1, [whole(url + "b")])
    assert reads.of([2, 0]) == [whole(url + "c"), whole(url + "a")]
    assert not reads.learn(2, [whole(url + "c")])
    assert "in .files: prefetch is exact" in reads.source()


def test_a_data_set_that_reads_more_than_it_tells(tmp_path: Path) -> None:
    reads, trace = reads_of(Told(files=["a", "b", "c"]), tmp_path)
    both = [whole("s3://x/a"), whole("s3://x/labels")]
    assert reads.learn(0, both)
    assert reads.of([1]) == [whole("s3://x/b")]  # a part, until all is known
    reads.learn(1, [whole("s3://x/b")])
    assert not reads.exact
    reads.record([(0, both), (1, [whole("s3://x/b")])])
    reads.keep()
    trace.refresh()
    assert reads.each_of([0, 1, 2]) == [both, [whole("s3://x/b")], [whole("s3://x/c")]]


def part(url: str, offset: int, length: int) -> Read:
    return Read(STORE, url, offset, length)


@pytest.mark.parametrize(
    "samples",
    [
        [("a", 0, 900), ("a", 900, 1000), ("b", 50, 5000)],
        [(900, 0, "a"), (1000, 900, "a"), (5000, 50, "b")],
        [("a", 0, 900, 1), ("a", 900, 1900, 0), ("b", 50, 5050, 0)],  # begin and end, and a label
        [("a", 0, 0, 900), ("a", 0, 900, 1000), ("b", 0, 50, 5000)],  # a label first
    ],
)
def test_parts_of_files_are_told(samples: list[Any], tmp_path: Path) -> None:
    url = "s3://x/data/"
    reads, _ = reads_of(Told(samples=samples), tmp_path)
    assert not reads.learn(0, [part(url + "a", 0, 900)]), "at 0, a length is an end, and a label may be 0"
    assert reads.learn(1, [part(url + "a", 900, 1000)])
    assert reads.of([2, 1, 0]) == [
        part(url + "b", 50, 5000),
        part(url + "a", 900, 1000),
        part(url + "a", 0, 900),
    ]
    assert not reads.learn(2, [part(url + "b", 50, 5000 + 512)]), "with what else was in the buffer"
    assert reads.exact
    # What is small is read whole, a header may come before a part, and another part be in the buffer already.
    for read in (whole(url + "b"), part(url + "b", 0, 5050), part(url + "b", 1000, 5000)):
        reads.learn(2, [read])
        assert reads.of([1]) == [part(url + "a", 900, 1000)]
    reads.learn(2, [part(url + "b", 6000, 5000)])
    assert reads.rules == []


def test_numbers_that_may_mean_two_things(tmp_path: Path) -> None:
    told = [("a", 1000, 2000), ("a", 100_000, 101_000), ("b", 50_000, 51_000)]
    reads, _ = reads_of(Told(samples=told), tmp_path)
    assert not reads.learn(0, [part("s3://x/a", 1000, 32_768)]), "an end, or a length"
    assert reads.learn(1, [part("s3://x/a", 100_000, 32_768)])
    assert reads.of([2]) == [part("s3://x/b", 50_000, 1000)]
    pixels = [("a", 50_000_000, 640, 480, 20_000)] * 3
    reads, _ = reads_of(Told(samples=pixels), tmp_path)
    assert not reads.learn(0, [part("s3://x/a", 50_000_000, 32_768)])
    assert reads.exact is None, "it is recorded"
    assert reads.learn(1, [part("s3://x/a", 50_000_000, 20_000)])


def test_a_part_of_a_file_that_was_to_be_read_whole(tmp_path: Path) -> None:
    reads, _ = reads_of(Told(files=["a", "b", "c"]), tmp_path)
    assert reads.learn(0, [whole("s3://x/a")])
    reads.learn(1, [part("s3://x/b", 0, 100)])
    assert reads.rules == [], "or all of each file would be fetched"


def test_a_sample_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n:03d}" for n in range(300)]
    reads, _ = reads_of(Told(samples=[tuple(names)] * 3), tmp_path)
    each = [whole(f"s3://x/{name}") for name in names]
    reads.learn(0, each)
    compared = []
    monkeypatch.setattr(plan_reads, "_overlap", lambda one, other: compared.append(one) or one == other)
    reads.learn(1, each[::-1])
    assert reads.exact
    assert len(compared) == 300, "not each with each"


def test_parts_that_are_not_told(tmp_path: Path) -> None:
    for read in (part("s3://x/a", 7, 900), part("s3://x/a", 8, 880), part("s3://x/a", 8, 90)):
        reads, _ = reads_of(Told(files=[("a", 8, 900, 100), ("b", 9, 900, 0), ("c", -9, 900, 0)]), tmp_path)
        reads.learn(0, [read])
        assert not reads.rules
        assert not reads.exact
        assert reads.of([1]) == []
    reads, _ = reads_of(Told(files=[("a", 8, 900), ("b", -9, 900), ("c", 9, "d")]), tmp_path)
    reads.learn(0, [part("s3://x/a", 8, 900)])
    assert reads.of([0, 1, 2]) == [part("s3://x/a", 8, 900)], "no part of a file"


def test_a_data_set_that_lies(tmp_path: Path) -> None:
    for second in ("s3://x/c", "s3://x/other"):
        reads, _ = reads_of(Told(files=["a", "b", "c"]), tmp_path)
        reads.learn(0, [whole("s3://x/a")])
        assert reads.exact
        reads.learn(1, [whole(second)])
        assert reads.rules == []
        assert reads.of([0, 1, 2]) == []
        reads.learn(2, [whole("s3://x/c")])
        assert not reads.exact


def test_a_part_of_a_file_is_not_told_by_its_name(tmp_path: Path) -> None:
    """Or each sample of a shard would prefetch all of it."""
    reads, _ = reads_of(Told(samples=[("a", 5), ("a", 6), ("a", 7)]), tmp_path)
    reads.learn(0, [Read(STORE, "s3://x/a", 5, 10)])
    assert reads.of([0, 1]) == []
    assert not reads.exact


def test_what_is_given_is_looked_for_where_it_was_read(tmp_path: Path) -> None:
    reads, _ = reads_of(
        td.Numbers(), tmp_path, lambda indices: [[Read("", f"s3://x/{i}", 0, None)] for i in indices]
    )
    assert reads.of([1])[0].store == ""
    assert reads.learn(1, [whole("s3://x/1")])
    assert not reads.learn(2, [whole("s3://x/2")])
    assert reads.of([5]) == [whole("s3://x/5")]


def test_fingerprints() -> None:
    def of(make: Callable[[], Any]) -> str:
        assert fingerprint(make()) == fingerprint(make())
        return fingerprint(make())

    makers: list[Callable[[], Any]] = [
        lambda: Told(root="a"),
        lambda: Told(root="b"),
        lambda: Told(files=["a", "b"]),
        lambda: Told(files=["a", "c"]),
        lambda: td.Numbers(3),
        lambda: Subset(Told(root="a"), [0, 1]),
        lambda: Subset(Told(root="b"), [0, 1]),
        lambda: Subset(Told(root="b"), [0, 2]),
        lambda: Told(root="a") + Told(root="b"),
        lambda: td.Stream(3),
    ]
    assert len({of(make) for make in makers}) == len(makers)


# ---- traces -------------------------------------------------------------------------------------


def test_a_trace_goes_through_its_file(tmp_path: Path) -> None:
    trace = Trace(str(tmp_path), "name")
    trace.refresh()
    assert not trace.known
    assert trace.each_of([0]) == [[]]
    trace.keep()
    records = [
        (n, [Read(STORE, f"s3://x/{n}/{k}", k, None if k else 5) for k in range(n % 4)]) for n in range(9000)
    ]
    trace.add(reversed(records))
    trace.keep()
    for each in (trace, Trace(str(tmp_path), "name")):
        each.refresh()
        assert each.each_of(range(9000)) == [reads for _, reads in records]
        assert each.each_of([7, 2, 2, 10**6, -1]) == [records[7][1], records[2][1], records[2][1], [], []]
    other = Trace(str(tmp_path), "other")
    other.refresh()
    assert not other.known


def test_the_latest_record_counts(tmp_path: Path) -> None:
    trace = Trace(str(tmp_path), "name")
    trace.add([(1, [whole("a"), whole("b")]), (2, [whole("c")]), (1, [whole("d")]), (-3, [whole("e")])])
    trace.keep()
    assert trace.each_of([1, 2, -3]) == [[whole("d")], [whole("c")], [whole("e")]]
    later = Trace(str(tmp_path), "name")
    later.add([(2, [whole("f"), whole("c")])])
    later.keep()
    trace.refresh()
    assert trace.each_of([1, 2]) == [[whole("d")], [whole("f"), whole("c")]]


@pytest.mark.parametrize("damage", [b"", b"garbage", b"ARROW1\0\0", None])
def test_a_damaged_trace_is_none(tmp_path: Path, damage: bytes | None) -> None:
    import pyarrow as pa

    trace = Trace(str(tmp_path), "name")
    trace._path.parent.mkdir()
    if damage is not None:
        trace._path.write_bytes(damage)
    else:
        table = pa.table({"other": [1]})
        with pa.OSFile(str(trace._path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    trace.refresh()
    assert not trace.known
    trace.add([(1, [whole("a")])])
    trace.keep()
    assert trace.of([1]) == [whole("a")]
    assert len(list(trace._path.parent.iterdir())) == 1


# ---- ahead --------------------------------------------------------------------------------------


class Store:
    """Stands for a reader."""

    disk_seconds = 0.0

    def __init__(self) -> None:
        self.asked: list[str] = []

    def missing(self, extents: Any, *, hint: bool) -> Any:
        return [e for e in extents if e[0] not in self.asked]

    def prefetch(self, extents: Any, plan: tuple[str, int]) -> None:
        self.asked += [e[0] for e in extents]

    def cached_bytes(self, extents: Any) -> int:
        return 100 * len(list(extents))


def test_batches_wait_until_something_is_known_and_no_longer(tmp_path: Path) -> None:
    reads, _ = reads_of(Told(files=["a", "b", "c"]), tmp_path)
    store, told = Store(), []

    def notes() -> bool:
        return bool(told) and reads.learn(0, told.pop())

    ahead = Ahead(reads, {STORE: store}, notes)  # type: ignore[dict-item]
    ahead.submit([0])
    ahead.submit([1])
    ahead.drawn([0])
    wait_for(lambda: [batch for _, batch in ahead._waiting] == [[1]])  # the first is read already
    told.append([whole("s3://x/a")])
    wait_for(lambda: store.asked == ["s3://x/b"])
    ahead.submit([2])
    wait_for(lambda: store.asked == ["s3://x/b", "s3://x/c"])
    ahead.drawn([1])
    wait_for(lambda: ahead.samples() == 4096)
    ahead.reset()
    ahead.submit([0])
    wait_for(lambda: store.asked[2:] == ["s3://x/a"])


def calm_planner(tmp_path: Path) -> tuple[Ahead, Store, list[tuple[float, float]]]:
    """One that has looked at 40 batches, of which nothing was missing; in the list go seconds of waiting."""
    reads, _ = reads_of(td.Numbers(), tmp_path, lambda indices: [[whole(f"s3://x/{i}")] for i in indices])
    store = Store()
    store.asked = [f"s3://x/{i}" for i in range(1000)]
    waits: list[tuple[float, float]] = []

    def notes() -> bool:
        if waits:
            ahead.waited(*waits.pop())
        return False

    ahead = Ahead(reads, {STORE: store}, notes)  # type: ignore[dict-item]
    for number in range(40):
        ahead.submit([number])
    wait_for(lambda: ahead._calm == 40)
    return ahead, store, waits


def test_what_looked_safe_is_planned_when_somebody_had_to_wait(tmp_path: Path) -> None:
    ahead, store, waits = calm_planner(tmp_path)
    ahead.reset()
    for number in range(100, 140):
        ahead.submit([number])
    wait_for(lambda: ahead._calm == 52)  # the first eight were looked at, then one in eight
    for _ in range(15):
        ahead.drawn([0])
    store.asked.clear()  # another job has evicted it all
    waits.append((0.02, 0.0))
    ahead.drawn([0])  # the sixteenth: notes are asked for, and tell it
    wait_for(lambda: ahead._calm == 0)
    ahead.submit([200])
    # All that was skipped and not yet drawn, and then the newest.
    skipped = [n for n in range(16, 40) if (n + 1) % 8]
    wait_for(lambda: store.asked == [f"s3://x/{100 + n}" for n in skipped] + ["s3://x/200"])


def test_what_looked_safe_is_planned_when_nothing_is_missing_but_slow(tmp_path: Path) -> None:
    """The news may come with a batch that is submitted, and be of a disk: then nothing is missing."""
    ahead, _, waits = calm_planner(tmp_path)
    for number in range(41, 48):
        ahead.submit([number])
    assert len(ahead._skipped) == 7
    waits.append((0.0, 1.0))
    time.sleep(0.1)  # notes are asked for when some time has passed
    ahead.submit([48])
    wait_for(lambda: not ahead._skipped)


def test_a_page_that_took_a_moment_is_no_cold_disk(tmp_path: Path) -> None:
    """The kernel moves pages about, and a read of one waits for that: once in thousands of samples."""
    ahead, _, waits = calm_planner(tmp_path)
    for number in range(41, 48):
        ahead.submit([number])
    time.sleep(0.1)
    waits.append((0.0, 0.001))
    ahead.submit([48])
    wait_for(lambda: ahead._calm == 41)
    assert not waits
    assert len(ahead._skipped) == 7


def test_what_readers_of_this_process_wait_for_counts_beside_what_workers_told(tmp_path: Path) -> None:
    """Workers have told much, long ago: what is waited for here is still news."""
    ahead, store, waits = calm_planner(tmp_path)
    with ahead.resting():
        ahead.waited(0.0, 60.0)
        time.sleep(0.1)
        ahead.waited(0.0, 0.0)
    assert not ahead.calm
    for number in range(50, 90):
        ahead.submit([number])
    wait_for(lambda: ahead._calm == 40)
    store.disk_seconds = 1.0
    time.sleep(0.1)
    waits.append((0.0, 0.0))
    ahead.drawn([0])
    wait_for(lambda: ahead._calm == 0)


def test_a_first_batch_of_another_size_does_not_last(tmp_path: Path) -> None:
    reads, _ = reads_of(td.Numbers(), tmp_path, lambda indices: [[whole(f"s3://x/{i}")] for i in indices])
    store = Store()
    sizes = iter([100 << 20] + [1000] * 100)
    store.cached_bytes = lambda extents: next(sizes)  # type: ignore[method-assign]
    ahead = Ahead(reads, {STORE: store}, lambda: False)  # type: ignore[dict-item]
    ahead.drawn([0])
    wait_for(lambda: ahead.samples() == 2)
    for epoch in range(1, 4):  # short ones
        ahead.reset()
        for number in range(5):
            ahead.drawn([number])
        wait_for(lambda: ahead._weighed == 1 + 5 * epoch)  # noqa: B023
    assert ahead.samples() > 100


def test_a_planner_survives_what_its_readers_raise(tmp_path: Path) -> None:
    reads, _ = reads_of(td.Numbers(), tmp_path, lambda indices: [[whole("s3://x/a")] for _ in indices])
    store = Store()
    store.missing = lambda *_, **__: 1 / 0  # type: ignore[method-assign,assignment]
    ahead = Ahead(reads, {STORE: store}, lambda: False)  # type: ignore[dict-item]
    ahead.submit([0])
    ahead.drawn([0])
    wait_for(lambda: ahead._drawn == 1)
    assert ahead._thread is not None
    assert ahead._thread.is_alive()
