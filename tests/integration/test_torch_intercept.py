"""What a sample reads, in whatever way, comes from the cache; what that cannot serve is done as before."""

# Files are opened in each way that there is, wrong ones among them.
# ruff: noqa: SIM115, PLW1501

from __future__ import annotations

import gzip
import io
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from support import DataSet, payload
from support import torch_data as td
from torch.utils.data import DataLoader

import ioaccel
from ioaccel import Cache
from ioaccel.testing.countproxy import CountingProxy
from ioaccel.testing.seaweed import SeaweedS3
from ioaccel.torch import accelerate

BUCKET = "torch-intercept"
SIZES = [0, 1, 70_000, (4 << 20) + 500_000]

Options = dict[str, Any]


@pytest.fixture(scope="module")
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def options(s3: SeaweedS3, proxy: CountingProxy) -> Options:
    s3.create_bucket(BUCKET)
    return s3.storage_options | {"endpoint_url": proxy.endpoint}


@pytest.fixture(scope="module")
def cache(options: Options, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    """Its own credentials are wrong: data sets have theirs."""
    directory = tmp_path_factory.mktemp("cache")
    with ioaccel.connect(directory, "200MB", {"s3": {"key": "x", "secret": "y"}}) as cache:
        yield cache


@pytest.fixture
def data(s3: SeaweedS3, options: Options, request: pytest.FixtureRequest) -> DataSet:
    return DataSet.fill(s3, BUCKET, SIZES, f"{request.node.name}/".replace("[", "-").replace("]", ""))


def read_all(dataset: Any) -> dict[int, bytes]:
    return {index: sample for batch in DataLoader(dataset, 3, collate_fn=td.as_is) for index, sample in batch}


def expected(data: DataSet) -> dict[int, bytes]:
    return dict(enumerate(map(data.data, data.urls)))


# ---- stores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", sorted(td.WAYS))
def test_every_way_of_fsspec(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy, how: str
) -> None:
    dataset = accelerate(td.Objects(data.urls, options, how), cache=cache)
    proxy.reset()
    assert read_all(dataset) == expected(data)
    fetched = proxy.reset().requests
    assert read_all(dataset) == expected(data)
    again = proxy.reset().requests
    assert again.total() == 0, again
    assert fetched.total() <= len(SIZES) + 2, fetched  # the last object has two blocks


@pytest.mark.parametrize("how", ["read", "read_many", "open"])
def test_ioaccel_itself(
    data: DataSet, options: Options, proxy: CountingProxy, tmp_path: Path, how: str
) -> None:
    with ioaccel.connect(tmp_path, "20MB", options) as own:
        loader = accelerate(
            DataLoader(td.CacheObjects(own, data.urls, how), 2, collate_fn=td.as_is), cache=own
        )
        for _ in range(2):
            proxy.reset()
            assert dict(sample for batch in loader for sample in batch) == expected(data)
        assert proxy.reset().requests.total() == 0
        assert "recorded in an earlier epoch" in str(loader.explain())  # type: ignore[attr-defined]


def test_http(s3: SeaweedS3, cache: Cache, tmp_path: Path) -> None:
    """A plain web server, through fsspec's file system for it."""
    import functools
    import http.server
    import threading

    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            asked.append(self.path)

    (tmp_path / "a").write_bytes(payload("a", 50_000))
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a"
        dataset = accelerate(td.Objects([url], {}), cache=cache)
        assert dataset[0] == (0, payload("a", 50_000))
        asked.clear()
        assert dataset[0] == (0, payload("a", 50_000))
        assert asked == []
        server.shutdown()


def test_compression(cache: Cache, s3: SeaweedS3, options: Options, proxy: CountingProxy) -> None:
    s3.put(BUCKET, "packed/a.gz", gzip.compress(b"unpacked " * 1000))

    class Packed(td.Objects):
        def __getitem__(self, index: int) -> Any:
            url = self.names_of_objects[index]
            fs = fsspec.filesystem("s3", **self.options)
            with (
                fsspec.open(url, compression="gzip", **self.options) as one,
                fsspec.open(url, compression="infer", **self.options) as two,
                fsspec.open(url, "rt", compression="infer", encoding="ascii", **self.options) as three,
                fs.open(url, compression="infer") as four,
            ):
                return one.read(), two.read(), three.read().encode(), four.read()

    dataset = accelerate(Packed([f"s3://{BUCKET}/packed/a.gz"], options), cache=cache)
    assert set(dataset[0]) == {b"unpacked " * 1000}
    proxy.reset()
    assert set(dataset[0]) == {b"unpacked " * 1000}
    assert proxy.reset().requests.total() == 0


def test_chained_urls_are_left_alone(cache: Cache, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("in.txt", b"inside")

    class Chained(td.Objects):
        def __getitem__(self, index: int) -> Any:
            with fsspec.open(self.names_of_objects[index]) as file:
                return file.read()

    assert accelerate(Chained([f"zip://in.txt::file://{tmp_path}/a.zip"], {}), cache=cache)[0] == b"inside"


def test_outside_a_sample_nothing_is_changed(
    cache: Cache, data: DataSet, options: Options, proxy: CountingProxy
) -> None:
    dataset = accelerate(td.Objects(data.urls, options), cache=cache)
    dataset[2]
    proxy.reset()
    fs = fsspec.filesystem("s3", **options)
    assert fs.cat_file(data.urls[2]) == data.data(data.urls[2])
    with fsspec.open(data.urls[2], **options) as file:
        assert type(file).__module__ == "s3fs.core"
        assert file.read() == data.data(data.urls[2])
    assert proxy.reset().requests["GET"] >= 2


@pytest.mark.parametrize("how", ["fsspec", "cat"])
@pytest.mark.parametrize("what", ["missing", "credentials", "bucket"])
def test_errors_are_those_of_the_plain_data_set(
    cache: Cache, data: DataSet, options: Options, how: str, what: str
) -> None:
    url = {"missing": f"{data.urls[1]}-not", "bucket": "s3://no-such-bucket-ever/a"}.get(what, data.urls[1])
    if what == "credentials":
        options = options | {"secret": "wrong"}
    plain = td.Fails(how, 0, options, url)
    with pytest.raises(OSError) as raised:  # noqa: PT011  # whatever it is
        plain[0]
    with pytest.raises(type(raised.value)) as again:
        accelerate(plain, cache=cache)[0]
    assert type(again.value) is type(raised.value)
    assert str(again.value) == str(raised.value)


def test_a_thread_pool_in_a_sample(cache: Cache, data: DataSet, options: Options) -> None:
    class Pooled(td.Objects):
        def __getitem__(self, index: int) -> Any:
            with ThreadPoolExecutor(4) as pool:
                return list(pool.map(super().__getitem__, range(len(self))))

    assert dict(accelerate(Pooled(data.urls, options), cache=cache)[0]) == expected(data)


def test_many_threads_read_one_data_set(cache: Cache, data: DataSet, options: Options) -> None:
    dataset = accelerate(td.Objects(data.urls, options), cache=cache)
    with ThreadPoolExecutor(8) as pool:
        assert dict(pool.map(dataset.__getitem__, [0, 1, 2, 3] * 10)) == expected(data)


def test_a_file_that_outlives_its_sample(cache: Cache, data: DataSet, options: Options) -> None:
    class Opens(td.Objects):
        def __getitem__(self, index: int) -> Any:
            return fsspec.filesystem("s3", **self.options).open(self.names_of_objects[index])

    dataset = accelerate(Opens(data.urls, options), cache=cache)
    for index, url in enumerate(data.urls):
        with dataset[index] as file:
            copy = pickle.loads(pickle.dumps(file)) if index < 3 else file
            assert copy.read() == data.data(url)


def test_writing_in_a_sample(cache: Cache, s3: SeaweedS3, options: Options) -> None:
    class Writes(td.Objects):
        def __getitem__(self, index: int) -> Any:
            with fsspec.open(self.names_of_objects[index], "wb", **self.options) as file:
                file.write(b"written")
            return fsspec.filesystem("s3", **self.options).cat_file(self.names_of_objects[index])

    options = options | s3.storage_options  # the proxy does not know "Expect: 100-continue"
    assert accelerate(Writes([f"s3://{BUCKET}/written"], options), cache=cache)[0] == b"written"


def test_a_cache_that_was_closed(data: DataSet, options: Options, tmp_path: Path) -> None:
    with ioaccel.connect(tmp_path, "20MB", options) as own:
        loader = accelerate(DataLoader(td.Objects(data.urls, options), 2, collate_fn=td.as_is), cache=own)
    for _ in range(2):
        assert dict(sample for batch in loader for sample in batch) == expected(data)
    assert "closed" in str(loader.explain()) or loader.explain()  # type: ignore[attr-defined]


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "small").write_bytes(payload("small", 50_000))
    (folder / "large").write_bytes(payload("large", 5 << 20))
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_bytes("first äöü\r\nsecond\nthird".encode())
    (folder / "latin").write_bytes("äöü".encode("latin-1"))
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(25, 40, 3)).save(folder / "image.png")
    np.save(folder / "array.npy", np.arange(1000))
    np.save(folder / "large.npy", np.arange(1_000_000))
    np.savez(folder / "arrays.npz", a=np.arange(10), b=np.eye(3))
    torch.save({"weights": torch.arange(20)}, folder / "tensors.pt")
    return folder


def at_first(path: Path) -> Any:
    with open(path, "rb") as file:
        return file.read(7), file.tell(), file.seek(-3, io.SEEK_END), file.read(), file.seek(2), file.read(1)


def into(path: Path) -> Any:
    target = bytearray(12)
    with open(path, "rb") as file:
        return file.readinto(target), bytes(target), file.name, file.mode, file.readable(), file.closed


def lines(path: Path) -> Any:
    with open(path, "rb") as binary, open(path, encoding="utf-8") as text, open(path, newline="") as raw:
        return list(binary), list(text), text.mode, text.encoding, raw.read()


def mapped(path: Path) -> Any:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view[:10], view[-10:], os.fstat(file.fileno()).st_size


def of_numpy(path: Path) -> Any:
    return np.load(path.with_name("array.npy")).sum(), np.load(path.with_name("large.npy"))[-5:].tolist()


def mapped_by_numpy(path: Path) -> Any:
    array = np.load(path.with_name("large.npy"), mmap_mode="r")
    return type(array).__name__, int(array[17])


def archive(path: Path) -> Any:
    with np.load(path.with_name("arrays.npz")) as file:
        return sorted(file.files), file["b"].tolist()


def image(path: Path) -> Any:
    with Image.open(path.with_name("image.png")) as opened:
        return opened.size, opened.convert("RGB").tobytes()


def raised(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  # compared
        return type(error), getattr(error, "errno", None)


def before_its_beginning(path: Path) -> Any:
    with open(path, "rb") as file:
        return [raised(lambda a=a: file.seek(*a)) for a in ((-1,), (-(10**9), 1), (-(10**9), 2), (0, 9))]


def after_its_end(path: Path) -> Any:
    file = open(path, "rb")  # closed by hand
    file.close()
    calls = (file.read, file.readline, lambda: file.seek(0), file.tell, file.fileno, lambda: file.write(b"a"))
    return [raised(call) for call in calls]


def refused(path: Path) -> Any:
    with open(path, "rb") as file:
        return [raised(lambda: file.write(b"a")), raised(lambda: file.truncate(0)), file.peek(1)[:1]]


def wrong(path: Path) -> Any:
    calls: list[Callable[[], Any]] = [
        lambda: open(path.with_name("none"), "rb"),
        lambda: open(path.with_name("none")),
        lambda: open(path.parent, "rb"),
        lambda: open(path, "zz"),
        lambda: open(path, "rb", encoding="utf-8"),
        lambda: open(path, encoding="no such"),
        lambda: open(path, newline="x"),
        lambda: open(path, "xb"),
        lambda: open(None),  # type: ignore[call-overload]
        lambda: open(path.with_name("latin"), encoding="utf-8").read(),
    ]
    return [raised(call) for call in calls]


def written(path: Path) -> Any:
    other = path.with_name(f"{path.name}-written")
    with open(other, "wb") as file:
        file.write(b"one")
    with open(other, "ab") as file:
        file.write(b"two")
    with open(other, "r+b") as file:
        file.seek(1)
        file.write(b"X")
    return other.stat().st_size


def described(path: Path) -> Any:
    fd = os.open(path, os.O_RDONLY)
    with open(fd, "rb") as file:
        return file.read(5)


SEEN: dict[str, Callable[[Path], Any]] = {
    "open": td.read_bytes,
    "a string": lambda path: td.read_bytes(str(path)),
    "bytes": lambda path: td.read_bytes(os.fsencode(path)),
    "read_bytes": lambda path: path.read_bytes(),
    "io.open": lambda path: io.open(path, "rb").read(),  # noqa: UP020
    "unbuffered": lambda path: open(path, "rb", buffering=0).read(),
    "text": lambda path: path.with_name("text").read_text("utf-8"),
    "latin": lambda path: path.with_name("latin").read_text("latin-1"),
    "errors": lambda path: open(path.with_name("latin"), encoding="ascii", errors="replace").read(),
    "empty": lambda path: td.read_bytes(path.with_name("empty")),
    "lines": lambda path: lines(path.with_name("text")),
    "roundabout": lambda path: td.read_bytes(path.parent / ".." / path.parent.name / path.name),
    "relative": lambda path: td.read_bytes(os.path.relpath(path)),
    "its name": lambda path: open(os.path.relpath(path), "rb").name,
    "torch": lambda path: torch.load(path.with_name("tensors.pt"), weights_only=True)["weights"].tolist(),
    "at first": at_first,
    "into": into,
    "mapped": mapped,
    "numpy": of_numpy,
    "mapped by numpy": mapped_by_numpy,
    "archive": archive,
    "image": image,
    "before its beginning": before_its_beginning,
    "after its end": after_its_end,
    "refused": refused,
    "wrong": wrong,
    "written": written,
    "described": described,
}


@pytest.fixture(scope="module")
def files_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with ioaccel.connect(tmp_path_factory.mktemp("files"), "100MB") as cache:
        yield cache


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("how", sorted(SEEN))
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # files that plain open() leaves to the collector
def test_files_below_paths(files_cache: Cache, folder: Path, name: str, how: str) -> None:
    plain = td.Files([folder / name], SEEN[how])
    before = plain[0]
    (folder / f"{name}-written").unlink(missing_ok=True)
    dataset = accelerate(plain, cache=files_cache, paths=[folder])
    assert dataset[0] == before
    assert dataset[0] == before
    assert open is io.open


# Ways whose bytes are proved to come from the cache: the file is changed behind its back.
CACHED = ["open", "read_bytes", "io.open", "at first", "into", "image", "archive", "torch", "text"]


@pytest.mark.parametrize("how", CACHED)
def test_files_are_read_once(files_cache: Cache, folder: Path, how: str) -> None:
    dataset = accelerate(td.Files([folder / "small"], SEEN[how]), cache=files_cache, paths=[str(folder)])
    before = dataset[0]
    for path in folder.iterdir():
        path.write_bytes(b"changed")
    assert dataset[0] == before
    assert (folder / "small").read_bytes() == b"changed"
    elsewhere = folder.parent / "no"
    elsewhere.mkdir()
    other = accelerate(td.Files([folder / "small"], td.read_bytes), cache=files_cache, paths=[elsewhere])
    assert other[0] == (0, b"changed")
