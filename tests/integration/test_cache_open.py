"""``cache.open``: the libraries that people decode with cannot tell it from a local file."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator

import numpy as np
import pytest
from support import DataSet, payload

import ioaccel
from ioaccel import Cache, ConfigError, ObjectNotFoundError
from ioaccel.testing.seaweed import SeaweedS3

BUCKET = "cache-open"
MIB = 1 << 20


@pytest.fixture(scope="module")
def cache(s3: SeaweedS3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    s3.create_bucket(BUCKET)
    with ioaccel.connect(tmp_path_factory.mktemp("cache"), "100MB", s3.storage_options) as cache:
        yield cache


@pytest.fixture(scope="module")
def data(s3: SeaweedS3, cache: Cache) -> DataSet:
    return DataSet.fill(s3, BUCKET, {"large": 9 * MIB + 5, "small": 1000, "empty": 0})


def put(s3: SeaweedS3, name: str, data: bytes) -> str:
    s3.put(BUCKET, name, data)
    return f"s3://{BUCKET}/{name}"


@pytest.mark.parametrize("key", ["large", "small", "empty"])
def test_it_reads_as_a_local_file_does(cache: Cache, data: DataSet, key: str) -> None:
    content = data.data(key)
    local = io.BufferedReader(io.BytesIO(content))  # type: ignore[arg-type]
    draw = np.random.default_rng(3)
    with cache.open(data.url(key)) as file:
        assert (file.name, file.size, file.mode) == (data.url(key), len(content), "rb")
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        for _ in range(300):
            step, amount = int(draw.integers(7)), int(draw.integers(1, 300_000))
            where = int(draw.integers(len(content) + 10))
            if step == 0:
                assert file.seek(where) == local.seek(where)
            elif step == 1:
                assert file.seek(-min(where, len(content)), io.SEEK_END) == local.seek(
                    -min(where, len(content)), io.SEEK_END
                )
            elif step == 2:
                assert file.readline() == local.readline()
            elif step == 3:
                assert file.peek(10)[:10] == local.peek(10)[:10]
            else:
                assert file.read(amount) == local.read(amount)
            assert file.tell() == local.tell()
        assert file.seek(0) == 0
        assert file.read() == content
        assert file.read() == b""
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
        with pytest.raises(OSError, match="write"):
            file.write(b"x")
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_an_object_that_is_not_there(cache: Cache) -> None:
    with pytest.raises(ObjectNotFoundError):
        cache.open(f"s3://{BUCKET}/nothing")


def test_a_mode_as_open_has_it(cache: Cache, data: DataSet) -> None:
    with cache.open(data.url("large"), "rb") as file, cache.open(data.url("large"), mode="rb") as same:
        assert file.mode == same.mode == "rb"
    for mode in ("r", "w", "wb", "ab", "r+b"):
        with pytest.raises(ConfigError, match=rf"mode '{re.escape(mode)}': the cache only reads"):
            cache.open(data.url("large"), mode)


def test_a_file_is_pickled_with_its_position(cache: Cache, data: DataSet) -> None:
    with cache.open(data.url("large")) as file:
        file.seek(5 * MIB)
        with pickle.loads(pickle.dumps(file)) as again:  # type: ignore[misc]
            assert again.read() == file.read() == data.data("large")[5 * MIB :]
            again.raw._reader.close()


def test_a_file_of_a_closed_cache(s3: SeaweedS3, cache: Cache, data: DataSet) -> None:
    with ioaccel.connect(cache.directories[0], storage_options=s3.storage_options) as other:
        file = other.open(data.url("large"))
    with pytest.raises(ValueError, match=r"connect\(\) again"):
        file.read(MIB)


def test_numpy(cache: Cache, s3: SeaweedS3) -> None:
    array = np.arange(700_000, dtype=np.float64).reshape(7, -1)
    buffer = io.BytesIO()
    np.savez(buffer, array=array, name="x")
    with cache.open(put(s3, "array.npz", buffer.getvalue())) as file, np.load(file) as loaded:
        assert (loaded["array"] == array).all()
    buffer = io.BytesIO()
    np.save(buffer, array)
    with cache.open(put(s3, "array.npy", buffer.getvalue())) as file:
        assert (np.load(file) == array).all()


def test_zip_tar_gzip_json(cache: Cache, s3: SeaweedS3) -> None:
    members = {f"dir/{n}.bin": payload(str(n), 200_000 + n) for n in range(30)}
    as_zip, as_tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(as_zip, "w") as packed, tarfile.open(fileobj=as_tar, mode="w") as archive:
        for name, content in members.items():
            packed.writestr(name, content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with cache.open(put(s3, "x.zip", as_zip.getvalue())) as file, zipfile.ZipFile(file) as packed:
        assert {name: packed.read(name) for name in reversed(packed.namelist())} == members
    url = put(s3, "x.tar", as_tar.getvalue())
    with cache.open(url) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == members  # type: ignore[union-attr]
    with cache.open(url) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == members  # type: ignore[union-attr]
    with cache.open(put(s3, "x.json.gz", gzip.compress(b'{"a": [1, 2]}'))) as file:
        assert json.loads(gzip.decompress(file.read())) == {"a": [1, 2]}
    with cache.open(put(s3, "x.txt.gz", gzip.compress(b"one\ntwo\n"))) as file, gzip.open(file) as text:
        assert list(text) == [b"one\n", b"two\n"]


def test_pillow(cache: Cache, s3: SeaweedS3) -> None:
    from PIL import Image

    pixels = np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)
    for kind in ("png", "jpeg", "tiff", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        with cache.open(put(s3, f"image.{kind}", buffer.getvalue())) as file:
            assert np.array_equal(Image.open(file), Image.open(buffer))


def test_pyarrow_and_pandas(cache: Cache, s3: SeaweedS3) -> None:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"a": range(100_000), "b": [f"text {n}" for n in range(100_000)]})
    parquet, ipc = io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=10_000)
    with pa.ipc.new_file(ipc, table.schema) as writer:
        writer.write_table(table)
    url = put(s3, "x.parquet", parquet.getvalue())
    with cache.open(url) as file:
        assert pq.ParquetFile(file).read_row_group(3, ["b"])["b"][0].as_py() == "text 30000"
    with cache.open(url) as file:
        assert pq.read_table(file).equals(table)
    with cache.open(put(s3, "x.arrow", ipc.getvalue())) as file:
        assert pa.ipc.open_file(file).read_all().equals(table)
    with cache.open(put(s3, "x.csv", b"a,b\n1,2\n3,4\n")) as file:
        assert pd.read_csv(file)["b"].tolist() == [2, 4]


def test_torch(cache: Cache, s3: SeaweedS3) -> None:
    import torch

    state = {"weight": torch.arange(2_000_000, dtype=torch.float32), "step": 7}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with cache.open(put(s3, "model.pt", buffer.getvalue())) as file:
        loaded = torch.load(file, weights_only=True)
    assert loaded["step"] == 7
    assert torch.equal(loaded["weight"], state["weight"])


async def test_asynchronous_files(cache: Cache, data: DataSet) -> None:
    content = data.data("large")
    async with cache.aopen(data.url("large"), "rb") as file:
        assert (file.name, file.size) == (data.url("large"), len(content))
        assert await file.read(100) == content[:100]
        assert await file.seek(4 * MIB - 50) == 4 * MIB - 50
        assert await file.read(100) == content[4 * MIB - 50 : 4 * MIB + 50]
        assert await file.read() == content[4 * MIB + 50 :]
    files = await asyncio.gather(*(cache.aopen(url) for url in data.urls))
    assert [await file.read() for file in files] == [data.data(url) for url in data.urls]
    for file in files:
        await file.close()
    with pytest.raises(ObjectNotFoundError):
        await cache.aopen(f"s3://{BUCKET}/nothing")
