"""A shard: one cache directory on one disk, and the segments in its file."""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import json
import os
import struct
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from ioaccel._core._engine import (
    BLOCK_SIZE,
    DATA_START,
    FORMAT,
    Index,
    Writer,
    file_size,
    probe_segment,
    recover_segment,
)
from ioaccel._core._hash import crc32c
from ioaccel.errors import CacheBusyError, CacheDirectoryError, CacheFormatError

# struct ia_superblock: magic, format, crc, uuid, segment size, capacity, created_ms, reserved.
_SUPERBLOCK = struct.Struct("<8sII16sQQQQ")
_MAGIC = b"IOASHRD1"

# Large segments mean few evictions and few files to keep open; small ones let a small cache be
# evicted piece by piece. A 64th of the cache, between two blocks and what a disk writes in 0.1 s.
_SEGMENTS_WANTED = 64
_SMALLEST_SEGMENT = 2 * BLOCK_SIZE + (64 << 10)
_LARGEST_SEGMENT = 256 << 20

# Headers and the unused tails of segments come on top of the payload that capacity counts.
_OVERHEAD = 1.25

# How often a full or failing disk is tried again: rarely enough not to slow the fetches down.
_RETRY_SECONDS = 5.0


class Use(enum.Enum):
    """What a segment is used for."""

    FREE = "free"  # nothing in it
    PART = "part"  # has room, nobody writes
    OPEN = "open"  # a session writes it
    FULL = "full"


@dataclass
class Segment:
    """One segment, as the engine knows it; guarded by the lock of ``Space``."""

    number: int
    use: Use = Use.FREE
    sequence: int = 0
    generation: int = 1
    prefix: str = ""  # what all URLs in it begin with; an open segment's writer knows better
    written_ms: int = 0  # when the engine last wrote it; of a recovered one, its sequence
    writer: Writer | None = None
    appending: int = 0  # blocks on their way into it: it must not be reused meanwhile


class Health(enum.Enum):
    """Whether a shard takes new blocks."""

    OK = "ok"
    FULL = "disk full"
    FAILING = "failing"


@dataclass
class Shard:
    """An opened and locked cache directory. ``open_shard`` makes one."""

    number: int
    directory: Path
    fd: int
    lock_fd: int
    segment_size: int
    capacity: int  # payload bytes
    segments: list[Segment]
    health: Health = Health.OK
    trouble: str = ""
    retry_at: float = 0.0  # monotonic seconds
    pending: int = 0  # payload bytes of blocks that are being appended
    written: int = 0
    superblock: bytes | None = None  # still to be written: the disk was full
    truncated: bool = False  # by somebody else: not to be used until it is opened anew
    _allocated: int = field(default=0)

    def start_of(self, segment: int) -> int:
        """Where a segment begins in the file."""
        return DATA_START + segment * self.segment_size

    def write_superblock(self) -> None:
        """Writes it, if it is not written yet; OSError if the disk does not take it."""
        if self.superblock is not None:
            os.pwrite(self.fd, self.superblock, 0)
            self.superblock = None

    def allocate(self, segment: Segment) -> None:
        """Gives the segment its place in the file, and its disk space; OSError (ENOSPC above all) if there is
        none.

        In a small cache, segments take space as they are written: what they might take is a good part of all.
        """
        self.write_superblock()
        if segment.number < self._allocated:
            return
        start = self.start_of(segment.number)
        if self.segment_size <= _SMALLEST_SEGMENT or not _fallocate(self.fd, start, self.segment_size):
            os.ftruncate(self.fd, max(os.fstat(self.fd).st_size, start + self.segment_size))
        self._allocated = segment.number + 1

    def was_truncated(self) -> bool:
        """Whether somebody made the file shorter just now. To be asked before each write, which would
        make it long again and give readers zeros where their blocks stood."""
        size = self.start_of(self._allocated) if self._allocated else 0
        if self.truncated or file_size(self.fd) >= size:
            return False
        self.failed(OSError(errno.EIO, ""))
        self.truncated = True
        self.trouble = f"{self.directory}: its file was truncated; restart the engine to begin it anew"
        return True

    def wipe(self, segment: Segment) -> None:
        """Ends what is in a segment on disk too, or a restart would bring it back beside its successor."""
        os.pwrite(self.fd, bytes(8), self.start_of(segment.number))

    def failed(self, error: OSError) -> None:
        """Takes note of a failed write: no new blocks until the next try."""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self.health = Health.FULL if full else Health.FAILING
        self.trouble = f"{self.directory}: {os.strerror(error.errno or errno.EIO)}"
        self.retry_at = time.monotonic() + _RETRY_SECONDS

    def worked(self) -> None:
        """Takes note of a write that succeeded."""
        if self.health is not Health.OK and not self.truncated:
            self.health, self.trouble = Health.OK, ""

    @property
    def takes_blocks(self) -> bool:
        """Whether to try to write here."""
        return not self.truncated and (self.health is Health.OK or time.monotonic() >= self.retry_at)

    def reader_fd(self) -> int:
        """A new read-only descriptor of the file, owned by the caller."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def recover(self, index: Index) -> tuple[int, int]:
        """Publishes what an earlier engine left, unverified: ``(blocks, highest sequence)``.

        Reads the headers and no data. Segments are taken in the order of their sequence, so the
        newest copy of a block wins.
        """
        size = os.fstat(self.fd).st_size
        found: list[Segment] = []
        for segment in self.segments:
            if self.start_of(segment.number) + self.segment_size > size:
                break
            self._allocated = segment.number + 1
            header = probe_segment(self.fd, self.start_of(segment.number), self.segment_size)
            if header:
                segment.sequence, segment.prefix = header
                found.append(segment)
        blocks = newest = 0
        for segment in sorted(found, key=lambda s: s.sequence):
            count, highest = recover_segment(
                index, self.fd, self.start_of(segment.number), self.segment_size,
                self.number, segment.number, segment.generation,
            )  # fmt: skip
            segment.use = Use.PART if count else Use.FREE
            segment.written_ms = segment.sequence
            blocks += count
            newest = max(newest, highest, segment.sequence)
        return blocks, newest

    def close(self) -> None:
        """Releases the file and the lock."""
        for segment in self.segments:
            segment.writer = None
        for fd in (self.fd, self.lock_fd):
            os.close(fd)


def _fallocate(fd: int, start: int, size: int) -> bool:
    """Whether the file system could do it; OSError if it has no room."""
    try:
        os.posix_fallocate(fd, start, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        return False
    return True


def open_shard(number: int, directory: Path, capacity: int | None, served: list[str]) -> Shard:
    """Locks a cache directory and opens its file, making both if need be.

    ``capacity`` is in payload bytes; None keeps what the directory was made with. ``served`` are
    all directories of this engine, noted in the lock for those who find it taken.

    Raises CacheBusyError, CacheFormatError or CacheDirectoryError, naming the directory.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock_fd = os.open(directory / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise directory_error(directory, error) from error
    try:
        _lock(directory, lock_fd, served)
        return _open_file(number, directory, capacity, lock_fd)
    except OSError as error:
        os.close(lock_fd)
        if isinstance(error, CacheDirectoryError):
            raise
        raise directory_error(directory, error) from error


def directory_error(directory: Path, error: OSError) -> CacheDirectoryError:
    """What to tell the user about a directory that cannot be used."""
    hint = {
        errno.EROFS: "it is on a read-only file system; choose a writable one",
        errno.EACCES: "this user may not write there; change its owner or choose another",
        errno.EPERM: "this user may not write there; change its owner or choose another",
        errno.ENOTDIR: "it is not a directory; choose another path",
        errno.EEXIST: "it is not a directory; choose another path",
        errno.ENOSPC: "its disk is full; free some space or choose another disk",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
        errno.ENAMETOOLONG: "its name is too long",
    }.get(error.errno or 0, error.strerror or str(error))
    return CacheDirectoryError(f"cannot use the cache directory {directory}: {hint}", url=str(directory))


def lock_holder(directory: Path) -> dict[str, object]:
    """What the engine that holds the directory wrote into its lock: pid and directories."""
    try:
        holder = json.loads((directory / "engine.lock").read_text())
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def capacity_on_disk(directory: Path) -> int | None:
    """The payload bytes that the cache in a directory was made for; None if there is none. Takes no lock.

    Raises CacheFormatError, or OSError if the directory cannot be read.
    """
    path = directory / "shard.data"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        known = _read_superblock(path, fd)
    finally:
        os.close(fd)
    return known[1] if known is not None else None


def _lock(directory: Path, lock_fd: int, served: list[str]) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = lock_holder(directory)
        raise CacheBusyError(
            f"the cache directory {directory} is in use by engine {holder.get('pid', '?')}, which "
            f"serves {holder.get('directories', '?')}; connect with exactly those directories, or "
            "stop that engine first",
            url=str(directory),
        ) from None
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(lock_fd, 0)
        os.pwrite(lock_fd, json.dumps({"pid": os.getpid(), "directories": served}).encode(), 0)


def _open_file(number: int, directory: Path, capacity: int | None, lock_fd: int) -> Shard:
    path = directory / "shard.data"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        known = _read_superblock(path, fd)
        if known is None:
            # New, or torn while it was made: a cache is a copy, so it begins anew.
            if capacity is None:
                stat = os.statvfs(directory)
                capacity = int(stat.f_bavail * stat.f_frsize * 0.8)
            segment_size = segment_size_for(capacity)
            _empty(path, fd)
        else:
            segment_size = known[0]
            capacity = known[1] if capacity is None else capacity
    except BaseException:
        os.close(fd)
        raise
    # A segment may end one block short of full, which tells in a small cache: there it holds only two.
    fewest = segment_size - BLOCK_SIZE - (64 << 10)
    count = max(int(capacity * _OVERHEAD) // segment_size, -(-capacity // fewest)) + 2
    shard = Shard(number, directory, fd, lock_fd, segment_size, capacity, [Segment(n) for n in range(count)])
    if known is None or capacity != known[1]:
        shard.superblock = _superblock(segment_size, capacity, known[2] if known else uuid.uuid4().bytes)
        try:
            shard.write_superblock()
        except OSError as error:
            shard.failed(error)  # a full disk: blocks pass through until it has room
    return shard


def _empty(path: Path, fd: int) -> None:
    """Truncates a file to nothing, if there is something in it.

    ext4 and XFS take a file that was truncated for one that is being replaced: whoever next closes a
    descriptor of it, were it a reader, waits until all of it was sent to the disk. So that is done while it
    is empty.
    """
    if os.fstat(fd).st_size:
        os.ftruncate(fd, 0)
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))


def segment_size_for(capacity: int) -> int:
    """The segment size of a new shard of ``capacity`` payload bytes; a multiple of 64 KiB."""
    size = min(max(capacity // _SEGMENTS_WANTED, _SMALLEST_SEGMENT), _LARGEST_SEGMENT)
    return size >> 16 << 16


def _superblock(segment_size: int, capacity: int, identity: bytes) -> bytes:
    fields = (identity, segment_size, capacity, int(time.time() * 1000), 0)
    blank = _SUPERBLOCK.pack(_MAGIC, FORMAT, 0, *fields)
    return _SUPERBLOCK.pack(_MAGIC, FORMAT, crc32c(blank), *fields)


def _read_superblock(path: Path, fd: int) -> tuple[int, int, bytes] | None:
    """``(segment size, capacity, uuid)``; None for a file that is new, torn or of an older format."""
    data = os.pread(fd, _SUPERBLOCK.size, 0)
    if len(data) < _SUPERBLOCK.size:
        return None
    magic, version, crc, identity, segment_size, capacity, created, reserved = _SUPERBLOCK.unpack(data)
    if magic != _MAGIC:
        if any(data):
            raise CacheFormatError(
                f"{path} is not a shard of ioaccel; move it away or choose another cache directory",
                url=str(path),
            )
        return None
    if version > FORMAT:
        raise CacheFormatError(
            f"{path} was written by a newer ioaccel (format {version}; this one reads up to "
            f"{FORMAT}); upgrade ioaccel or choose another cache directory",
            url=str(path),
        )
    blank = _SUPERBLOCK.pack(magic, version, 0, identity, segment_size, capacity, created, reserved)
    if version < FORMAT or crc != crc32c(blank):
        return None
    return segment_size, capacity, identity
