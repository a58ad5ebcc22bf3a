"""File systems for tests: closing them, and one that writes to the target what it reads through the cache."""

from __future__ import annotations

from typing import Any

from ioaccel.fs import IOAccelFileSystem

WRITING = frozenset(
    "mkdir makedirs mkdirs rm rm_file rmdir touch pipe pipe_file put put_file cp_file copy mv write_text".split()
)


def close_file_systems() -> None:
    """Hang up all caches that fsspec's instances hold, and forget the instances."""
    for fs in list(IOAccelFileSystem._cache.values()):
        fs.close()
    IOAccelFileSystem.clear_instance_cache()


class ReadsThroughCache:
    """What fsspec's abstract tests need: one file system that writes to the target and reads through us."""

    def __init__(self, target: Any, reading: IOAccelFileSystem) -> None:
        self.target = target
        self.reading = reading

    def open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        return (self.reading if mode.startswith("r") else self.target).open(path, mode, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "pipe_file":  # fsspec's own asks `exists` of the file system that it writes to
            return self.target.pipe_file
        return getattr(self.target if name in WRITING else self.reading, name)
