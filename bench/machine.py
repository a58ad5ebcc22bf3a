"""The machine that a run is made on: what it is, whether it is quiet, and what its page cache holds."""

from __future__ import annotations

import os
import platform
import subprocess
import time
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from bench.arm import ROOT
from bench.cold import forget

NOISY = 0.2  # spread of equal work above which a run says that the machine was busy
_WORK = np.random.default_rng(1).bytes(16 << 20)


class Calibration:
    """The same work again and again, between arms: it takes as long each time, unless others are busy."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def measure(self) -> None:
        """A few hundredths of a second of one core: the best of three."""
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            zlib.crc32(_WORK)
            times.append(time.perf_counter() - begun)
        self.seconds.append(min(times))

    @property
    def spread(self) -> float:
        """(95th percentile - 5th) / median of all so far."""
        if not self.seconds:
            return 0.0
        low, middle, high = np.percentile(self.seconds, (5, 50, 95))
        return float((high - low) / middle)


def describe() -> dict[str, str]:
    """What a figure depends on beside the code."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores of {_cpu()}, {memory / 2**30:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, torch {torch.__version__}",
        "commit": _commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


def empty_page_cache(directories: list[Path]) -> str:
    """Files leave memory: all of them for root, else those below ``directories``. Says which."""
    if os.geteuid() == 0:
        with suppress(OSError):  # a container may not
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("3")
            return "all page caches dropped before each epoch but the first"
    for directory in directories:
        for path in filter(Path.is_file, directory.rglob("*")):
            with suppress(OSError):
                forget(path)
    return "cache directories taken out of the page cache before each epoch but the first (posix_fadvise)"


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "CPU part")):
                return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """With "-dirty" where anything but the results of runs, and the tables of them, is not as committed."""
    try:
        commit = _git("describe", "--always")
        changed = _git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!bench/results", ":!README.md"
        )
    except (OSError, subprocess.SubprocessError):
        return "?"
    return f"{commit}-dirty" if changed else commit


def _git(*arguments: str) -> str:
    asked = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
