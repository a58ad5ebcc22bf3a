"""One cache directory: its file system, its space, what is in it and how fast its disk is."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from ioaccel import wire
from ioaccel.cli.checks import disk
from ioaccel.cli.checks.finding import Finding, note, ok, problem
from ioaccel.cli.checks.mounts import is_rotational, mount_of
from ioaccel.cli.engine import left_on_disk, running_status
from ioaccel.cli.output import size
from ioaccel.config import nearest
from ioaccel.engine.shard import directory_error
from ioaccel.errors import IOAccelError

# Another machine's disk is what a cache is to spare; locks and sockets are another matter there, too.
_NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "ceph",
    "lustre",
    "gluster",
    "gpfs",
    "beegfs",
    "afs",
    "virtiofs",
    "fuse",
)

_LITTLE_SPACE = 10 << 30
# Without room for a few blocks there is nothing to measure.
_NO_SPACE = 64 << 20

# Below these, a network of 10 Gbit/s is as fast as the disk.
_SLOW_WRITE, _SLOW_READ = 200e6, 400e6


def check_directory(directory: str) -> Iterator[Finding]:
    """Everything about one directory, which is not made if it is missing. Takes 3 s and 256 MiB at most."""
    unusable = yield from _content(directory)
    if unusable:
        return
    try:
        with _place(directory) as place:
            yield _file_system(place)
            free = _free(place)
            yield _space(place, free)
            yield _socket(place)
            if free >= _NO_SPACE:
                with disk.scratch_file(place) as fd:
                    yield from _abilities(fd)
                    yield _speed(disk.measure(fd, free))
    except OSError as error:
        yield problem("access", str(directory_error(Path(directory), error)), "")


def _content(directory: str) -> Generator[Finding, None, bool]:
    """What is in it; returns whether that makes it unusable."""
    try:
        running = running_status([directory])
    except IOAccelError as error:
        yield note("cache", str(error), "look at its log")
        return False
    if running is not None:
        yield ok(
            "cache",
            f"served by process {running['engine_pid']}, {size(running['cached_bytes'])} cached",
            engine_pid=running["engine_pid"],
        )
        return False
    left = left_on_disk(directory)
    if left["health"] == "unusable":
        yield problem("cache", left["trouble"], "")
        return True
    capacity = left["capacity_bytes"]
    there = "it is made when it is first used" if capacity is None else f"made for {size(capacity)}"
    yield ok("cache", f"no engine is running; {there}", **left)
    return False


@contextmanager
def _place(directory: str) -> Iterator[str]:
    """The directory, or, if it is missing, one that is made beside where it would be, for the moment."""
    above = nearest(Path(directory))
    if above == Path(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix=".ioaccel-doctor-", dir=above) as name:
        yield name


def _free(place: str) -> int:
    stat = os.statvfs(place)
    return stat.f_bavail * stat.f_frsize


def _file_system(place: str) -> Finding:
    mount = mount_of(place)
    text = f"{mount.kind} on {mount.source}, mounted at {mount.point}"
    # A virtual disk often says that it turns: the flag is told, and the speed is what is judged.
    turns = is_rotational(place)
    facts = {"type": mount.kind, "device": mount.source, "mount_point": mount.point, "rotational": turns}
    if mount.kind in ("tmpfs", "ramfs"):
        return note("file system", text, "it takes memory, and is lost at the next boot", **facts)
    if mount.kind.startswith(_NETWORK):
        return note(
            "file system", text, "use a local disk: another machine's is what it is to spare", **facts
        )
    if mount.kind == "overlay":
        return note("file system", text, "mount a volume: a container's own layer goes with it", **facts)
    return ok("file system", text, **facts)


def _space(place: str, free: int) -> Finding:
    stat = os.statvfs(place)
    total = stat.f_blocks * stat.f_frsize
    text = f"{size(free)} free of {size(total)}"
    if free < _LITTLE_SPACE:
        advice = "what does not fit passes through and is fetched again in the next epoch"
        return note("space", text, advice, free_bytes=free, total_bytes=total)
    return ok("space", text, free_bytes=free, total_bytes=total)


def _socket(place: str) -> Finding:
    path = Path(place) / f".ioaccel-doctor-{os.getpid()}.sock"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, wire.short_path(path) as address:
            sock.bind(address)
            os.unlink(address)
    except OSError as error:
        return problem(
            "socket", f"cannot be made here: {error.strerror}", "choose a directory on a local file system"
        )
    return ok("socket", "can be made here")


def _abilities(fd: int) -> Iterator[Finding]:
    if not disk.has_locks(fd):
        yield problem("locks", "flock does not work here", "choose a directory on a local file system")
    if disk.has_fallocate(fd):
        yield ok("fallocate", "works")
    else:
        yield note("fallocate", "not on this file system", "a full disk shows only when it is written to")
    if disk.has_nowait(fd):
        yield ok("RWF_NOWAIT", "works")
    else:
        yield note("RWF_NOWAIT", "not on this file system", "what is in memory is read a little slower")


def _speed(speeds: disk.Speeds) -> Finding:
    cold = "not measured: all stays in memory" if speeds.cold_read is None else f"{size(speeds.cold_read)}/s"
    text = f"writes {size(speeds.write)}/s; random reads {cold}; from memory {size(speeds.cached_read)}/s"
    facts = {
        "write_bytes_per_s": round(speeds.write),
        "random_read_bytes_per_s": round(speeds.cold_read) if speeds.cold_read is not None else None,
        "cached_read_bytes_per_s": round(speeds.cached_read),
        "file_bytes": speeds.file_bytes,
    }
    if speeds.write < _SLOW_WRITE or (speeds.cold_read is not None and speeds.cold_read < _SLOW_READ):
        return note("speed", text, "a faster disk, or several, keep up with a faster store", **facts)
    return ok("speed", text, **facts)
