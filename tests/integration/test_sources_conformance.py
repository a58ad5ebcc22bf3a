"""What every source must do, whatever it reads from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from ioaccel.errors import ObjectChangedError, ObjectNotFoundError, RangeError
from ioaccel.sources import ObjectInfo, Source, open_source, resolve, split_object_url
from ioaccel.testing.seaweed import SeaweedS3

DATA = bytes(range(256)) * 40
ODD_NAMES = [
    "a b",
    "a%20b",
    "a%b",
    "a+b",
    "é/ü.txt",
    "日本/画像 1.jpg",
    "q?x=1",
    "h#h",
    "a&b=c",
    "star*",
    "~t",
    "br[ack]et",
    "{c}",
    'quote"',
    "..hidden",
    "%",
]


@dataclass
class Place:
    """A source, how to write to what it reads, and where its keys begin."""

    source: Source
    put: Callable[[str, bytes], object]
    root: str

    def write(self, name: str, data: bytes = DATA) -> str:
        """Store an object and return its key."""
        key = self.root + name
        self.put(key, data)
        return key

    def names(self, infos: list[ObjectInfo]) -> list[str]:
        return [info.key.removeprefix(self.root) for info in infos]

    def listed(self, prefix: str, after: str | None = None) -> list[str]:
        pages = self.source.list(self.root + prefix, None if after is None else self.root + after)
        return self.names([info for page in pages for info in page])


def write_file(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def write_memory(path: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(path, data)


@pytest.fixture(scope="module")
def bucket(s3: SeaweedS3) -> str:  # one for all: the first object of a bucket takes 0.2 s
    s3.create_bucket("conformance")
    return "conformance"


@pytest.fixture(params=["s3", "local", "fsspec-memory", "fsspec-local", "fsspec-s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    kind = request.param
    if kind in ("s3", "fsspec-s3"):
        server: SeaweedS3 = request.getfixturevalue("s3")
        bucket: str = request.getfixturevalue("bucket")
        root = f"{tmp_path.name}/"
        if kind == "s3":
            source = open_source(resolve("s3", server.storage_options), bucket)
            yield Place(source, lambda key, data: server.put(bucket, key, data), root)
        else:
            from ioaccel.sources.filesystem import FilesystemSource

            put = lambda key, data: server.put(bucket, key.removeprefix(f"{bucket}/"), data)  # noqa: E731
            yield Place(FilesystemSource("s3", server.storage_options), put, f"{bucket}/{root}")
    elif kind == "local":
        yield Place(open_source(resolve("file"), ""), write_file, f"{tmp_path}/")
    elif kind == "fsspec-memory":
        yield Place(open_source(resolve("memory"), ""), write_memory, f"{tmp_path.name}/")
        fsspec.filesystem("memory").rm(tmp_path.name, recursive=True)
    else:
        from ioaccel.sources.filesystem import FilesystemSource

        yield Place(FilesystemSource("file", {}), write_file, f"{tmp_path}/")


class TestEverySource:
    def test_stat(self, place: Place) -> None:
        key = place.write("x")
        info = place.source.stat(key)
        assert (info.key, info.size) == (key, len(DATA))
        assert info.version
        assert asyncio.run(place.source.astat(key)) == info
        assert place.source.stat(key) == info

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1), (0, 10**9), (100, 10_000), (len(DATA) - 1, len(DATA)), (7, 7), (0, 0)]
    )
    def test_get(self, place: Place, start: int, stop: int) -> None:
        key = place.write("x")
        info = place.source.stat(key)
        for version in (None, info.version):
            fetched = place.source.get(key, start, stop, version)
            assert (fetched.info, fetched.start, bytes(fetched.data)) == (info, start, DATA[start:stop])
            again = asyncio.run(place.source.aget(key, start, stop, version))
            assert (again.info, again.start, bytes(again.data)) == (info, start, DATA[start:stop])

    @pytest.mark.parametrize(
        ("start", "stop"), [(len(DATA), len(DATA) + 1), (10**9, 2 * 10**9), (-1, 3), (5, 4)]
    )
    def test_ranges_outside_the_object(self, place: Place, start: int, stop: int) -> None:
        key = place.write("x")
        with pytest.raises(RangeError) as caught:
            place.source.get(key, start, stop)
        assert caught.value.range == (start, stop)
        assert caught.value.url == place.source.url(key)
        with pytest.raises(RangeError):
            asyncio.run(place.source.aget(key, start, stop))

    def test_an_empty_object(self, place: Place) -> None:
        key = place.write("empty", b"")
        fetched = place.source.get(key, 0, 100)
        assert (fetched.info.size, len(fetched.data)) == (0, 0)
        assert len(asyncio.run(place.source.aget(key, 0, 100, fetched.info.version)).data) == 0
        with pytest.raises(RangeError):
            place.source.get(key, 1, 2)

    def test_what_does_not_exist(self, place: Place) -> None:
        place.write("x")
        for missing in ("nothing", "no/where", "x/y"):
            key = place.root + missing
            for ask in (
                lambda key=key: place.source.stat(key),
                lambda key=key: place.source.get(key, 0, 10),
                lambda key=key: asyncio.run(place.source.astat(key)),
                lambda key=key: asyncio.run(place.source.aget(key, 0, 10)),
            ):
                with pytest.raises(ObjectNotFoundError) as caught:
                    ask()
                assert caught.value.url == place.source.url(key)
                assert place.source.url(key) in str(caught.value)

    def test_a_changed_object_is_noticed(self, place: Place) -> None:
        key = place.write("x")
        version = place.source.stat(key).version
        assert place.listed("") == ["x"]
        place.write("x", DATA[::-1] + b"longer")
        for start, stop in ((0, 100), (5, 5)):
            with pytest.raises(ObjectChangedError) as caught:
                place.source.get(key, start, stop, version)
            assert caught.value.url == place.source.url(key)
            with pytest.raises(ObjectChangedError):
                asyncio.run(place.source.aget(key, start, stop, version))
        assert bytes(place.source.get(key, 0, 4).data) == DATA[::-1][:4]

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names(self, place: Place, name: str) -> None:
        key = place.write(name, name.encode())
        assert place.source.stat(key).key == key
        assert bytes(place.source.get(key, 0, 100).data) == name.encode()
        assert place.listed("") == [name]
        url = place.source.url(key)
        assert split_object_url(url)[2] == key or url.startswith("s3://")

    def test_list(self, place: Place) -> None:
        names = sorted(
            ["train/n01/a", "train/n01/b/c", "train/n01.txt", "train/n012/a", "train/n02/a", "train/é"]
        )
        for name in names:
            place.write(name, name.encode())
        assert sorted(place.listed("")) == names  # SeaweedFS walks directory by directory
        assert place.listed("train") == place.listed("train/") == place.listed("")
        assert place.listed("train/n01") == place.listed("train/n01/") == ["train/n01/a", "train/n01/b/c"]
        assert place.listed("train/n01/a") == ["train/n01/a"]
        assert place.listed("train/n0") == []
        assert place.listed("nothing") == []
        assert place.listed("train/n01/a", after="train/n01/a") == []
        for page in place.source.list(place.root + "train"):
            for info in page:
                assert place.source.stat(info.key) == info

    def test_list_after(self, place: Place) -> None:
        names = sorted(["t/a", "t/b/1", "t/b/2", "t/b/3/x", "t/c", "t/é/1"])
        for name in names:
            place.write(name)
        assert place.listed("t") == names
        for number, name in enumerate(names):
            assert place.listed("t", after=name) == names[number + 1 :]
        assert place.listed("t", after="t/b/11") == names[2:]
        assert place.listed("t/b", after="t/a") == names[1:4]
        assert place.listed("t/b", after="t/c") == []

    def test_list_dir(self, place: Place) -> None:
        for name in ("t/b/1", "t/a/1", "t/a/b/2", "t/z", "t/m", "other"):
            place.write(name)
        for prefix in ("t", "t/"):
            directories, files = place.source.list_dir(place.root + prefix)
            assert directories == [place.root + "t/a", place.root + "t/b"]
            assert place.names(files) == ["t/m", "t/z"]
            assert files == [place.source.stat(info.key) for info in files]
        assert place.names(place.source.list_dir(place.root + "t/z")[1]) == ["t/z"]
        assert place.source.list_dir(place.root + "nothing") == ([], [])

    def test_many_threads(self, place: Place) -> None:
        keys = [place.write(f"many/{number}", str(number).encode() * 100) for number in range(50)]

        def read(number: int) -> None:
            expected = str(number).encode() * 100
            assert bytes(place.source.get(keys[number], 0, 10**6).data) == expected

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(read, list(range(50)) * 4))
