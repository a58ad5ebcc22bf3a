"""Looks at an engine, or at what one has left on disk; starts none, and is no client of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ioaccel import wire
from ioaccel.client.start import dial
from ioaccel.engine.shard import capacity_on_disk, directory_error, lock_holder
from ioaccel.errors import CacheDirectoryError, EngineError

# A status takes a millisecond; an engine that recovers a large cache is not listening yet.
_SECONDS = 10.0


def running_status(directories: Sequence[str]) -> dict[str, Any] | None:
    """The counters of the engine that serves these directories or some of them; None if none does.

    EngineError if it does not answer.
    """
    sock = dial(directories)
    if sock is None:
        # It may serve them together with others, and listen in the first of those.
        together = [lock_holder(Path(d)).get("directories") for d in directories]
        sock = next((s for names in together if isinstance(names, list) and (s := dial(names))), None)
    if sock is None:
        return None
    with sock:
        sock.settimeout(_SECONDS)
        try:
            wire.send(sock, wire.Status())
            answer, _ = wire.receive_answer(sock)
        except msgspec.MsgspecError as error:
            raise EngineError(
                f"the engine of {directories[0]} is of another release of ioaccel ({error}); use the same in "
                "all processes"
            ) from error
        except (wire.Disconnected, OSError) as error:
            raise EngineError(
                f"the engine of {directories[0]} does not answer: {str(error) or 'it hung up'}; see "
                f"{directories[0]}/engine.log"
            ) from error
    if isinstance(answer, wire.Failure):
        raise answer.error()
    assert isinstance(answer, wire.State)
    # What a lock says may be of an earlier engine.
    served = {shard["directory"] for shard in answer.status["shards"]}
    return answer.status if served.intersection(directories) else None


def left_on_disk(directory: str) -> dict[str, Any]:
    """What stands in a cache directory that no engine serves, under the names of the status of a shard.

    ``capacity_bytes`` is None where there is no cache, or none that can be read; ``trouble`` says why.
    """
    found: dict[str, Any] = {"directory": directory, "capacity_bytes": None, "file_bytes": 0}
    try:
        capacity = capacity_on_disk(Path(directory))
        if capacity is not None:
            # What the file takes of the disk: segments are given their space when they are begun.
            size = os.stat(Path(directory) / "shard.data").st_blocks * 512
            found |= {"capacity_bytes": capacity, "file_bytes": size}
        _check_writable(Path(directory))
        return found | {"health": "no cache" if capacity is None else "ok", "trouble": ""}
    except CacheDirectoryError as error:
        return found | {"health": "unusable", "trouble": str(error)}
    except OSError as error:
        return found | {"health": "unusable", "trouble": str(directory_error(Path(directory), error))}


def _check_writable(directory: Path) -> None:
    """OSError if no engine could start in a directory, or make it, because it cannot be written to."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        raise OSError(errno.EROFS if read_only else errno.EACCES, "")
