"""File systems for tests: closing them, and one that writes to the target what it reads through the cache."""

from __future__ import annotations

import time
from typing import Any

from ioaccel.client import shared
from ioaccel.fs import IOAccelFileSystem

WRITING = frozenset({"makedirs", "mkdir", "pipe", "pipe_file", "rm", "touch"})


def close_file_systems() -> None:
    """Hang up all caches that fsspec's instances hold, and forget the instances."""
    for key in list(shared._caches):
        shared.close_shared(key)
    IOAccelFileSystem.clear_instance_cache()


class ReadsThroughCache:
    """What fsspec's abstract tests need: one file system that writes to the target and reads through us."""

    def __init__(self, target: Any, reading: IOAccelFileSystem) -> None:
        self.target = target
        self.reading = reading

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return (self.reading if mode.startswith("r") else self.target).open(path, mode, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in WRITING:
            return getattr(self.reading, name)
        time.sleep(0.002)  # versions are checked to the millisecond: even max_age=0 believes this one
        return getattr(self.target, name)
