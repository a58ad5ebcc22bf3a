"""Names of the fsspec file system: each has one URL, and is what the target's own file system says."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from ioaccel import ConfigError
from ioaccel.fs.info import directories_of, directory_info, file_info
from ioaccel.fs.names import Names

# target, what a user writes, name, URL
NAMES = [
    ("s3", "s3://bucket/a/key", "bucket/a/key", "s3://bucket/a/key"),
    ("s3", "bucket/a/key", "bucket/a/key", "s3://bucket/a/key"),
    ("s3", "s3a://bucket/a/", "bucket/a", "s3://bucket/a"),
    ("s3a", "s3a://bucket/a", "bucket/a", "s3://bucket/a"),
    ("s3", "ioaccel://bucket/a", "bucket/a", "s3://bucket/a"),
    ("s3", "ioaccel::s3://bucket/a", "bucket/a", "s3://bucket/a"),
    ("s3", "bucket/a://b", "bucket/a://b", "s3://bucket/a://b"),
    ("s3", "bucket/a%20 b#?", "bucket/a%20 b#?", "s3://bucket/a%20 b#?"),
    ("s3", "s3://", "", "s3://"),
    ("gcs", "gs://bucket/a", "bucket/a", "gs://bucket/a"),
    ("abfs", "abfs://container/a", "container/a", "az://container/a"),
    ("file", "/a/b", "/a/b", "file:///a/b"),
    ("file", "file:///a//b/", "/a/b", "file:///a/b"),
    ("file", "local:///a/../b", "/b", "file:///b"),
    ("file", "/a/s3://b", "/a/s3:/b", "file:///a/s3:/b"),
    ("file", "/", "/", "file:///"),
    ("memory", "memory://a/b", "/a/b", "memory:///a/b"),
    ("memory", "/a/b/", "/a/b", "memory:///a/b"),
    ("http", "https://host/a?b#c", "https://host/a?b#c", "https://host/a?b#c"),
    ("https", "host/a", "https://host/a", "https://host/a"),
    ("https", "ioaccel::http://host/a/", "http://host/a/", "http://host/a/"),
    (None, "s3://bucket/a/", "s3://bucket/a", "s3://bucket/a"),
    (None, "ioaccel://s3://bucket/a", "s3://bucket/a", "s3://bucket/a"),
    (None, "gcs://bucket/a", "gs://bucket/a", "gs://bucket/a"),
    (None, "/a/b", "/a/b", "file:///a/b"),
    (None, "file:///a/b", "/a/b", "file:///a/b"),
    (None, "http://host/a/", "http://host/a/", "http://host/a/"),
    (None, "memory:///a", "memory:///a", "memory:///a"),
]


@pytest.mark.parametrize(("target", "path", "name", "url"), NAMES, ids=str)
def test_names_and_urls(target: str | None, path: str, name: str, url: str) -> None:
    names = Names(target)
    assert names.name(path) == names.name(name) == name
    assert names.url(name) == url
    assert names.name_of(url) == name


@pytest.mark.parametrize(
    ("target", "path"),
    [("s3", "s3://bucket/a/"), ("s3", "s3://bucket"), ("file", "file:///a/b/"), ("memory", "memory://a/b/")],
)
def test_names_are_those_of_the_target_s_file_system(target: str, path: str) -> None:
    assert Names(target).name(path) == fsspec.get_filesystem_class(target)._strip_protocol(path)


def test_paths_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/user")
    names = Names("file")
    assert names.strip([tmp_path / "a", "b"]) == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert names.strip("") == str(tmp_path)
    assert names.strip("~/a") == "/home/user/a"


def test_targets_that_are_none() -> None:
    with pytest.raises(ConfigError, match="the cache itself"):
        Names("ioaccel")
    with pytest.raises(ValueError, match="nonsense"):
        Names("nonsense")


def test_what_is_told_of_a_file() -> None:
    told = {"name": "n", "size": 5, "type": "file"}
    assert file_info("n", 5, '"e"') == {**told, "version": '"e"', "ETag": '"e"'}
    assert file_info("n", 5, "1700000000500000000-5") == {
        **told,
        "version": "1700000000500000000-5",
        "mtime": 1700000000.5,
    }
    assert file_info("n", 5, "1700000000.5-5")["mtime"] == 1700000000.5
    for version in ("", "-5", "abc", "12-6", "2026-01-05"):
        assert file_info("n", 5, version) == {**told, "version": version}
    assert directory_info("d") == {"name": "d", "size": 0, "type": "directory"}


def test_directories_of() -> None:
    assert directories_of(["b/a/x", "b/a/c/d/y", "b/z"], "b") == {"b", "b/a", "b/a/c", "b/a/c/d"}
    assert directories_of(["b/a/x"], "b/a") == {"b/a"}
    assert directories_of(["b/a"], "b/a") == set()
    assert directories_of(["/a/x", "/y"], "/") == {"/a"}
    assert directories_of([], "b") == set()


@pytest.mark.parametrize("nanoseconds", [1795431666_215009690, 1795431666_000000001, 1795431666_999999999])
def test_a_time_is_rounded_as_the_system_rounds_it(nanoseconds: int, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    os.utime(file, ns=(nanoseconds, nanoseconds))
    assert file_info("a", 8, f"{nanoseconds}-8")["mtime"] == os.stat(file).st_mtime
