"""Targets, options and instances: what is read, and through which cache."""

from __future__ import annotations

import functools
import http.server
import io
import os
import threading
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from support.filesystems import close_file_systems

from ioaccel import ConfigError, IOAccelError, UnsupportedURLError
from ioaccel.fs import IOAccelFileSystem
from ioaccel.testing.seaweed import SeaweedS3


@pytest.fixture
def cached(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The settings of a cache of its own."""
    yield {"cache_dir": str(tmp_path / "cache"), "cache_size": "50MB"}
    close_file_systems()


def test_chained_urls(s3: SeaweedS3, bucket: str, cached: dict[str, Any]) -> None:
    s3.put(bucket, "a/key", b"contents")
    options = {"s3": s3.storage_options, "ioaccel": cached}
    with fsspec.open(f"ioaccel::s3://{bucket}/a/key", **options) as file:
        assert file.read() == b"contents"
    with fsspec.open(f"ioaccel::s3://{bucket}/a/key", "rt", s3=s3.storage_options, **cached) as file:
        assert file.read() == "contents"
    fs, name = fsspec.url_to_fs(f"ioaccel::s3://{bucket}/a", **options)
    assert (type(fs), name) == (IOAccelFileSystem, f"{bucket}/a")
    assert fs.unstrip_protocol(name) == f"ioaccel::s3://{bucket}/a"
    assert fs._strip_protocol(fs.unstrip_protocol(name)) == name
    assert fs.find(name) == [f"{bucket}/a/key"]
    files = fsspec.open_files(f"ioaccel::s3://{bucket}/a/*", **options)
    assert [file.path for file in files] == [f"{bucket}/a/key"]
    assert fs.cache.status()["store_bytes"] == len(b"contents")
    with (
        pytest.raises(OSError, match="only reads"),
        fsspec.open(f"ioaccel::s3://{bucket}/new", "wb", **options),
    ):
        pass


def test_a_url_in_a_url_needs_no_file_system_of_the_target(
    s3: SeaweedS3, bucket: str, cached: dict[str, Any]
) -> None:
    s3.put(bucket, "a/key", b"contents")
    options = {"target_options": {"s3": s3.storage_options}, **cached}
    with fsspec.open(f"ioaccel://s3://{bucket}/a/key", **options) as file:
        assert file.read() == b"contents"
    fs, name = fsspec.url_to_fs(f"ioaccel://s3://{bucket}/a/", **options)
    assert fs.find(name) == fs.glob(f"{name}/*") == [f"s3://{bucket}/a/key"]
    assert fs.ls(name)[0] == fs.info(f"s3://{bucket}/a/key")
    assert fs.unstrip_protocol(f"s3://{bucket}/a/key") == f"ioaccel::s3://{bucket}/a/key"


def test_archives_over_the_cache(s3: SeaweedS3, bucket: str, cached: dict[str, Any]) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", "within")
    s3.put(bucket, "some.zip", packed.getvalue())
    url = f"zip://inner.txt::ioaccel::s3://{bucket}/some.zip"
    with fsspec.open(url, s3=s3.storage_options, ioaccel=cached) as file:
        assert file.read() == b"within"


def test_files(tmp_path: Path, cached: dict[str, Any]) -> None:
    path = tmp_path / "data" / "file"
    path.parent.mkdir()
    path.write_bytes(b"contents")
    (tmp_path / "data" / "empty").mkdir()
    for url in (f"ioaccel::file://{path}", f"ioaccel://{path}", f"ioaccel://file://{path}"):
        with fsspec.open(url, **cached) as file:
            assert file.read() == b"contents"
    fs = fsspec.filesystem("ioaccel", target_protocol="file", **cached)
    assert fs.modified(str(path)) == datetime.fromtimestamp(os.stat(path).st_mtime, UTC)
    assert fs.ls(tmp_path / "data", detail=False) == [str(tmp_path / "data" / n) for n in ("empty", "file")]
    assert fs.ls(tmp_path / "data" / "empty") == []
    assert fs.isdir(tmp_path / "data" / "empty")
    assert fs.find(f"file://{tmp_path}/data/") == [str(path)]
    with pytest.raises(IsADirectoryError, match="data is a directory"):
        fs.open(str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError):
        fs.cat_file(f"{path}/below")


def test_memory_is_read_by_the_process_that_has_it(cached: dict[str, Any]) -> None:
    memory = MemoryFileSystem()
    memory.pipe({"/mem/a": b"aaa", "/mem/b/c": b"c"})
    try:
        fs, name = fsspec.url_to_fs("ioaccel::memory://mem", ioaccel=cached)
        assert fs.cat(fs.find(name)) == {"/mem/a": b"aaa", "/mem/b/c": b"c"}
        assert fs.find(name, withdirs=True) == memory.find(name, withdirs=True)
        assert fs.ls(name, detail=False) == sorted(memory.ls(name, detail=False))
        assert fs.cat_file("/mem/a", -2) == b"aa"
        assert fs.cat_file("memory://mem/a", 1, 100) == b"aa"
        assert fs.isdir("/mem/b")
        assert fs.isfile("/mem/a")
        assert not fs.exists("/mem/no")
        assert abs(fs.modified("/mem/a") - memory.modified("/mem/a")).total_seconds() < 1
        with fs.open("/mem/a") as file:
            assert file.read() == b"aaa"
        assert fs.cache.status()["cached_bytes"] == 0
    finally:
        memory.rm("/mem", recursive=True)


def test_the_web(tmp_path: Path, cached: dict[str, Any]) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with fsspec.open(f"ioaccel://{url}/file", **cached) as file:
                assert file.read() == b"contents"
            fs = IOAccelFileSystem("http", **cached)
            assert fs.info(f"{url}/file")["size"] == 8
            assert not fs.exists(f"{url}/no")
            with pytest.raises(UnsupportedURLError, match="no listing"):
                fs.find(url + "/")
        finally:
            server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Private(MemoryFileSystem):
    """A file system that only this process knows."""

    protocol = "private"
    store: dict[str, Any] = {}  # noqa: RUF012  # as MemoryFileSystem has it
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("private://")))


def test_a_file_system_that_only_this_process_knows(cached: dict[str, Any]) -> None:
    fsspec.register_implementation("private", Private, clobber=True)
    Private().pipe("/x/y", b"known here")
    fs = fsspec.filesystem("ioaccel", target_protocol="private", **cached)
    assert fs.cat_file("/x/y") == b"known here"
    assert fs.find("/x") == ["/x/y"]


def test_an_instance_as_target(s3: SeaweedS3, bucket: str, tmp_path: Path, cached: dict[str, Any]) -> None:
    s3.put(bucket, "key", b"contents")
    target = fsspec.filesystem("s3", **s3.storage_options)
    assert fsspec.filesystem("ioaccel", fs=target, **cached).cat_file(f"{bucket}/key") == b"contents"
    (tmp_path / "file").write_bytes(b"local")
    fs = fsspec.filesystem("ioaccel", fs=LocalFileSystem(auto_mkdir=True), **cached)
    assert fs.cat_file(tmp_path / "file") == b"local"
    with pytest.raises(ConfigError, match="not both"):
        IOAccelFileSystem("s3", fs=target, **cached)
    with pytest.raises(ConfigError, match="positional"):
        fsspec.filesystem("ioaccel", fs=fsspec.get_filesystem_class("s3")(False), **cached)


def test_options_that_make_no_sense(cached: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no option 'endpoint_url'; options of the store go into"):
        IOAccelFileSystem("s3", endpoint_url="http://x", **cached)
    with pytest.raises(ConfigError, match="the cache itself"):
        IOAccelFileSystem("ioaccel", **cached)
    with pytest.raises(ConfigError, match="cache_size"):
        IOAccelFileSystem("s3", cache_dir=cached["cache_dir"], cache_size="many")
    with pytest.raises(ConfigError, match="no option 'keey'"):
        IOAccelFileSystem("s3", {"keey": "x"}, **cached).ls("bucket")
    accepted = {"use_listings_cache": False, "skip_instance_cache": True, "batch_size": 3}
    assert IOAccelFileSystem("s3", **accepted, **cached).async_impl


def test_instances_are_shared_by_their_settings(tmp_path: Path, cached: dict[str, Any]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    one = IOAccelFileSystem("file", **cached)
    assert IOAccelFileSystem("file", **cached) is one
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(IOAccelFileSystem("file", **cached)))
    thread.start()
    thread.join()
    assert found == [one]
    alike = IOAccelFileSystem("file", **{**cached, "cache_dir": tmp_path / "x" / ".." / "cache"})
    assert alike is not one
    assert alike.cache is one.cache
    assert alike.cat_file(path) == one.cat_file(path) == b"contents"
    assert one.cache.status()["clients"] == 1


def test_instances_with_other_settings_are_others(
    s3: SeaweedS3, tmp_path: Path, cached: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        cached,
        {**cached, "cache_dir": str(tmp_path / "another")},
        {**cached, "consistency": "immutable"},
        {**cached, "max_age": 1},
        {**cached, "timeout": 1},
        {**cached, "target_options": s3.storage_options},
        {**cached, "target_options": {**s3.storage_options, "key": "another"}},
    ]
    made = [IOAccelFileSystem("s3", **each) for each in settings]
    assert len({fs._key for fs in made}) == len({id(fs) for fs in made}) == len(settings)
    assert len({fs.cache for fs in made}) == len(settings)
    assert {fs.cache.directories for fs in made} == {(str(tmp_path / n),) for n in ("cache", "another")}

    monkeypatch.setenv("IOACCEL_CACHE_SIZE", "50MB")
    for name in ("first", "second"):
        monkeypatch.setenv("IOACCEL_CACHE_DIR", str(tmp_path / name))
        assert IOAccelFileSystem("file").cache.directories == (str(tmp_path / name),)


def test_a_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    fs = IOAccelFileSystem("file", cache_dir=tmp_path / "file", cache_size="50MB")
    with pytest.raises(IOAccelError, match="file"):
        fs.cat_file(tmp_path / "file")
    close_file_systems()


def test_close_and_go_on(tmp_path: Path, cached: dict[str, Any]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one")
    fs = IOAccelFileSystem("file", **cached)
    assert fs.cat_file(path) == b"one"
    fs.close()
    fs.close()
    path.write_bytes(b"another")
    assert fs.cat_file(path) == b"another"
