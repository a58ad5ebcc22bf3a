"""What people use reads right bytes through the cache, from a real S3 server, with a line changed or none."""

from __future__ import annotations

import functools
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from support.filesystems import close_file_systems

import ioaccel
from ioaccel import Cache
from ioaccel.fs import IOAccelFileSystem, gopen
from ioaccel.testing.seaweed import SeaweedS3

TABLE = pa.table({"n": pa.array(range(10_000)), "half": pa.array([n / 2 for n in range(10_000)])})


@pytest.fixture
def options(s3: SeaweedS3, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """The storage options of a chained URL."""
    cache = {"cache_dir": str(tmp_path / "cache"), "cache_size": "100MB"}
    yield {"s3": s3.storage_options, "ioaccel": cache}
    close_file_systems()


@pytest.fixture
def fs(s3: SeaweedS3, options: dict[str, Any]) -> IOAccelFileSystem:
    return IOAccelFileSystem("s3", s3.storage_options, **options["ioaccel"])


@pytest.fixture
def cache(s3: SeaweedS3, tmp_path: Path) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path / "cache", "100MB", s3.storage_options) as cache:
        yield cache


def parquet(table: pa.Table) -> bytes:
    packed = io.BytesIO()
    pa.parquet.write_table(table, packed, row_group_size=1000)
    return packed.getvalue()


# ---- tables -------------------------------------------------------------------------------------


def test_pandas(s3: SeaweedS3, bucket: str, options: dict[str, Any], fs: IOAccelFileSystem) -> None:
    frame = TABLE.to_pandas()
    s3.put(bucket, "t/table.parquet", parquet(TABLE))
    s3.put(bucket, "table.csv", frame.to_csv(index=False).encode())
    s3.put(bucket, "table.csv.gz", b"")
    url = f"ioaccel::s3://{bucket}"
    for _ in range(2):
        pd.testing.assert_frame_equal(
            pd.read_parquet(f"{url}/t/table.parquet", storage_options=options), frame
        )
        pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/t", storage_options=options), frame)
        pd.testing.assert_frame_equal(pd.read_csv(f"{url}/table.csv", storage_options=options), frame)
        pd.testing.assert_frame_equal(pd.read_parquet(f"{bucket}/t/table.parquet", filesystem=fs), frame)
    columns = pd.read_parquet(f"{url}/t/table.parquet", columns=["half"], storage_options=options)
    assert columns.equals(frame[["half"]])
    assert fs.cache.status()["hits"] > 0


def test_pandas_without_s3fs(s3: SeaweedS3, bucket: str, options: dict[str, Any]) -> None:
    s3.put(bucket, "table.parquet", parquet(TABLE))
    settings = {"target_options": {"s3": s3.storage_options}, **options["ioaccel"]}
    frame = pd.read_parquet(f"ioaccel://s3://{bucket}/table.parquet", storage_options=settings)
    assert frame.equals(TABLE.to_pandas())


def test_pyarrow(s3: SeaweedS3, bucket: str, fs: IOAccelFileSystem) -> None:
    for part in range(3):
        s3.put(bucket, f"set/part={part}/x.parquet", parquet(TABLE.slice(part * 3000, 3000)))
    dataset = pa.dataset.dataset(f"{bucket}/set", filesystem=fs, format="parquet", partitioning="hive")
    assert len(dataset.files) == 3
    assert dataset.to_table(columns=["n", "half"]).equals(TABLE.slice(0, 9000))
    assert dataset.to_table(filter=pa.dataset.field("part") == 1, columns=["n"])["n"][0].as_py() == 3000
    name = f"{bucket}/set/part=0/x.parquet"
    assert pa.parquet.read_table(name, filesystem=fs, partitioning=None).equals(TABLE.slice(0, 3000))
    with fs.open(name) as file:
        assert pa.parquet.ParquetFile(file).read_row_group(1).equals(TABLE.slice(1000, 1000))


# ---- arrays -------------------------------------------------------------------------------------


def test_zarr(s3: SeaweedS3, bucket: str, options: dict[str, Any], fs: IOAccelFileSystem) -> None:
    import zarr
    from zarr.storage import FsspecStore

    numbers = np.arange(250_000, dtype="i4").reshape(500, 500)
    written = zarr.open_group(f"s3://{bucket}/g.zarr", mode="w", storage_options=s3.storage_options)
    written.create_array("some/numbers", shape=(500, 500), chunks=(100, 100), dtype="i4")[:] = numbers
    written.create_array("sharded", shape=(500, 500), chunks=(50, 50), shards=(250, 250), dtype="i4")[:] = (
        numbers
    )
    written.create_array("sparse", shape=(500,), chunks=(100,), dtype="i4", fill_value=7)[:100] = 0
    url = f"ioaccel::s3://{bucket}/g.zarr"
    asynchronous = IOAccelFileSystem("s3", s3.storage_options, asynchronous=True, **options["ioaccel"])
    for _ in range(2):
        group = zarr.open_group(url, mode="r", storage_options=options)
        assert set(group) == {"some", "sharded", "sparse"}
        for name in ("some/numbers", "sharded"):
            assert np.array_equal(group[name][:], numbers)
            assert np.array_equal(group[name][10:20, 300:450], numbers[10:20, 300:450])
        assert list(group["sparse"][98:102]) == [0, 0, 7, 7]
    store = FsspecStore(asynchronous, read_only=True, path=f"{bucket}/g.zarr/some/numbers")
    assert np.array_equal(zarr.open_array(store)[:], numbers)
    mapper = fsspec.get_mapper(f"{url}/sharded", **options)
    assert np.array_equal(zarr.open_array(FsspecStore.from_mapper(mapper, read_only=True))[:], numbers)
    assert fs.cache.status()["hits"] > 25
    with pytest.raises(OSError, match="only reads"):
        zarr.open_group(url, mode="a", storage_options=options).create_group("new")


def test_numpy_and_torch(s3: SeaweedS3, bucket: str, cache: Cache) -> None:
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(0).random((500, 300))
    packed = io.BytesIO()
    np.save(packed, array)
    s3.put(bucket, "array.npy", packed.getvalue())
    packed = io.BytesIO()
    np.savez(packed, array=array, other=array[:3])
    s3.put(bucket, "arrays.npz", packed.getvalue())
    packed = io.BytesIO()
    torch.save({"weights": torch.from_numpy(array)}, packed)
    s3.put(bucket, "state.pt", packed.getvalue())
    for _ in range(2):
        with cache.open(f"s3://{bucket}/array.npy") as file:
            assert np.array_equal(np.load(file), array)
        with cache.open(f"s3://{bucket}/arrays.npz") as file, np.load(file) as arrays:
            assert np.array_equal(arrays["array"], array)
            assert np.array_equal(arrays["other"], array[:3])
        with cache.open(f"s3://{bucket}/state.pt") as file:
            assert np.array_equal(torch.load(file, weights_only=True)["weights"].numpy(), array)


# ---- files --------------------------------------------------------------------------------------


def test_pillow(s3: SeaweedS3, bucket: str, cache: Cache) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    packed = io.BytesIO()
    image.fromarray(pixels).save(packed, "png")
    s3.put(bucket, "image.png", packed.getvalue())
    for _ in range(2):
        with cache.open(f"s3://{bucket}/image.png") as file, image.open(file) as opened:
            assert np.array_equal(np.asarray(opened), pixels)


def test_archives(s3: SeaweedS3, bucket: str, cache: Cache) -> None:
    contents = {f"{n:03d}.bin": bytes([n]) * (n * 1000) for n in range(50)}
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    s3.put(bucket, "a.zip", zipped.getvalue())
    s3.put(bucket, "a.tar", tarred_up(tarred, contents))
    for _ in range(2):
        with cache.open(f"s3://{bucket}/a.zip") as file, zipfile.ZipFile(file) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == contents
        for mode in ("r:", "r|"):  # seeking, and streaming
            with cache.open(f"s3://{bucket}/a.tar") as file, tarfile.open(fileobj=file, mode=mode) as tar:
                assert {member.name: tar.extractfile(member).read() for member in tar} == contents


def tarred_up(packed: io.BytesIO, contents: dict[str, bytes]) -> bytes:
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


# ---- WebDataset ---------------------------------------------------------------------------------


@pytest.fixture
def shards(s3: SeaweedS3, bucket: str) -> list[str]:
    """Four shards of ten samples: what they hold, in order."""
    for shard in range(4):
        samples = {f"{shard}{n:03d}.txt": f"{shard} {n}".encode() * 100 for n in range(10)}
        s3.put(bucket, f"shard-{shard:03d}.tar", tarred_up(io.BytesIO(), samples))
    return [f"{shard} {n}" * 100 for shard in range(4) for n in range(10)]


@pytest.mark.parametrize("scheme", ["ioaccel", "s3"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("default:.*fork:DeprecationWarning")
def test_webdataset(
    s3: SeaweedS3,
    bucket: str,
    shards: list[str],
    options: dict[str, Any],
    monkeypatch: Any,
    scheme: str,
    workers: int,
) -> None:
    wds = pytest.importorskip("webdataset")
    torch = pytest.importorskip("torch")
    settings = {"target_options": {"s3": s3.storage_options}, **options["ioaccel"]}
    monkeypatch.setitem(wds.gopen_schemes, scheme, functools.partial(gopen, **settings))
    # Not ioaccel::s3://, for WebDataset takes :: as the end of a URL.
    url = f"{'ioaccel://' if scheme == 'ioaccel' else ''}s3://{bucket}/shard-{{000..003}}.tar"
    for _ in range(2):
        dataset = wds.WebDataset(url, shardshuffle=False).decode().to_tuple("txt")
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers)
        assert sorted(text for (text,) in loader) == sorted(shards)


def test_webdataset_with_settings_from_the_environment(
    s3: SeaweedS3, bucket: str, shards: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    wds = pytest.importorskip("webdataset")
    monkeypatch.setenv("IOACCEL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IOACCEL_CACHE_SIZE", "100MB")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
    monkeypatch.setitem(wds.gopen_schemes, "ioaccel", gopen)
    dataset = wds.WebDataset(f"ioaccel://s3://{bucket}/shard-{{000..003}}.tar", shardshuffle=False).decode()
    assert [sample["txt"] for sample in dataset] == shards
    with pytest.raises(OSError, match="only reads"):
        wds.gopen(f"ioaccel://s3://{bucket}/new.tar", "wb")
    close_file_systems()
