"""ObjectDataset and ShardDataset: the right bytes under any sampler, in one read a batch, in any process."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import DataSet, payload, wait_for
from support.tars import tar
from torch.utils.data import DataLoader, Subset

import ioaccel
from ioaccel import Cache
from ioaccel.client import default
from ioaccel.errors import (
    ConfigError,
    FormatError,
    ObjectChangedError,
    ObjectNotFoundError,
    UnsupportedURLError,
)
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import ObjectDataset, ShardDataset

METHODS = ["fork", "spawn"]


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("torch-native")
    sizes = {f"train/n{n % 4}/{n:04d}.jpg": 1000 * n for n in range(60)}
    sizes |= {"train/n1.txt": 10, "train/notes.TXT": 20, "train/é b.png": 30, "val/0000.jpg": 7}
    return DataSet.fill(s3, "torch-native", sizes)


@pytest.fixture
def cache(s3: SeaweedS3, tmp_path: Path) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path / "cache", "100MB", s3.storage_options) as cache:
        yield cache


def label(key: str) -> str:
    return key.split("/")[1]


def length_of(sample: Any) -> int:
    return len(sample)


def raw(batch: list[Any]) -> list[Any]:
    """Keeps a batch as it is."""
    return batch


def load(dataset: Any, method: str | None, epochs: int = 2) -> list[Any]:
    """All samples, in the order in which a plain DataLoader with two workers gives them."""
    loader = DataLoader(
        dataset,
        batch_size=7,
        shuffle=True,
        num_workers={None: 0, "spawn": 1}.get(method, 2),  # a new interpreter imports torch for seconds
        multiprocessing_context=method,
        collate_fn=raw,
        timeout=30 if method else 0,
        persistent_workers=method is not None,
    )
    samples = [sample for _ in range(epochs) for batch in loader for sample in batch]
    if method:
        loader._iterator._shutdown_workers()  # type: ignore[union-attr]
    return samples


# ---- objects ------------------------------------------------------------------------------------


def test_objects_in_the_order_of_their_keys(cache: Cache, data: DataSet) -> None:
    dataset = ObjectDataset("s3://torch-native/train/", cache=cache)
    keys = sorted(key for key in data.sizes if key.startswith("train/"))  # SeaweedFS lists otherwise
    assert len(dataset) == len(keys) == 63
    assert dataset.keys.to_pylist() == keys
    assert [dataset.url(i) for i in range(len(keys))] == [data.url(key) for key in keys]
    assert [dataset.key(-i) for i in (1, 2)] == [keys[-1], keys[-2]]
    assert list(dataset) == [data.data(key) for key in keys]
    assert dataset[-1] == data.data(keys[-1])
    assert dataset[np.int64(3)] == dataset[torch.tensor(3)] == data.data(keys[3])
    chosen = [5, 5, -1, 0, 62]
    assert dataset.__getitems__(chosen) == [data.data(keys[i]) for i in chosen]
    assert all(type(sample) is bytes for sample in dataset.__getitems__(chosen))
    assert dataset.extents(chosen) == [[(data.url(keys[i]), 0, data.sizes[keys[i]])] for i in chosen]
    assert "63 objects" in repr(dataset)
    for wrong in (63, -64):
        with pytest.raises(IndexError, match="data set of 63"):
            dataset[wrong]
        with pytest.raises(IndexError, match="data set of 63"):
            dataset.__getitems__([0, wrong])


def test_transform_and_target(cache: Cache, data: DataSet) -> None:
    url = "s3://torch-native/train"
    dataset = ObjectDataset(url, length_of, target=label, pattern="*.jpg", cache=cache)
    assert len(dataset) == 60
    expected = [(data.sizes[key], key.split("/")[1]) for key in dataset.keys.to_pylist()]
    assert list(dataset) == dataset.__getitems__(range(60)) == expected
    only = ObjectDataset(url, target=label, pattern=["*/n1/*.jpg", "*.[tT]*"], cache=cache)
    assert {only[i][1] for i in range(len(only))} == {"n1", "n1.txt", "notes.TXT"}
    assert len(only) == 17


def test_a_batch_is_one_message(
    cache: Cache, data: DataSet, shards: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ObjectDataset("s3://torch-native/train/", pattern="*[1-9].jpg", cache=cache)  # none is empty
    samples = ShardDataset(shards, cache=cache)
    cache.evict("s3://torch-shards/")
    messages = []
    ask = cache._reader.ask
    monkeypatch.setattr(
        cache._reader, "ask", lambda message, *a: messages.append(message) or ask(message, *a)
    )
    for data_set in (dataset, samples):
        for _ in range(2):
            assert len(list(DataLoader(Subset(data_set, range(40)), batch_size=20, collate_fn=raw))) == 2
        assert 1 <= len(messages) <= 2  # the second epoch asks for nothing
        messages.clear()


def test_nothing_there(cache: Cache, s3: SeaweedS3, data: DataSet) -> None:
    for url in ("s3://torch-native/train/none/", "s3://torch-nothing/"):
        with pytest.raises(ObjectNotFoundError, match=url):
            ObjectDataset(url, cache=cache)
    with pytest.raises(ObjectNotFoundError, match=r"none of its 63 objects matches '\*.gif'.*'train/n"):
        ObjectDataset("s3://torch-native/train/", pattern="*.gif", cache=cache)
    with pytest.raises(ConfigError, match="fnmatch"):
        ObjectDataset("s3://torch-native/train/", pattern="[z-a]", cache=cache)


def test_markers_of_directories_are_no_samples(cache: Cache, s3: SeaweedS3, bucket: str) -> None:
    for key in ("a/", "a/b/", "a/b/1", "a/b.txt", "a/b-", "a/empty", "empty", "z/"):
        s3.put(bucket, key, b"" if key[-1] in "/y" else key.encode())
    dataset = ObjectDataset(f"s3://{bucket}/", cache=cache)
    keys = dataset.keys.to_pylist()
    assert [key for key in keys if key != "z"] == ["a/b-", "a/b.txt", "a/b/1", "a/empty", "empty"]
    assert [dataset[i] for i in range(5)] == [b"a/b-", b"a/b.txt", b"a/b/1", b"", b""]


@pytest.mark.parametrize("method", [None, *METHODS])
def test_objects_in_workers(cache: Cache, data: DataSet, method: str | None) -> None:
    dataset = ObjectDataset("s3://torch-native/train/", target=label, cache=cache)
    if method == "fork":
        dataset[0]  # used before the fork, too
    samples = load(dataset, method)
    expected = [(data.data(key), label(key)) for key in dataset.keys.to_pylist()] * 2
    assert sorted(samples) == sorted(expected)
    assert cache.status()["direct_bytes"] == 0
    wait_for(lambda: cache.status()["clients"] == 1)


def test_the_same_objects_in_every_process_whatever_is_stored_meanwhile(
    cache: Cache, s3: SeaweedS3, bucket: str, tmp_path: Path
) -> None:
    s3.put_many(bucket, ((f"{n:03d}", b"%d" % n) for n in range(0, 100, 2)))
    dataset = ObjectDataset(f"s3://{bucket}/", cache=cache)
    packed = pickle.dumps(dataset)
    s3.put_many(bucket, ((f"{n:03d}", b"%d" % n) for n in range(1, 100, 2)))
    cache.manifest(f"s3://{bucket}/", refresh=True)
    copy = pickle.loads(packed)
    assert list(copy) == list(dataset) == [b"%d" % n for n in range(0, 100, 2)]
    assert len(ObjectDataset(f"s3://{bucket}/", cache=cache)) == 100
    copy.cache.close()


def test_the_same_list_is_kept_once(cache: Cache, data: DataSet, tmp_path: Path) -> None:
    for _ in range(3):
        ObjectDataset("s3://torch-native/train/", cache=cache)
        cache.manifest("s3://torch-native/train/", refresh=True)
    assert len(list((tmp_path / "cache/indexes").iterdir())) == 1


# ---- shards -------------------------------------------------------------------------------------


def sample_of(bucket: str, shard: int, n: int) -> dict[str, Any]:
    key = f"{shard}/{n:04d}"
    return {
        "__key__": key,
        "__url__": f"s3://{bucket}/train-{shard:02d}.tar",
        "jpg": payload(key, (997 * n) % 40_000),
        "seg.png": payload(key, n % 5),
        "cls": b"%d" % n,
    }


def shard_of(bucket: str, shard: int, samples: int = 30) -> bytes:
    """A shard of such samples; in each third one a name is too long for a plain header."""
    long = ("x" * 90 + "/") * 2 if shard % 3 == 2 else ""
    files = []
    for n in range(samples):
        sample = sample_of(bucket, shard, n)
        files += [(f"{long}{sample['__key__']}.{e}", data) for e, data in sample.items() if e[0] != "_"]
    return tar(files, shard % 3)


def samples_in(bucket: str, shards: range) -> list[dict[str, Any]]:
    found = []
    for shard in shards:
        long = ("x" * 90 + "/") * 2 if shard % 3 == 2 else ""
        for n in range(30):
            sample = sample_of(bucket, shard, n)
            found.append(sample | {"__key__": long + sample["__key__"]})
    return found


@pytest.fixture(scope="module")
def shards(s3: SeaweedS3) -> str:
    s3.create_bucket("torch-shards")
    s3.put_many("torch-shards", ((f"train-{n:02d}.tar", shard_of("torch-shards", n)) for n in range(12)))
    s3.put("torch-shards", "empty.tar", tar([]))
    return "s3://torch-shards/train-{00..11}.tar"


def test_samples_as_webdataset_gives_them(cache: Cache, shards: str) -> None:
    import webdataset

    dataset = ShardDataset(shards, cache=cache)
    expected = samples_in("torch-shards", range(12))
    assert len(dataset) == len(expected) == 360
    assert list(dataset) == expected
    assert [list(sample) for sample in dataset] == [list(sample) for sample in expected]

    def opened(urls: Any) -> Any:
        for source in urls:
            with cache.open(source["url"]) as stream:
                yield source | {"stream": stream}

    theirs = webdataset.DataPipeline(
        webdataset.SimpleShardList(shards),
        opened,
        webdataset.tariterators.tar_file_expander,
        webdataset.tariterators.group_by_keys,
    )
    assert list(theirs) == expected


def test_any_sample_by_its_number(cache: Cache, shards: str) -> None:
    dataset = ShardDataset(shards, length_of, cache=cache)
    expected = samples_in("torch-shards", range(12))
    order = random.Random(1).sample(range(-360, 360), 360)
    assert dataset.__getitems__(order) == [5] * 360
    dataset.transform = None
    assert dataset.__getitems__(order) == [expected[i] for i in order]
    assert dataset[-1] == dataset[torch.tensor(359)] == expected[-1]
    assert dataset.key(31) == expected[31]["__key__"]
    assert dataset.url(31) == expected[31]["__url__"]
    assert "360 samples in 12 shards" in repr(dataset)
    extents = dataset.extents([17, -1])
    assert [[bytes(data) for data in cache.read_many(sample)] for sample in extents] == [
        [expected[i][e] for e in ("jpg", "seg.png", "cls")] for i in (17, -1)
    ]
    with pytest.raises(IndexError, match="sample 360 of a data set of 360"):
        dataset[360]


@pytest.mark.parametrize("method", [None, *METHODS])
def test_shards_in_workers(cache: Cache, shards: str, method: str | None) -> None:
    dataset = ShardDataset([shards, "s3://torch-shards/empty.tar"], cache=cache)
    assert len(pickle.dumps(dataset)) < 3000
    samples = load(dataset, method)
    assert sorted(samples, key=str) == sorted(samples_in("torch-shards", range(12)) * 2, key=str)
    assert cache.status()["direct_bytes"] == 0
    wait_for(lambda: cache.status()["clients"] == 1)


def test_each_shard_is_fetched_once(cache: Cache, shards: str) -> None:
    dataset = ShardDataset(shards, cache=cache)
    list(dataset)
    status = cache.status()
    stored = sum(cache.resident([f"s3://torch-shards/train-{n:02d}.tar" for n in range(12)]))
    assert status["store_bytes"] == stored
    before = status["store_requests"]
    list(ShardDataset(shards, cache=cache))
    assert cache.status()["store_requests"] == before


def test_in_a_cache_that_is_too_small(s3: SeaweedS3, shards: str, tmp_path: Path) -> None:
    with ioaccel.connect(tmp_path / "small", "2MB", s3.storage_options) as cache:
        assert list(ShardDataset(shards, cache=cache)) == samples_in("torch-shards", range(12))


def test_only_a_changed_shard_is_indexed_anew(s3: SeaweedS3, bucket: str, tmp_path: Path) -> None:
    urls = f"s3://{bucket}/train-{{00..03}}.tar"
    s3.put_many(bucket, ((f"train-{n:02d}.tar", shard_of(bucket, n)) for n in range(4)))
    with ioaccel.connect(tmp_path / "cache", "100MB", s3.storage_options) as cache:
        old = ShardDataset(urls, cache=cache)
        assert list(old) == samples_in(bucket, range(4))
        packed = pickle.dumps(old)
        s3.put(bucket, "train-01.tar", shard_of(bucket, 1, 20))
        with ioaccel.connect(tmp_path / "cache", storage_options=s3.storage_options) as later:
            before = later.status()["store_bytes"]
            for name in ("00", "02", "03"):
                later.evict(f"s3://{bucket}/train-{name}.tar")
            new = ShardDataset(urls, cache=later)
            expected = samples_in(bucket, range(4))
            assert len(new) == 110
            assert later.status()["store_bytes"] - before == len(shard_of(bucket, 1, 20))
            assert list(new) == expected[:50] + expected[60:]
            # A data set of the old shards says so, where it is asked for what is gone; here and in a worker.
            copy = pickle.loads(packed)
            for dataset in (old, copy):
                assert len(dataset) == 120
                assert dataset[0] == expected[0]
                with pytest.raises(ObjectChangedError, match=r"train-01\.tar"):
                    dataset[35]
            copy.cache.close()
    assert len(list((tmp_path / "cache/indexes").iterdir())) == 2


def test_shards_that_cannot_be_read(cache: Cache, s3: SeaweedS3, bucket: str) -> None:
    import gzip

    good = shard_of(bucket, 0)
    s3.put(bucket, "good.tar", good)
    s3.put(bucket, "a.tar.gz", gzip.compress(good))
    s3.put(bucket, "cut.tar", good[: len(good) // 2 + 100])
    s3.put(bucket, "page.tar", b"<html>" * 1000)
    s3.put(bucket, "empty.tar", tar([]))
    for name, why in (("a.tar.gz", "gzip"), ("cut.tar", "truncated"), ("page.tar", "no tar archive")):
        with pytest.raises(FormatError, match=f"s3://{bucket}/{name} .*{why}"):
            ShardDataset([f"s3://{bucket}/good.tar", f"s3://{bucket}/{name}"], cache=cache)
    with pytest.raises(FormatError, match="no sample in 1 shards"):
        ShardDataset(f"s3://{bucket}/empty.tar", cache=cache)
    with pytest.raises(ObjectNotFoundError, match=r"none-1\.tar"):
        ShardDataset([f"s3://{bucket}/good.tar", f"s3://{bucket}/none-{{1..1}}.tar"], cache=cache)
    with pytest.raises(UnsupportedURLError):
        ShardDataset(f"s3://{bucket}/", cache=cache)
    with pytest.raises(ConfigError, match="empty"):
        ShardDataset([], cache=cache)


def test_without_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "0.tar"
    path.write_bytes(tar([(f"{n}.cls", b"%d" % n) for n in range(9)]))
    with ioaccel.connect(tmp_path / "cache", "10MB") as cache:
        dataset = ShardDataset(str(path), cache=cache)
        monkeypatch.setattr(cache._reader, "_current", lambda: None)
        monkeypatch.setattr(cache._reader, "_view", None)
        assert [sample["cls"] for sample in dataset.__getitems__([3, 8])] == [b"3", b"8"]
        path.write_bytes(tar([(f"{n}.txt", b"%d" % (7 * n)) for n in range(12)]))
        with pytest.raises(ObjectChangedError, match=r"0\.tar"):
            dataset.__getitems__([3, 8])
        monkeypatch.undo()


def test_samples_larger_than_an_answer(tmp_path: Path) -> None:
    files = {f"{n}.bin": payload(str(n), 9 << 20) for n in range(10)}
    (tmp_path / "0.tar").write_bytes(tar(list(files.items())))
    with ioaccel.connect(tmp_path / "cache", "16MB") as cache:  # most of it passes through
        dataset = ShardDataset(str(tmp_path / "0.tar"), cache=cache)
        for sample in dataset.__getitems__(range(10)):
            assert sample["bin"] == files[sample["__key__"] + ".bin"]


def test_local_directories_and_shards(tmp_path: Path) -> None:
    with ioaccel.connect(tmp_path / "cache", "10MB") as cache:
        (tmp_path / "data").mkdir()
        for n in range(3):
            (tmp_path / f"data/{n}.tar").write_bytes(tar([(f"{n}.cls", b"%d" % n)]))
        shards = ShardDataset(f"{tmp_path}/data/{{0..2}}.tar", cache=cache)
        assert [sample["cls"] for sample in shards] == [b"0", b"1", b"2"]
        objects = ObjectDataset(f"{tmp_path}/data", len, cache=cache)
        assert list(objects) == [10240] * 3


def test_the_default_cache(
    s3: SeaweedS3, data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOACCEL_CACHE_DIR", str(tmp_path / "default"))
    monkeypatch.setenv("IOACCEL_CACHE_SIZE", "10MB")
    for name, value in (
        ("ACCESS_KEY_ID", s3.key),
        ("SECRET_ACCESS_KEY", s3.secret),
        ("ENDPOINT_URL", s3.endpoint),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(default, "_cache", None)
    dataset = ObjectDataset("s3://torch-native/train/")
    with default.default_cache() as cache:
        assert cache.directories == (str(tmp_path / "default"),)
        for method in METHODS:
            assert sorted(load(dataset, method, 1)) == sorted(data.data(k) for k in dataset.keys.to_pylist())
        assert cache.status()["direct_bytes"] == 0
