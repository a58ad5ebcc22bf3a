"""Tables in the cache directory: found by content, mapped, and in memory where the disk fails."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from ioaccel.errors import ObjectChangedError
from ioaccel.formats.tables import Table, Tables

SCHEMA = pa.schema([("n", pa.int64())])


def batches(*numbers: int) -> list[pa.RecordBatch]:
    return [pa.record_batch([pa.array([n])], schema=SCHEMA) for n in numbers]


def numbers(table: Table | None) -> list[int]:
    assert table is not None
    found: list[int] = table.read()["n"].to_pylist()
    assert [table.batch(i)["n"][0].as_py() for i in range(len(found))] == found
    return found


def test_kept_and_found(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path), "tar-x")
    assert tables.find("a") is None
    assert tables.latest() is None
    assert numbers(tables.keep("a", SCHEMA, batches(1, 2))) == [1, 2]
    assert numbers(tables.find("a")) == [1, 2]
    assert numbers(tables.latest()) == [1, 2]
    assert tables.find("b") is None
    assert Tables(str(tmp_path), "tar-y").latest() is None
    assert [p.name for p in (tmp_path / "indexes").iterdir()] == ["tar-x-a.arrow"]


def test_a_pickle_is_a_path(tmp_path: Path) -> None:
    table = Tables(str(tmp_path), "x").keep("a", SCHEMA, batches(*range(1000)))
    packed = pickle.dumps(table)
    assert len(packed) < 1000
    assert numbers(pickle.loads(packed)) == list(range(1000))
    before = table.read()
    (tmp_path / "indexes" / "x-a.arrow").unlink()
    assert before == table.read()  # it is mapped
    with pytest.raises(ObjectChangedError, match="make the data set anew"):
        pickle.loads(packed).read()


def test_in_memory_if_the_disk_fails(tmp_path: Path) -> None:
    (tmp_path / "indexes").touch()
    table = Tables(str(tmp_path), "x").keep("a", SCHEMA, batches(1, 2))
    assert numbers(pickle.loads(pickle.dumps(table))) == [1, 2]


def test_old_ones_are_removed_when_a_new_one_is_written(tmp_path: Path) -> None:
    tables = Tables(str(tmp_path), "x")
    for content in ("old", "used"):
        tables.keep(content, SCHEMA, batches(1))
        os.utime(tmp_path / "indexes" / f"x-{content}.arrow", (0, 0))
    Tables(str(tmp_path), "y").keep("other", SCHEMA, batches(1))
    assert tables.find("used") is not None
    tables.keep("new", SCHEMA, batches(2))
    assert sorted(p.name for p in (tmp_path / "indexes").iterdir()) == [
        "x-new.arrow",
        "x-used.arrow",
        "y-other.arrow",
    ]


@pytest.mark.parametrize("damage", [b"", b"ARROW1", bytes(500)], ids=["empty", "short", "zeros"])
def test_a_damaged_file_is_not_used(tmp_path: Path, damage: bytes) -> None:
    tables = Tables(str(tmp_path), "x")
    tables.keep("a", SCHEMA, batches(1))
    (tmp_path / "indexes" / "x-a.arrow").write_bytes(damage)
    assert tables.find("a") is None
    assert tables.latest() is None
    assert numbers(tables.keep("a", SCHEMA, batches(2))) == [2]
