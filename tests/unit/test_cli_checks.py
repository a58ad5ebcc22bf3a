"""What ``ioaccel doctor`` finds out about a machine, piece by piece."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ioaccel.cli.checks import disk, machine
from ioaccel.cli.checks.directory import check_directory
from ioaccel.cli.checks.finding import Level
from ioaccel.cli.checks.machine import check_machine
from ioaccel.cli.checks.mounts import mount_of
from ioaccel.cli.checks.packages import check_packages
from ioaccel.cli.checks.system import check_system


def test_the_disk_is_measured_in_bounds(tmp_path: Path) -> None:
    begun = time.monotonic()
    with disk.scratch_file(str(tmp_path)) as fd:
        assert list(tmp_path.iterdir()) == [], "a file with a name could be left behind"
        assert disk.has_locks(fd)
        speeds = disk.measure(fd, free=64 << 20)
        assert os.fstat(fd).st_size == speeds.file_bytes == 16 << 20
    assert time.monotonic() - begun < 5
    assert speeds.write > 0
    assert speeds.cached_read > speeds.write / 10
    assert speeds.cold_read is None or speeds.cold_read > 0


def test_a_slow_disk_costs_no_more_time(tmp_path: Path) -> None:
    """Each look at the clock takes a tenth of a second: few bytes are written, and all is measured."""
    ticks = iter(range(10**6))
    with disk.scratch_file(str(tmp_path)) as fd:
        speeds = disk.measure(fd, free=1 << 40, clock=lambda: next(ticks) / 10)
    assert speeds.file_bytes <= 64 << 20
    assert next(ticks) < 100


def test_memory_is_not_taken_for_a_disk() -> None:
    if mount_of("/dev/shm").kind != "tmpfs":
        pytest.skip("no tmpfs to measure")
    with disk.scratch_file("/dev/shm") as fd:
        assert disk.measure(fd, free=32 << 20).cold_read is None


def test_mounts() -> None:
    assert mount_of("/proc/self").kind == "proc"
    assert mount_of("/proc").point == "/proc"
    assert mount_of("/no/such/path").point == mount_of("/").point


def test_this_machine_is_described() -> None:
    found = [*check_system(), *check_machine(), *check_packages()]
    assert not [f for f in found if f.level is Level.PROBLEM], "the tests could not run here"
    assert all(f.advice for f in found if f.level is Level.NOTE)
    facts = {f.topic: f.facts for f in found}
    assert facts["cores"]["cores"] == len(os.sched_getaffinity(0))
    assert facts["memory"]["total_bytes"] > 0
    assert facts["processor"]["crc32c"]


def test_a_container_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a control group above counts too; 'max' is none."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for directory, memory, cpu in (
        (tmp_path / "a", str(2 << 30), "150000 100000"),
        (inner, "max", "max 100000"),
    ):
        (directory / "memory.max").write_text(f"{memory}\n")
        (directory / "cpu.max").write_text(f"{cpu}\n")
    monkeypatch.setattr(machine, "_cgroups", lambda controller: iter([inner, inner.parent, tmp_path]))
    assert machine.memory_limit() == 2 << 30
    assert machine._cpu_quota() == 1.5
    found = {f.topic: f for f in check_machine()}
    assert found["memory"].level is Level.NOTE
    assert found["memory"].facts["limit_bytes"] == 2 << 30


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    found = list(check_directory(str(tmp_path / "a" / "b")))
    assert {f.topic for f in found} >= {
        "cache",
        "file system",
        "space",
        "socket",
        "fallocate",
        "RWF_NOWAIT",
        "speed",
    }
    assert not [f for f in found if f.level is Level.PROBLEM]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    found = list(check_directory(str(tmp_path / "file")))
    assert [f.level for f in found] == [Level.PROBLEM]
    assert "not a directory" in found[0].text
