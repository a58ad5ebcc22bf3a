"""The file system in threads, forked children, spawned children and DataLoader workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support import DataSet
from support.filesystems import close_file_systems

from ioaccel.fs import IOAccelFileSystem
from ioaccel.testing.seaweed import SeaweedS3


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("fs-processes")
    return DataSet.fill(s3, "fs-processes", [10_000] * 40)


@pytest.fixture
def fs(s3: SeaweedS3, tmp_path: Path) -> Iterator[IOAccelFileSystem]:
    yield IOAccelFileSystem("s3", s3.storage_options, cache_dir=tmp_path / "cache", cache_size="50MB")
    close_file_systems()


def read(fs: IOAccelFileSystem, url: str) -> tuple[bytes, str, int]:
    """The bytes of an object, read in this process; its session, and its number."""
    with fs.open(url) as file:
        return file.read(), fs.cache._reader.session, os.getpid()


def read_file(file: Any) -> bytes:
    with file as opened:
        return bytes(opened.read())


def test_threads(fs: IOAccelFileSystem, data: DataSet) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda url: fs.cat_file(url) == data.data(url), data.shuffled(1) * 5))
    assert fs.cache.status()["store_bytes"] == data.nbytes


def test_pickle(fs: IOAccelFileSystem, data: DataSet, tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(fs)) is fs
    assert not (tmp_path / "cache").exists()  # it starts no engine
    fs.cat_file(data.urls[0])
    assert pickle.loads(pickle.dumps(fs)) is fs
    fs.close()
    again = pickle.loads(pickle.dumps(fs))
    assert again.cat_file(data.urls[0]) == data.data(data.urls[0])
    assert IOAccelFileSystem.from_json(fs.to_json()) is fs


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_other_processes_continue_the_session(fs: IOAccelFileSystem, data: DataSet, method: str) -> None:
    fs.cat_file(data.urls[0])
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        results = list(pool.map(read, [fs] * len(data.urls), data.urls))
        files = [fsspec.core.OpenFile(fs, url) for url in data.urls[:2]]
        assert list(pool.map(read_file, files)) == [data.data(url) for url in data.urls[:2]]
    assert [content for content, _, _ in results] == [data.data(url) for url in data.urls]
    assert {session for _, session, _ in results} == {fs.cache._reader.session}
    assert os.getpid() not in {pid for _, _, pid in results}
    assert fs.cache.status()["store_bytes"] == data.nbytes


def test_a_forked_child_opens_urls_in_the_session_of_its_parent(
    s3: SeaweedS3, fs: IOAccelFileSystem, data: DataSet, tmp_path: Path
) -> None:
    options = {"cache_dir": tmp_path / "cache", "cache_size": "50MB"}
    url = data.urls[0]
    fs.cat_file(url)
    child = os.fork()
    if child == 0:  # fsspec has dropped its instances: this is another one
        with fsspec.open(f"ioaccel::{url}", s3=s3.storage_options, ioaccel=options) as file:
            same = file.read() == data.data(url) and file.raw._reader.session == fs.cache._reader.session
        os._exit(0 if same and fs.cat_file(url) == data.data(url) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert fs.cat_file(url) == data.data(url)


def test_no_thread_of_fsspec_and_no_obstore_in_the_client(
    s3: SeaweedS3, data: DataSet, tmp_path: Path
) -> None:
    from support import run_python

    code = """
import json, sys, threading, fsspec
options, cache, url = json.loads(sys.argv[1])
settings = {"target_options": options, "cache_dir": cache, "cache_size": "50MB"}
fs = fsspec.filesystem("ioaccel", target_protocol="s3", **settings)
bucket = url.split("/")[2]
assert len(fs.find(bucket)) == 40 and fs.ls(bucket) and fs.exists(url) and not fs.exists(bucket + "/no")
assert len(fs.cat_file(url)) == 10_000
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
assert not {"obstore", "s3fs", "aiobotocore", "aiohttp"} & sys.modules.keys()
print("fine")
"""
    import json

    arguments = json.dumps([s3.storage_options, str(tmp_path / "cache"), data.urls[0]])
    assert run_python(code, arguments) == "fine\n"
