"""Listing and describing through fsspec, and how long an answer is believed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import DataSet
from support.filesystems import close_file_systems

from ioaccel import AccessDeniedError, UnsupportedURLError
from ioaccel.fs import IOAccelFileSystem
from ioaccel.testing.seaweed import SeaweedS3

SIZES = {"top": 3, "a/one": 1, "a/two": 2, "a/b/three": 3, "a/b/c/four": 4, "a.b/five": 5, "aa/six": 6}


@pytest.fixture
def data(s3: SeaweedS3, bucket: str) -> DataSet:
    return DataSet.fill(s3, bucket, SIZES)


@pytest.fixture
def fs(s3: SeaweedS3, tmp_path: Path) -> Iterator[IOAccelFileSystem]:
    yield make(s3, tmp_path)
    close_file_systems()


def make(s3: SeaweedS3, tmp_path: Path, **settings: Any) -> IOAccelFileSystem:
    options = {"cache_dir": tmp_path / "cache", "cache_size": "50MB", **settings}
    made: IOAccelFileSystem = fsspec.filesystem(
        "ioaccel", target_protocol="s3", target_options=s3.storage_options, **options
    )
    return made


def test_ls(fs: IOAccelFileSystem, data: DataSet) -> None:
    top = data.bucket
    assert fs.ls(top, detail=False) == [f"{top}/{name}" for name in ("a", "a.b", "aa", "top")]
    assert fs.ls(f"s3://{top}/a/", detail=False) == [f"{top}/a/{name}" for name in ("b", "one", "two")]
    assert fs.ls(f"{top}/top", detail=False) == [f"{top}/top"]
    directory, one, _ = fs.ls(f"{top}/a")
    assert directory == {"name": f"{top}/a/b", "size": 0, "type": "directory"} == fs.info(f"{top}/a/b")
    assert one == fs.info(f"{top}/a/one")
    with pytest.raises(FileNotFoundError, match=f"s3://{top}/no"):
        fs.ls(f"{top}/no")
    with pytest.raises(FileNotFoundError, match="no-such-bucket"):
        fs.ls("no-such-bucket")


def test_info(s3: SeaweedS3, fs: IOAccelFileSystem, data: DataSet) -> None:
    etag = s3.put(data.bucket, "a/new", b"12345")
    assert fs.info(f"{data.bucket}/a/new") == {
        "name": f"{data.bucket}/a/new",
        "size": 5,
        "type": "file",
        "version": etag,
        "ETag": etag,
    }
    assert fs.size(f"{data.bucket}/a/new") == 5
    assert fs.info(data.bucket)["type"] == fs.info("")["type"] == "directory"
    for missing in ("no", "a/no", "a/b/thre", "no/no"):
        with pytest.raises(FileNotFoundError, match=missing):
            fs.info(f"{data.bucket}/{missing}")
    with pytest.raises(FileNotFoundError):
        fs.info("no-such-bucket")
    with pytest.raises(NotImplementedError):
        fs.modified(f"{data.bucket}/a/new")


def test_what_is_there(fs: IOAccelFileSystem, data: DataSet) -> None:
    top = data.bucket
    for path, kind in {top: "dir", f"{top}/a": "dir", f"{top}/a/": "dir", f"{top}/top": "file"}.items():
        assert (fs.exists(path), fs.isdir(path), fs.isfile(path)) == (True, kind == "dir", kind == "file")
    for path in (f"{top}/no", f"{top}/a/on", "no-such-bucket", "no-such-bucket/key"):
        assert (fs.exists(path), fs.isdir(path), fs.isfile(path)) == (False, False, False)


def test_a_store_that_does_not_say_is_no_answer(s3: SeaweedS3, data: DataSet, tmp_path: Path) -> None:
    stranger = {**s3.storage_options, "secret": "wrong"}
    fs = fsspec.filesystem(
        "ioaccel",
        target_protocol="s3",
        target_options=stranger,
        cache_dir=tmp_path / "cache",
        cache_size="50MB",
    )
    for ask in (fs.exists, fs.isfile, fs.isdir, fs.find, fs.ls, fs.info, fs.cat_file):
        with pytest.raises(AccessDeniedError):
            ask(f"{data.bucket}/top")
    with pytest.raises(AccessDeniedError):
        fs.glob(f"{data.bucket}/*/*")
    close_file_systems()


def test_find(fs: IOAccelFileSystem, data: DataSet) -> None:
    top = data.bucket
    every = sorted(f"{top}/{key}" for key in SIZES)
    assert fs.find(top) == every
    assert fs.find(f"{top}/a") == [name for name in every if name.startswith(f"{top}/a/")]
    assert fs.find(f"{top}/top") == [f"{top}/top"]
    assert fs.find(f"{top}/no") == []
    assert fs.find(f"{top}/a", withdirs=True) == sorted(
        [*fs.find(f"{top}/a"), *below(top, "a", "a/b", "a/b/c")]
    )
    assert fs.find(f"{top}/a", maxdepth=1) == below(top, "a/one", "a/two")
    assert fs.find(f"{top}/a", maxdepth=2) == below(top, "a/b/three", "a/one", "a/two")
    assert fs.find(f"{top}/a", maxdepth=1, withdirs=True) == below(top, "a", "a/b", "a/one", "a/two")
    detailed = fs.find(top, detail=True)
    assert detailed == {name: fs.info(name) for name in every}
    assert fs.find(top, maxdepth=9, detail=True) == detailed
    with pytest.raises(ValueError, match="maxdepth"):
        fs.find(top, maxdepth=0)


def below(top: str, *keys: str) -> list[str]:
    return [f"{top}/{key}" for key in keys]


PATTERNS = [
    "*",
    "a/*",
    "**",
    "a/**",
    "*/one",
    "a*/*",
    "a/b/?hree",
    "**/four",
    "*/*/*",
    "[ab]/*",
    "no/*",
    "a/one",
]


def test_glob_and_walk_as_s3fs(s3: SeaweedS3, fs: IOAccelFileSystem, data: DataSet) -> None:
    other = fsspec.filesystem("s3", **s3.storage_options, use_listings_cache=False)
    for pattern in PATTERNS:
        found = fs.glob(f"{data.bucket}/{pattern}")
        found = [name for name in found if name != data.bucket]  # s3fs has every other top directory in `**`
        assert found == other.glob(f"{data.bucket}/{pattern}"), pattern
    assert list(fs.walk(data.bucket)) == list(other.walk(data.bucket))


def test_du(fs: IOAccelFileSystem, data: DataSet) -> None:
    assert fs.du(data.bucket) == data.nbytes
    assert fs.du(f"{data.bucket}/a", total=False, maxdepth=1) == {
        f"{data.bucket}/a/one": 1,
        f"{data.bucket}/a/two": 2,
    }


def test_a_glob_and_a_directory_cost_one_request(fs: IOAccelFileSystem, data: DataSet) -> None:
    def requests() -> int:
        return int(fs.cache.status()["store_requests"])

    before = requests()
    names = fs.glob(f"{data.bucket}/a/*")
    assert requests() - before == 1
    assert all(fs.exists(name) for name in names if name.rpartition("/")[2] != "b")
    assert requests() - before == 1  # what was listed is known
    fs.info(f"{data.bucket}/a")
    assert requests() - before == 3  # no such object, but one below


def test_markers_of_directories(s3: SeaweedS3, fs: IOAccelFileSystem, data: DataSet) -> None:
    s3.put(data.bucket, "a/b/", b"")
    assert fs.isdir(f"{data.bucket}/a/b")
    assert f"{data.bucket}/a/b" not in fs.find(data.bucket)
    assert f"{data.bucket}/a/b" in fs.find(data.bucket, withdirs=True)


def test_a_session_believes_what_it_was_told(s3: SeaweedS3, fs: IOAccelFileSystem, data: DataSet) -> None:
    name = f"{data.bucket}/a/one"
    before = (fs.find(data.bucket), fs.ukey(name), fs.checksum(name), fs.cat_file(name))
    time.sleep(0.01)
    s3.put(data.bucket, "a/one", b"new")
    s3.put(data.bucket, "a/another", b"new")
    assert (fs.find(data.bucket), fs.ukey(name), fs.checksum(name), fs.cat_file(name)) == before
    assert f"{data.bucket}/a/another" in fs.ls(f"{data.bucket}/a", detail=False)
    assert f"{data.bucket}/a/another" in fs.find(data.bucket, refresh=True)
    fs.invalidate_cache()
    after = (fs.find(data.bucket), fs.ukey(name), fs.checksum(name), fs.cat_file(name))
    assert all(new != old for new, old in zip(after, before, strict=True))
    assert after[3] == b"new"


@pytest.mark.parametrize("settings", [{"max_age": 0}, {"consistency": "immutable"}])
def test_a_listing_is_of_the_session_at_most(
    s3: SeaweedS3, data: DataSet, tmp_path: Path, settings: dict[str, Any]
) -> None:
    first = make(s3, tmp_path, **settings)
    assert len(first.find(data.bucket)) == len(SIZES)
    s3.put(data.bucket, "new", b"")
    first.close()
    time.sleep(0.01)
    assert len(make(s3, tmp_path, **settings).find(data.bucket)) == len(SIZES) + 1
    close_file_systems()


def test_names_that_cannot_be_addressed(fs: IOAccelFileSystem, data: DataSet) -> None:
    with pytest.raises(UnsupportedURLError, match="empty"):
        fs.info(f"{data.bucket}/a//b")
    with pytest.raises(UnsupportedURLError, match="bucket"):
        fs.ls("")
