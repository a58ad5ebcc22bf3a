"""Reading through fsspec: as fsspec says that ranges, lists and errors are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import DataSet
from support.filesystems import close_file_systems

from ioaccel import StoreTimeoutError
from ioaccel.fs import IOAccelFileSystem
from ioaccel.testing.seaweed import SeaweedS3

MIB = 1 << 20
SIZES = {"a/empty": 0, "a/one": 1, "a/small": 100_000, "a/b/large": 9 * MIB, "a/b/c/deep": 1000}
SLICES = [None, 0, 1, 50_000, 99_999, 100_000, 100_001, 10**9, -1, -50_000, -100_000, -100_001, -(10**9)]


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("fs-read")
    return DataSet.fill(s3, "fs-read", SIZES)


@pytest.fixture(scope="module")
def fs(s3: SeaweedS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[IOAccelFileSystem]:
    yield fsspec.filesystem(
        "ioaccel",
        target_protocol="s3",
        target_options=s3.storage_options,
        cache_dir=tmp_path_factory.mktemp("cache"),
        cache_size="100MB",
    )
    close_file_systems()


@pytest.fixture
def cold(fs: IOAccelFileSystem, data: DataSet) -> IOAccelFileSystem:
    """The file system, with nothing of the data in its cache."""
    fs.cache.evict(f"s3://{data.bucket}/")
    return fs


@pytest.mark.parametrize("end", SLICES)
def test_cat_file_slices_as_python_does(fs: IOAccelFileSystem, data: DataSet, end: int | None) -> None:
    content = data.data("a/small")
    for start in SLICES:
        assert fs.cat_file("fs-read/a/small", start, end) == content[start:end], (start, end)
        assert fs.cat_file("fs-read/a/empty", start, end) == b""


def test_cat_ranges_slice_too_cold_and_warm(cold: IOAccelFileSystem, data: DataSet) -> None:
    content = data.data("a/small")
    starts = [start for start in SLICES for _ in SLICES]
    ends = SLICES * len(SLICES)
    expected = [content[start:end] for start, end in zip(starts, ends, strict=True)]
    for _ in range(2):
        assert cold.cat_ranges(["fs-read/a/small"] * len(ends), starts, ends) == expected
    assert cold.cat_ranges(["fs-read/a/small", "fs-read/a/one"], 0, 10) == [content[:10], data.data("a/one")]


def test_cat_ranges_refuses_what_does_not_fit(fs: IOAccelFileSystem) -> None:
    with pytest.raises(TypeError, match="list"):
        fs.cat_ranges("fs-read/a/one", 0, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="zip"):
        fs.cat_ranges(["fs-read/a/one"], [0, 1], 1)


def test_errors_of_one_among_many(fs: IOAccelFileSystem, data: DataSet) -> None:
    paths = ["fs-read/a/one", "fs-read/no", "fs-read/a/small"]
    one, missing, small = fs.cat_ranges(paths, None, None)
    assert (one, small) == (data.data("a/one"), data.data("a/small"))
    assert isinstance(missing, FileNotFoundError)
    with pytest.raises(FileNotFoundError, match="s3://fs-read/no"):
        fs.cat_ranges(paths, None, None, on_error="raise")
    with pytest.raises(FileNotFoundError, match="s3://fs-read/no"):
        fs.cat(paths)
    assert fs.cat(paths, on_error="omit").keys() == {"fs-read/a/one", "fs-read/a/small"}
    assert isinstance(fs.cat(paths, on_error="return")["fs-read/no"], FileNotFoundError)


def test_a_store_that_fails_is_asked_once(fs: IOAccelFileSystem, data: DataSet, monkeypatch: Any) -> None:
    def fail(_: object) -> None:
        raise StoreTimeoutError("no answer")

    monkeypatch.setattr(fs.cache, "read_many", fail)
    results = fs.cat_ranges(["fs-read/a/one", "fs-read/a/small"], None, None)
    assert [type(result) for result in results] == [StoreTimeoutError] * 2
    with pytest.raises(StoreTimeoutError):
        fs.cat(["fs-read/a/one", "fs-read/a/small"])


def test_cat_takes_names_lists_patterns_and_directories(fs: IOAccelFileSystem, data: DataSet) -> None:
    assert fs.cat("s3://fs-read/a/one") == data.data("a/one")
    assert fs.cat("ioaccel::s3://fs-read/a/small", start=-3) == data.data("a/small")[-3:]
    assert fs.cat(["fs-read/a/one"]) == {"fs-read/a/one": data.data("a/one")}
    assert fs.cat("fs-read/a/s*") == {"fs-read/a/small": data.data("a/small")}
    assert fs.cat("fs-read/a", recursive=True) == {f"fs-read/{key}": data.data(key) for key in SIZES}


def test_many_are_read_with_one_batch(cold: IOAccelFileSystem, data: DataSet, monkeypatch: Any) -> None:
    batches = []
    read_many = cold.cache.read_many
    monkeypatch.setattr(cold.cache, "read_many", lambda extents: batches.append(1) or read_many(extents))
    cold.cat([f"fs-read/{key}" for key in SIZES])
    cold.cat_ranges([f"fs-read/{key}" for key in SIZES], -1, None)
    assert len(batches) == 2


def test_open_gives_the_cache_s_file(fs: IOAccelFileSystem, data: DataSet) -> None:
    options = {"block_size": 1, "cache_options": {"x": 1}, "cache_type": "readahead", "fill_cache": False}
    with fs.open("fs-read/a/b/large", "rb", **options) as file:
        assert file.size == 9 * MIB
        file.seek(-10, io.SEEK_END)
        assert file.read() == data.data("a/b/large")[-10:]
    with fs.open("fs-read/a/one", "r", encoding="latin-1") as text:
        assert text.read() == data.data("a/one").decode("latin-1")
    with pytest.raises(FileNotFoundError, match="s3://fs-read/none"):
        fs.open("fs-read/none")


def test_opening_and_compression(s3: SeaweedS3, fs: IOAccelFileSystem) -> None:
    import gzip

    s3.put("fs-read", "z/text.gz", gzip.compress(b"many words " * 1000))
    with fs.open("fs-read/z/text.gz", compression="infer") as file:
        assert file.read() == b"many words " * 1000
    s3.delete("fs-read", "z/text.gz")


def test_parts_of_files(fs: IOAccelFileSystem, data: DataSet) -> None:
    content = data.data("a/small")
    assert fs.head("fs-read/a/small", 10) == content[:10]
    assert fs.tail("fs-read/a/small", 10) == content[-10:]
    assert fs.read_block("fs-read/a/small", 10, 20) == content[10:30]
    assert fs.read_bytes("fs-read/a/small", 5, 8) == content[5:8]


def test_mapper(fs: IOAccelFileSystem, data: DataSet) -> None:
    mapper = fs.get_mapper("fs-read/a")
    assert mapper["one"] == data.data("a/one")
    assert set(mapper) == {key.removeprefix("a/") for key in SIZES}
    assert mapper.getitems(["one", "no"], on_error="omit") == {"one": data.data("a/one")}
    with pytest.raises(KeyError):
        mapper["no"]


def test_get_file_to_paths_and_files(cold: IOAccelFileSystem, data: DataSet, tmp_path: Path) -> None:
    for key in ("a/b/large", "a/empty"):
        cold.get_file(f"fs-read/{key}", tmp_path / "new" / key)
        assert (tmp_path / "new" / key).read_bytes() == data.data(key)
    buffer = io.BytesIO()
    cold.get_file("fs-read/a/small", buffer)
    cold.get_file("fs-read/a/one", outfile=buffer)
    assert buffer.getvalue() == data.data("a/small") + data.data("a/one")
    with pytest.raises(FileNotFoundError):
        cold.get_file("fs-read/none", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_get_fetches_each_object_once(cold: IOAccelFileSystem, data: DataSet, tmp_path: Path) -> None:
    before = cold.cache.status()["store_bytes"]
    callback = fsspec.Callback()
    cold.get("fs-read/a", tmp_path / "out", recursive=True, callback=callback)
    assert callback.value == callback.size
    for key in SIZES:
        assert (tmp_path / "out" / key.removeprefix("a/")).read_bytes() == data.data(key)
    assert cold.cache.status()["store_bytes"] - before == data.nbytes


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("open", ("fs-read/new", "wb")),
        ("open", ("fs-read/new", "w")),
        ("open", ("fs-read/a/one", "ab")),
        ("open", ("fs-read/a/one", "r+b")),
        ("write_text", ("fs-read/new", "")),
        ("write_bytes", ("fs-read/new", b"")),
        ("pipe", ("fs-read/new", b"")),
        ("pipe_file", ("fs-read/new", b"")),
        ("put", ("/etc/hostname", "fs-read/new")),
        ("upload", ("/etc/hostname", "fs-read/new")),
        ("touch", ("fs-read/new",)),
        ("rm", ("fs-read/a", True)),
        ("rm_file", ("fs-read/a/one",)),
        ("delete", ("fs-read/a/one",)),
        ("mv", ("fs-read/a/one", "fs-read/new")),
        ("rename", ("fs-read/a/one", "fs-read/new")),
        ("copy", ("fs-read/a/one", "fs-read/new")),
        ("mkdir", ("fs-read/new",)),
        ("makedirs", ("fs-read/new",)),
        ("rmdir", ("fs-read/a",)),
    ],
)
def test_it_does_not_write(fs: IOAccelFileSystem, data: DataSet, method: str, arguments: Any) -> None:
    with pytest.raises(OSError, match="ioaccel:// only reads; write with the file system of the target"):
        getattr(fs, method)(*arguments)


async def test_asynchronous_methods(fs: IOAccelFileSystem, data: DataSet) -> None:
    small, one = "fs-read/a/small", "fs-read/a/one"
    assert await fs._cat_file(small) == data.data("a/small")
    assert await fs._cat_file(small, -5) == data.data("a/small")[-5:]
    assert await fs._cat_file(small, 99_999, 10**6) == data.data("a/small")[99_999:]
    assert await fs._cat_ranges([small, one], [0, 0], [1, 1]) == [
        data.data("a/small")[:1],
        data.data("a/one"),
    ]
    assert await fs._cat([small, one]) == {small: data.data("a/small"), one: data.data("a/one")}
    assert await fs._exists(small)
    assert not await fs._exists("fs-read/no")
    assert (await fs._info(small))["size"] == 100_000
    assert await fs._ls("fs-read/a", detail=False) == fs.ls("fs-read/a", detail=False)
    assert await fs._find("fs-read") == fs.find("fs-read")
    assert await fs._glob("fs-read/**") == fs.glob("fs-read/**")
    assert await fs._du("fs-read") == data.nbytes
    with pytest.raises(FileNotFoundError):
        await fs._cat_file("fs-read/no")
    with pytest.raises(OSError, match="only reads"):
        await fs._pipe_file("fs-read/new", b"")
