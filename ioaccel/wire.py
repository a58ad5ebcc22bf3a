"""What client and engine say to each other, and how it crosses the socket.

A message is a 4-byte little-endian length and a msgpack array; descriptors ride along with
``SCM_RIGHTS``. A connection carries one request at a time: the client sends, the engine answers
once. There is one message a batch, never one a sample.
"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import msgspec

from ioaccel.errors import IOAccelError, _rebuild
from ioaccel.sources import SourceSpec

# Grows with every change that an engine and a client of different releases would trip over.
PROTOCOL = 4

# Where an engine listens: this name in the first of its directories.
SOCKET = "engine.sock"

# A batch of a million extents; more is a broken peer, not a message.
MAX_MESSAGE = 256 << 20

# Descriptors of one answer: every shard, the transit shard, control, index and page.
MAX_DESCRIPTORS = 67

# One extent: URL, offset, length (None: to the end).
Extent = tuple[str, int, int | None]

# What a job will read: its name in the session, and its round, which takes the place of those before.
Plan = tuple[str, int]


class Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """The base of all messages; the class name is the tag."""


# ---- requests -----------------------------------------------------------------------------------


class Attach(Message, frozen=True):
    """Opens the cache for this process; as long as the connection lives, it counts as a client."""

    protocol: int
    pid: int
    session: str


class Join(Message, frozen=True):
    """The first word on every other connection of an attached client.

    Refused by any other engine than the one that it is attached to: what that one says of segments would
    not fit what the client has mapped.
    """

    engine: str


class Remap(Message, frozen=True):
    """Asks for the current index, after the old one was replaced by a larger one."""


class Fetch(Message, frozen=True):
    """Asks where the bytes of these extents stand; what is missing is fetched first."""

    session: str
    sources: dict[str, SourceSpec]  # by scheme; see `Sourced`
    extents: list[Extent]
    oldest_ms: int  # a version that was last checked before does not count
    timeout: float  # seconds
    # What the client could not read where it was told to: to be fetched anew.
    unreadable: list[int] = []
    # Of an extent to the end of its object that is longer than this, only size and version are asked.
    most: int | None = None


class Prefetch(Message, frozen=True):
    """Asks for these extents to be in the cache soon; with ``wait``, answers when they are.

    What the cache has no room for is fetched ahead into memory if it is of a plan, else not at all.
    """

    session: str
    sources: dict[str, SourceSpec]
    extents: list[Extent]
    oldest_ms: int
    timeout: float
    wait: bool = False
    plan: Plan | None = None  # of a job that will read them soon, in this order


class Stat(Message, frozen=True):
    """Asks for size and version of objects."""

    session: str
    sources: dict[str, SourceSpec]
    urls: list[str]
    oldest_ms: int
    timeout: float


class ListDirectory(Message, frozen=True):
    """Asks what stands directly below a URL; with ``probe``, only whether anything does."""

    sources: dict[str, SourceSpec]
    url: str
    timeout: float
    probe: bool = False


class Manifest(Message, frozen=True):
    """Asks for a file that lists everything below a URL."""

    sources: dict[str, SourceSpec]
    url: str
    oldest_ms: int
    timeout: float
    refresh: bool = False


class Residency(Message, frozen=True):
    """Asks how many bytes of each object are cached; asks the store nothing."""

    sources: dict[str, SourceSpec]
    urls: list[str]


class Evict(Message, frozen=True):
    """Removes an object, or everything below a URL that ends with ``/``, from the cache."""

    sources: dict[str, SourceSpec]
    url: str


class Post(Message, frozen=True):
    """Leaves a note for the other processes of a session."""

    session: str
    board: str
    note: bytes


class Collect(Message, frozen=True):
    """Asks for the notes on a board, and takes them away."""

    session: str
    board: str


class Verify(Message, frozen=True):
    """Checks the blocks of one segment; ``position`` counts through the segments of all shards."""

    position: int


class Usage(Message, frozen=True):
    """Asks what the segment at ``position`` holds, by prefix of ``depth`` path components."""

    position: int
    depth: int


class Status(Message, frozen=True):
    """Asks for the counters."""


class Stop(Message, frozen=True):
    """Asks the engine to leave."""


Request = (
    Attach
    | Join
    | Remap
    | Fetch
    | Prefetch
    | Stat
    | ListDirectory
    | Manifest
    | Residency
    | Evict
    | Post
    | Collect
    | Verify
    | Usage
    | Status
    | Stop
)

# ---- answers ------------------------------------------------------------------------------------


class Failure(Message, frozen=True):
    """An error, by name; ``raise failure.error()``."""

    name: str
    message: str
    url: str | None = None
    range: tuple[int, int] | None = None
    attempts: int = 0
    elapsed: float = 0.0

    @classmethod
    def of(cls, error: IOAccelError) -> Failure:
        return cls(type(error).__name__, error.message, **error.facts())

    def error(self) -> IOAccelError:
        facts = {f: getattr(self, f) for f in ("url", "range", "attempts", "elapsed")}
        return _rebuild(self.name, self.message, facts)


class Attached(Message, frozen=True):
    """Descriptors ride along: control, index, page, then one a shard, the transit shard last."""

    protocol: int
    engine: str  # differs between any two
    engine_pid: int
    version: str
    directories: list[str]
    shards: list[bool]  # whether a descriptor of the shard is among those that ride along


class Remapped(Message, frozen=True):
    """The descriptor of the current index rides along."""


class Found(Message, frozen=True):
    """Where an extent stands: ``struct ia_location``, one a block."""

    object_size: int
    version: int  # its hash
    locations: bytes


class Deferred(Message, frozen=True):
    """More than one answer can hold: ask for fewer bytes. The object's size, if it is known."""

    object_size: int | None = None


class Uncached(Message, frozen=True):
    """The engine cannot read this scheme: the client has to read it itself."""

    reason: str


class Answers(Message, frozen=True):
    """One for each extent of a ``Fetch``."""

    results: list[Found | Deferred | Uncached | Failure]


class Prefetched(Message, frozen=True):
    """How a ``Prefetch`` went, in extents; without ``wait`` all are ``accepted``."""

    accepted: int
    stored: int = 0  # in the cache now
    passed: int = 0  # fetched or known, but there was no room
    failures: list[Failure] = []


class ObjectStat(Message, frozen=True):
    url: str
    size: int
    version: str


class Stats(Message, frozen=True):
    results: list[ObjectStat | Uncached | Failure]


class Directory(Message, frozen=True):
    directories: list[str]  # URLs, without a trailing slash
    objects: list[ObjectStat]


class ManifestFile(Message, frozen=True):
    path: str


class Resident(Message, frozen=True):
    cached_bytes: list[int]
    object_sizes: list[int | None]


class Evicted(Message, frozen=True):
    blocks: int
    bytes: int


class Notes(Message, frozen=True):
    """What stood on a board, in the order in which it came."""

    notes: list[bytes]


class Verified(Message, frozen=True):
    """What one segment held; ``corrupt`` names the URLs of blocks that were removed."""

    positions: int  # of all shards
    blocks: int
    bytes: int
    corrupt: list[str]
    error: str | None = None


class Used(Message, frozen=True):
    positions: int
    prefixes: dict[str, tuple[int, int]]  # blocks, bytes


class State(Message, frozen=True):
    status: dict[str, Any]


class Done(Message, frozen=True):
    """Nothing more to say."""


Answer = (
    Failure
    | Attached
    | Remapped
    | Answers
    | Prefetched
    | Stats
    | Directory
    | ManifestFile
    | Resident
    | Evicted
    | Notes
    | Verified
    | Used
    | State
    | Uncached
    | Done
)

# Requests that say how to reach stores. A connection says each source once, for it may hold a bundle of
# certificates, hundreds of kilobytes: from then on it is left out, and the engine remembers it (`complete`).
Sourced = Fetch | Prefetch | Stat | ListDirectory | Manifest | Residency | Evict


def shorten(request: Sourced, told: dict[str, SourceSpec]) -> Sourced:
    """The same without those sources that the other end was ``told``."""
    new = {scheme: spec for scheme, spec in request.sources.items() if told.get(scheme) is not spec}
    return request if len(new) == len(request.sources) else msgspec.structs.replace(request, sources=new)


def complete(request: Sourced, told: dict[str, SourceSpec]) -> Sourced:
    """The same with all sources that this connection has ``told``, which takes up what is new."""
    if request.sources:
        told.update(request.sources)
    return msgspec.structs.replace(request, sources=told.copy())


_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_LENGTH = struct.Struct("<I")


class Disconnected(Exception):
    """The peer closed the connection."""


def send(sock: socket.socket, message: Message, descriptors: list[int] | None = None) -> None:
    """Sends one message. The descriptors stay the caller's."""
    body = _encoder.encode(message)
    data = _LENGTH.pack(len(body)) + body
    if descriptors:
        sent = socket.send_fds(sock, [data], descriptors)
        data = data[sent:]
    if data:
        sock.sendall(data)


def receive_request(sock: socket.socket) -> Request:
    """The next request; ``Disconnected`` when the peer has hung up."""
    return _requests.decode(_receive(sock)[0])


def receive_answer(sock: socket.socket) -> tuple[Answer, list[int]]:
    """The answer and the descriptors that came with it, which are the caller's."""
    body, descriptors = _receive(sock)
    return _answers.decode(body), descriptors


def _receive(sock: socket.socket) -> tuple[bytearray, list[int]]:
    head, descriptors, _flags, _address = socket.recv_fds(
        sock, _LENGTH.size, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
    )
    head += bytes(_receive_exactly(sock, _LENGTH.size - len(head))) if head else b""
    if not head:
        raise Disconnected
    (length,) = _LENGTH.unpack(head)
    if length > MAX_MESSAGE:
        raise Disconnected(f"a message of {length} bytes")
    return _receive_exactly(sock, length), descriptors


def _receive_exactly(sock: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        got = sock.recv_into(view)
        if got == 0:
            raise Disconnected
        view = view[got:]
    return data


class short_path:  # noqa: N801  # used as a function is
    """A path that fits into a socket address (107 bytes), for as long as the block lasts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        if len(os.fsencode(self._path)) < 100:
            return str(self._path)
        self._fd = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
