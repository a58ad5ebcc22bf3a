"""Cache directories in every bad state: the job reads the right bytes, or is told at once what to do."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import resource
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import DataSet, gone, kill_engine, stop_engine, wait_for

import ioaccel
from ioaccel import Cache, CacheBusyError, CacheDirectoryError, CacheFormatError, ConfigError
from ioaccel.testing.seaweed import SeaweedS3

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-directories")
    return DataSet.fill(s3, "cache-directories", [100 * KIB] * 60 + [5 * MIB, 0])


def assert_right(cache: Cache, data: DataSet) -> None:
    for url, view in zip(data.urls, cache.read_many(data.urls), strict=True):
        assert bytes(view) == data.data(url), url


@contextlib.contextmanager
def mounted(directory: Path, size: int, *options: str) -> Iterator[Path]:
    """A tmpfs of ``size`` bytes."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    directory.mkdir(parents=True)
    settings = ",".join([f"size={size}", *options])
    if run("mount", "-t", "tmpfs", "-o", settings, "tmpfs", directory) != 0:
        pytest.skip("cannot mount here")
    try:
        yield directory
    finally:
        wait_for(lambda: run("umount", directory) == 0)


def run(*command: str | Path) -> int:
    """The exit status of a command."""
    return subprocess.run(command, check=False, capture_output=True).returncode


class TestMade:
    def test_a_directory_that_is_missing_is_made(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        directory = tmp_path / "some where" / "d\N{LATIN SMALL LETTER I WITH CIRCUMFLEX}r" / ("x" * 200)
        with ioaccel.connect(directory, "10MB", s3.storage_options) as cache:
            assert_right(cache, data)
        assert "shard.data" in os.listdir(directory)

    def test_a_symlink_is_the_directory_it_points_to(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        with (
            ioaccel.connect(tmp_path / "real", "10MB") as one,
            ioaccel.connect(tmp_path / "link") as other,
        ):
            assert one.status()["engine_pid"] == other.status()["engine_pid"]

    @pytest.mark.parametrize(
        "size", ["", "0", -5, "ten", "10XB", float("nan"), "1e9", True, [1, 2], []], ids=repr
    )
    def test_a_size_that_makes_no_sense(self, tmp_path: Path, size: object) -> None:
        with pytest.raises(ConfigError, match="cache_size"):
            ioaccel.connect(tmp_path / "cache", size)  # type: ignore[arg-type]
        assert not (tmp_path / "cache").exists()

    def test_a_size_that_no_disk_has(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="more than the"):
            ioaccel.connect(tmp_path / "cache", "900TB")

    def test_a_size_that_does_not_count_is_said_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ioaccel.client.cache._warned_of_another_size", False)
        with ioaccel.connect(tmp_path, "10MB") as cache:
            with ioaccel.connect(tmp_path, "10MB"), ioaccel.connect(tmp_path):
                pass
            with pytest.warns(UserWarning, match=r"with 0\.01 GB, .* 0\.02 GB .*engine \d+") as caught:
                ioaccel.connect(tmp_path, "20MB").close()
            assert [Path(warning.filename) for warning in caught] == [Path(__file__)]
            ioaccel.connect(tmp_path, "20MB").close()
            assert cache.status()["capacity_bytes"] == 10_000_000

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"cache_dir": 5}, "cache_dir is a path"),
            ({"cache_dir": []}, "cache_dir is a path"),
            ({"cache_size": 1j}, "cache_size is a positive size"),
            ({"storage_options": 5}, "storage_options is a dictionary"),
            ({"timeout": "long"}, "timeout is a positive number"),
        ],
        ids=str,
    )
    def test_arguments_of_another_type(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            ioaccel.connect(**given)

    @pytest.mark.parametrize("size", [1, "64KiB"])
    def test_a_size_that_is_tiny(self, s3: SeaweedS3, tmp_path: Path, data: DataSet, size: object) -> None:
        with ioaccel.connect(tmp_path, size, s3.storage_options) as cache:  # type: ignore[arg-type]
            assert_right(cache, data)
            assert cache.status()["cached_bytes"] == 0


class TestRefused:
    def test_a_file_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(CacheDirectoryError, match="not a directory") as caught:
                ioaccel.connect(path, "10MB")
            assert caught.value.url == str(path)

    def test_a_read_only_file_system(self, tmp_path: Path) -> None:
        with (
            mounted(tmp_path / "disk", MIB, "ro") as disk,
            pytest.raises(CacheDirectoryError, match="read-only") as caught,
        ):
            ioaccel.connect(disk / "cache", 1000)
        assert caught.value.url == str(disk / "cache")

    def test_a_newer_format(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
            assert_right(cache, data)
            stop_engine(cache)
        with open(tmp_path / "shard.data", "r+b") as file:
            file.seek(8)
            file.write(struct.pack("<I", 999))
        before = (tmp_path / "shard.data").stat()
        with pytest.raises(CacheFormatError, match="newer ioaccel"):
            ioaccel.connect(tmp_path, "10MB", s3.storage_options)
        after = (tmp_path / "shard.data").stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)

    def test_somebody_elses_file(self, tmp_path: Path) -> None:
        (tmp_path / "shard.data").write_bytes(b"my thesis " * 1000)
        with pytest.raises(CacheFormatError, match="not a shard of ioaccel"):
            ioaccel.connect(tmp_path, "10MB")
        assert (tmp_path / "shard.data").read_bytes() == b"my thesis " * 1000

    def test_a_directory_that_another_engine_serves_with_others(self, tmp_path: Path) -> None:
        a, b, c = (tmp_path / name for name in "abc")
        with ioaccel.connect([a, b], "10MB"):
            for directories in (a, b, [a, c], [b, c], [a, b, c]):
                with pytest.raises(CacheBusyError, match="exactly those directories"):
                    ioaccel.connect(directories, "10MB")
            with ioaccel.connect([b, a]):
                pass


class TestInUse:
    def test_a_lock_whose_holder_has_not_yet_said_what_it_serves(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet
    ) -> None:
        with open(tmp_path / "engine.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            timer = threading.Timer(0.7, lambda: fcntl.flock(lock, fcntl.LOCK_UN))
            timer.start()
            with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
                assert_right(cache, data)
            timer.join()

    def test_an_engine_that_hangs_up(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        path = tmp_path / "engine.sock"

        def leave(listener: socket.socket) -> None:
            with listener:
                listener.accept()[0].close()
                path.unlink()

        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        leaving = threading.Thread(target=leave, args=(listener,))
        leaving.start()
        with ioaccel.connect(tmp_path, "10MB", s3.storage_options) as cache:
            assert_right(cache, data)
        leaving.join()

    def test_a_size_for_a_running_engine_is_ignored_and_heeded_by_the_next(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ioaccel.client.cache._warned_of_another_size", True)
        with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)
            with ioaccel.connect(tmp_path, "5MB", s3.storage_options) as other:
                assert other.status()["capacity_bytes"] == 20_000_000
            stop_engine(cache)
        for size, capacity in (("5MB", 5_000_000), (None, 5_000_000), ("30MB", 30_000_000)):
            with ioaccel.connect(tmp_path, size, s3.storage_options) as cache:
                assert cache.status()["capacity_bytes"] == capacity
                assert_right(cache, data)
                stop_engine(cache)


class TestDamaged:
    @pytest.fixture
    def stopped(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> Path:
        """A cache that holds all the data and that no engine serves."""
        with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)
            stop_engine(cache)
        return tmp_path

    @pytest.mark.parametrize("seed", range(2))
    def test_garbage_in_the_data(self, s3: SeaweedS3, stopped: Path, data: DataSet, seed: int) -> None:
        draw = random.Random(seed)
        size = (stopped / "shard.data").stat().st_size
        with open(stopped / "shard.data", "r+b") as file:
            for _ in range(200):
                file.seek(draw.randrange(64 * KIB, size))
                file.write(draw.randbytes(draw.choice([1, 8, 4096])))
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            recovered = cache.status()["recovered_blocks"]
            assert_right(cache, data)
            status = cache.status()
            assert status["corrupt_blocks"] > 0 or recovered < 50
            assert status["store_bytes"] > 0
            assert_right(cache, data)
            assert cache.status()["store_bytes"] == status["store_bytes"]
            assert cache.verify().corrupt == []
            kill_engine(cache)
            assert_right(cache, data)
            assert cache.status()["corrupt_blocks"] == 0

    def test_one_flipped_bit_costs_one_block(self, s3: SeaweedS3, stopped: Path, data: DataSet) -> None:
        url = data.urls[17]
        content = (stopped / "shard.data").read_bytes()
        at = content.index(data.data(url)[:1000]) + 70_000
        with open(stopped / "shard.data", "r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ 4]))
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            assert cache.read(url) == data.data(url)
            assert_right(cache, data)
            assert cache.status()["corrupt_blocks"] == 1
            assert cache.status()["store_bytes"] == 100 * KIB

    def test_verify_finds_it_first(self, s3: SeaweedS3, stopped: Path, data: DataSet) -> None:
        content = (stopped / "shard.data").read_bytes()
        with open(stopped / "shard.data", "r+b") as file:
            file.seek(content.index(data.data(data.urls[17])[:1000]))
            file.write(b"garbage")
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            result = cache.verify()
            assert result.corrupt == [data.urls[17]]
            assert cache.status()["corrupt_blocks"] == 1
            assert cache.resident(data.urls[16:19]) == [100 * KIB, 0, 100 * KIB]
            assert_right(cache, data)

    @pytest.mark.parametrize("left", [0, 64, 65536 + 5000, 9 * MIB])
    def test_the_file_was_truncated(self, s3: SeaweedS3, stopped: Path, data: DataSet, left: int) -> None:
        os.truncate(stopped / "shard.data", left)
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)
            assert cache.status()["cached_bytes"] == data.nbytes

    def test_the_superblock_is_garbage(self, s3: SeaweedS3, stopped: Path, data: DataSet) -> None:
        with open(stopped / "shard.data", "r+b") as file:
            file.seek(40)
            file.write(b"\xff" * 8)
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)

    @pytest.mark.parametrize("name", ["engine.lock", "engine.sock", "engine.log", "manifests"])
    def test_garbage_in_the_other_files(self, s3: SeaweedS3, stopped: Path, data: DataSet, name: str) -> None:
        path = stopped / name
        path.unlink(missing_ok=True)
        path.write_bytes(b"\xff\x00garbage" * 1000)
        with ioaccel.connect(stopped, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)
            assert cache.status()["recovered_blocks"] > 60
            assert len(cache.manifest(f"s3://{data.bucket}/data")) == len(data.urls)

    @pytest.mark.parametrize("garbage", [b"", b"garbage" * 1000])
    def test_garbage_in_a_manifest(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet, garbage: bytes
    ) -> None:
        url = f"s3://{data.bucket}/data"
        with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
            table = cache.manifest(url)
            [path] = (tmp_path / "manifests").iterdir()
            path.unlink()  # the table is a map of it
            path.write_bytes(garbage)
            assert cache.manifest(url).equals(table)


class TestRemoved:
    def test_the_file_while_the_engine_runs(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
            assert_right(cache, data)
            (tmp_path / "shard.data").unlink()
            assert_right(cache, data)
            kill_engine(cache)
            assert_right(cache, data)
            assert cache.status()["recovered_blocks"] == 0
            assert cache.status()["cached_bytes"] == data.nbytes

    def test_the_directory_while_the_engine_runs(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        with ioaccel.connect(tmp_path / "cache", "20MB", s3.storage_options) as cache:
            cache.read_many(data.urls[:30])
            shutil.rmtree(tmp_path / "cache")
            assert_right(cache, data)
            assert len(cache.manifest(f"s3://{data.bucket}/data")) == len(data.urls)
            kill_engine(cache)
            assert_right(cache, data)

    def test_two_engines_after_the_directory_was_removed(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet
    ) -> None:
        """The old engine lives as long as its clients; they must not mistake the new one for it."""
        directory = tmp_path / "cache"
        with ioaccel.connect(directory, "20MB", s3.storage_options) as old:
            assert_right(old, data)
            shutil.rmtree(directory)
            with ioaccel.connect(directory, "20MB", s3.storage_options) as new:
                for url in reversed(data.urls):
                    assert new.read(url) == data.data(url)
                pids = old.status()["engine_pid"], new.status()["engine_pid"]
                old.evict(f"s3://{data.bucket}/")
                with ThreadPoolExecutor(16) as pool:  # each needs a connection
                    for url, got in zip(data.urls * 3, pool.map(old.read, data.urls * 3), strict=True):
                        assert got == data.data(url)
                assert new.status()["engine_pid"] == pids[1]
        wait_for(lambda: all(map(gone, pids)))

    def test_the_content_of_the_file_while_the_engine_runs(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet
    ) -> None:
        """An administrator made room; what is written next must not make holes of what was cached."""
        with ioaccel.connect(tmp_path, "20MB", s3.storage_options) as cache:
            cache.read_many(data.urls[:50])
            os.truncate(tmp_path / "shard.data", 0)
            for _ in range(2):
                assert cache.read(data.urls[55]) == data.data(data.urls[55])  # one that is new
                assert_right(cache, data)
            [shard] = cache.status()["shards"]
            assert (shard["health"], shard["cached_bytes"]) == ("failing", 0)
            assert "was truncated" in shard["trouble"]
            kill_engine(cache)
            assert_right(cache, data)
            assert cache.status()["cached_bytes"] == data.nbytes


class TestFull:
    def test_a_disk_with_no_room_at_all(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        with mounted(tmp_path / "disk", 64 * KIB) as disk:
            with open(disk / "other", "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with ioaccel.connect(disk, 50_000, s3.storage_options) as cache:
                for _ in range(2):
                    assert_right(cache, data)
                status = cache.status()
                assert status["cached_bytes"] == 0
                assert status["shards"][0]["health"] == "disk full"
                assert str(disk) in status["shards"][0]["trouble"]
                assert len(cache.manifest(f"s3://{data.bucket}/data")) == len(data.urls)
                stop_engine(cache)

    @pytest.mark.slow
    def test_a_disk_that_others_fill_and_free_again(
        self, s3: SeaweedS3, tmp_path: Path, data: DataSet
    ) -> None:
        with (
            mounted(tmp_path / "disk", 40 * MIB) as disk,
            ioaccel.connect(disk, "20MB", s3.storage_options) as cache,
        ):
            cache.read_many(data.urls[:30])
            with open(disk / "other", "wb") as file:
                left = os.statvfs(disk)
                file.write(bytes(left.f_bavail * left.f_bsize))
            for _ in range(2):
                assert_right(cache, data)
            status = cache.status()
            assert 30 * 100 * KIB <= status["cached_bytes"] < data.nbytes
            assert status["shards"][0]["health"] == "disk full"
            (disk / "other").unlink()

            def recovered() -> bool:
                assert_right(cache, data)
                return cache.status()["cached_bytes"] == data.nbytes

            wait_for(recovered, 10)
            assert cache.status()["shards"][0]["health"] == "ok"
            stop_engine(cache)

    def test_a_disk_that_takes_no_more(self, tmp_path: Path) -> None:
        """Its file cannot grow: EFBIG stands for whatever a failing disk says."""
        paths = [tmp_path / f"{n}.bin" for n in range(76)]
        for n, path in enumerate(paths):
            with open(path, "wb") as file:
                file.write(bytes([n]))
                file.truncate(4 * MIB)
        with ioaccel.connect(tmp_path / "cache", "400MB") as cache:
            limit = 270 * MIB  # more than the memory has that blocks pass through, which counts as a file
            resource.prlimit(cache.status()["engine_pid"], resource.RLIMIT_FSIZE, (limit, limit))
            for n, path in enumerate(paths):
                assert cache.read(path) == bytes([n]) + bytes(4 * MIB - 1)
            [shard] = cache.status()["shards"]
            assert 60 * 4 * MIB < shard["cached_bytes"] < 270 * MIB
            assert shard["health"] == "failing"
            assert "File too large" in shard["trouble"]
            assert cache.read(paths[-1]) == bytes([75]) + bytes(4 * MIB - 1)

    def test_one_of_two_directories_is_unusable(self, s3: SeaweedS3, tmp_path: Path, data: DataSet) -> None:
        with mounted(tmp_path / "disk", MIB, "ro") as disk:
            directories = [disk / "a", tmp_path / "b"]
            with ioaccel.connect(directories, [500_000, "20MB"], s3.storage_options) as cache:
                for _ in range(2):
                    assert_right(cache, data)
                assert cache.status()["cached_bytes"] == data.nbytes
                stop_engine(cache)


def test_the_engine_lives_through_a_directory_that_comes_late(
    tmp_path: Path, s3: SeaweedS3, data: DataSet
) -> None:
    """A cache goes on when its engine cannot be started, and uses the engine once that can be."""
    directory = tmp_path / "cache"
    with ioaccel.connect(directory, "20MB", s3.storage_options) as cache:
        assert_right(cache, data)
        kill_engine(cache)
        shutil.rmtree(directory)
        directory.write_bytes(b"in the way")
        assert cache.read(data.urls[0]) == data.data(data.urls[0])
        assert_right(cache, data)
        with pytest.raises(ioaccel.EngineError, match="no engine serves"):
            cache.status()
        directory.unlink()
        time.sleep(1.1)

        def served() -> bool:
            assert_right(cache, data)
            with contextlib.suppress(ioaccel.EngineError):
                return bool(cache.status()["cached_bytes"])
            return False

        wait_for(served, 10)
