"""Cores and memory, as far as this process may use them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ioaccel.cli.checks.finding import Finding, note, ok
from ioaccel.cli.output import size

# The engine takes about 300 MB with its transit memory and what is in flight; a page cache with less
# than this to itself holds little of any data set.
_LITTLE_MEMORY = 4 << 30

_SHM = "/dev/shm"  # noqa: S108  # looked at, not written to
# Docker's default of 64 MB is too little for the batches of a DataLoader with workers.
_LITTLE_SHM = 1 << 30

_FLAGS = {"x86_64": ("sse4_2", "pclmulqdq", "avx2", "avx512f", "vpclmulqdq"), "aarch64": ("crc32", "pmull")}


def check_machine() -> Iterator[Finding]:
    """Processor, cores, memory and /dev/shm."""
    yield _processor()
    yield _cores()
    yield _memory()
    yield _shm()


def _processor() -> Finding:
    from ioaccel._core._hash import crc32c_implementation

    machine = os.uname().machine
    known = _FLAGS.get(machine, ())
    found = [flag for flag in known if flag in _cpu_flags()]
    crc = crc32c_implementation()
    text = f"{machine} with {', '.join(found) or 'no known extensions'}; CRC32C by {crc}"
    facts = {"machine": machine, "flags": found, "crc32c": crc}
    if not found:
        return note("processor", text, "verification is slow without CRC32C instructions", **facts)
    return ok("processor", text, **facts)


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return set(value.split())
    return set()


def _cores() -> Finding:
    cores = len(os.sched_getaffinity(0))
    quota = _cpu_quota()
    if quota is not None and quota < cores:
        return note(
            "cores",
            f"{cores}, of which the container may use {quota:g} at a time",
            "what runs beyond that is stopped for parts of each 0.1 s; raise the limit or use fewer workers",
            cores=cores,
            quota=quota,
        )
    return ok("cores", str(cores), cores=cores, quota=quota)


def _memory() -> Finding:
    total, available = _meminfo()
    limit = memory_limit()
    limited = limit is not None and limit < total
    text = f"{size(total)}, {size(available)} available" + (
        f", limit {size(limit)}" if limited and limit else ""
    )
    facts = {"total_bytes": total, "available_bytes": available, "limit_bytes": limit if limited else None}
    if min(total, limit or total) < _LITTLE_MEMORY:
        advice = "the page cache counts against it: with less than the data set, reads wait for the disk"
        return note("memory", text, advice, **facts)
    return ok("memory", text, **facts)


def _meminfo() -> tuple[int, int]:
    """Bytes of memory, and those that are free or easily made free."""
    found = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) << 10
    return found["MemTotal"], found.get("MemAvailable", found["MemFree"])


def _shm() -> Finding:
    try:
        stat = os.statvfs(_SHM)
    except OSError:
        return note(_SHM, "not there", "a DataLoader with workers needs it; mount a tmpfs there")
    total = stat.f_blocks * stat.f_frsize
    if total < _LITTLE_SHM:
        advice = "a DataLoader with workers fills it; start the container with --shm-size=8g"
        return note(_SHM, size(total), advice, total_bytes=total)
    return ok(_SHM, size(total), total_bytes=total)


# ---- containers ---------------------------------------------------------------------------------


def memory_limit() -> int | None:
    """The smallest memory limit of the control groups that this process is in; None if there is none."""
    limits = [
        int(text)
        for name in ("memory.max", "memory.limit_in_bytes")
        for text in _cgroup_files("memory", name)
        if text.isdigit()
    ]
    return min(limits, default=None)


def _cpu_quota() -> float | None:
    """How many cores the control groups of this process let it use at a time; None if all."""
    quotas = []
    for text in _cgroup_files("cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
    periods = _cgroup_files("cpu", "cpu.cfs_period_us")
    for text, period in zip(_cgroup_files("cpu", "cpu.cfs_quota_us"), periods, strict=False):
        if text.isdigit() and period.isdigit():
            quotas.append(int(text) / int(period))
    return min(quotas, default=None)


def _cgroup_files(controller: str, name: str) -> list[str]:
    """What stands in the files of this name, from this process's control group up to the root."""
    texts = []
    for directory in _cgroups(controller):
        try:
            texts.append((directory / name).read_text().strip())
        except OSError:
            continue
    return texts


def _cgroups(controller: str) -> Iterator[Path]:
    """The directories of this process's control groups, of version 2 and of version 1."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / (controller if controllers else "")
        here = root / path.lstrip("/")
        # In a container the path may be that of the host, and the group the root of what is seen.
        yield from (p for p in (here, *here.parents) if p == root or root in p.parents)
