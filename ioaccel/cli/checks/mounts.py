"""Which file system a path is on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    kind: str  # ext4, xfs, nfs4 ...
    source: str  # the device, or what stands for it
    point: str


def mount_of(path: str) -> Mount:
    """The mount that a path lies on: the last one of those with the longest mount point above it."""
    real = os.path.realpath(path)
    best = Mount("unknown", "unknown", "")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, rest = line.partition(" - ")
        point = _unescaped(mount.split()[4])
        kind, source, *_ = rest.split()
        above = real == point or real.startswith(point.rstrip("/") + "/")
        if above and len(point) >= len(best.point):
            best = Mount(kind, _unescaped(source), point)
    return best


def is_rotational(path: str) -> bool:
    """Whether the path is on a disk that turns, as far as the kernel knows."""
    device = os.stat(path).st_dev
    here = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    # A partition has no queue of its own; its disk has.
    for queue in (here / "queue", here.resolve().parent / "queue"):
        try:
            return (queue / "rotational").read_text().strip() == "1"
        except OSError:
            continue
    return False


def _unescaped(text: str) -> str:
    """Spaces and the like stand as octal numbers."""
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
