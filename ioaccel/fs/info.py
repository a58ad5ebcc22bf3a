"""What fsspec is told of objects and directories: one dictionary for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

Info = dict[str, Any]


def file_info(name: str, size: int, version: str) -> Info:
    """``name``, ``size`` (bytes), ``type`` and ``version``; ``ETag`` or ``mtime`` (s) if it is one."""
    info: Info = {"name": name, "size": size, "type": "file", "version": version}
    if version.startswith(('"', "W/")):
        info["ETag"] = version
        return info
    time, _, same_size = version.rpartition("-")
    if same_size == str(size):
        with contextlib.suppress(ValueError):
            info["mtime"] = _seconds(time)
    return info


def _seconds(time: str) -> float:
    """As ``os.stat`` rounds it, where nanoseconds are given; fsspec's file systems give seconds."""
    if not time.isdigit() or len(time) < 13:
        return float(time)
    whole, nanoseconds = divmod(int(time), 10**9)
    return whole + 1e-9 * nanoseconds


def directory_info(name: str) -> Info:
    """The same for a directory; it has no size of its own."""
    return {"name": name, "size": 0, "type": "directory"}


def directories_of(names: Iterable[str], top: str) -> set[str]:
    """``top`` and the directories below it that these names, all below ``top``, are in."""
    found: set[str] = set()
    for name in names:
        parent = name.rpartition("/")[0]
        while len(parent) >= len(top) and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found
