"""Who reads what: the clients of an engine, their counters, and the data they are interested in."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from ioaccel._core._engine import CLIENT_COUNTERS, CLIENT_PAGE_SIZE, client_page

# A session that reads more roots than this below one bucket is taken to read the whole bucket:
# ImageNet's thousand classes at the top of a bucket are one data set.
_ROOTS_A_BUCKET = 16

# Once a session has asked for so many blocks it has shown which data set it reads. Until then all of
# a bucket counts as its data, so that its own is not mistaken for what somebody else left.
_BLOCKS_TO_SHOW_INTEREST = 256

# Notes that nobody collects are not kept beyond this; a note is some KB, and collected once a batch.
_MOST_NOTES_BYTES = 16 << 20


class ClientPage:
    """The memory that one client writes and the engine reads: counters, and a byte a segment.

    The engine makes it, sealed, so that a client cannot make it shrink under the engine.
    """

    def __init__(self, segments: int) -> None:
        size = CLIENT_PAGE_SIZE + segments
        self.fd = os.memfd_create("ioaccel-client", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, size)
        os.pwrite(self.fd, client_page(segments), 0)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self._map = mmap.mmap(self.fd, size)

    def counters(self) -> dict[str, int]:
        """What the client has counted so far."""
        return dict(zip(CLIENT_COUNTERS, struct.unpack_from("<6Q", self._map, 16), strict=True))

    def take_touched(self) -> list[int]:
        """The segments read since the last call, as positions in the generation table."""
        marks = self._map[CLIENT_PAGE_SIZE:]
        touched = [i for i, mark in enumerate(marks) if mark] if any(marks) else []
        for position in touched:
            self._map[CLIENT_PAGE_SIZE + position] = 0
        return touched

    def close(self) -> None:
        self._map.close()
        os.close(self.fd)


@dataclass
class Session:
    """One job: the process tree below one ``connect()``."""

    name: str
    clients: int = 0
    blocks_asked: int = 0
    touched: set[int] = field(default_factory=set)  # positions in the generation table
    _roots: dict[str, dict[str, str]] = field(default_factory=dict)  # bucket -> first part -> root
    _boards: dict[str, list[bytes]] = field(default_factory=dict)
    _notes_bytes: int = 0
    _last_root: tuple[str, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)  # several clients ask at once

    def asked(self, url: str) -> None:
        """Takes note of a block that the session wants."""
        with self._lock:
            if url.startswith(self._last_root):  # nearly always; it shows nothing new
                self.blocks_asked += 1
            else:
                self._asked(url)

    def _asked(self, url: str) -> None:
        self.blocks_asked += 1
        bucket, first = _bucket_and_first(url)
        roots = self._roots.setdefault(bucket, {})
        if "" in roots:
            return
        root = roots.get(first)
        if root is None:
            roots[first] = directory_of(url)
            if len(roots) > _ROOTS_A_BUCKET:
                self._roots[bucket] = {"": bucket}
                return
        elif not url.startswith(root):
            roots[first] = directory_of(_common_prefix(root, url))
        self._last_root = (roots[first],)

    def post(self, board: str, note: bytes) -> None:
        """Keeps a note until it is collected, or the session ends."""
        with self._lock:
            if self._notes_bytes + len(note) <= _MOST_NOTES_BYTES:
                self._boards.setdefault(board, []).append(note)
                self._notes_bytes += len(note)

    def collect(self, board: str) -> list[bytes]:
        """The notes on a board, which is empty afterwards."""
        with self._lock:
            notes = self._boards.pop(board, [])
            self._notes_bytes -= sum(map(len, notes))
            return notes

    def reads_below(self, prefix: str) -> bool:
        """Whether a segment whose URLs all begin with ``prefix`` may hold what the session reads."""
        prefix = directory_of(prefix)
        with self._lock:
            if self.blocks_asked < _BLOCKS_TO_SHOW_INTEREST:
                return any(prefix.startswith(bucket) or bucket.startswith(prefix) for bucket in self._roots)
            return any(
                prefix.startswith(root) or root.startswith(prefix)
                for roots in self._roots.values()
                for root in roots.values()
            )


def directory_of(url: str) -> str:
    """The URL up to and including its last slash."""
    return url[: url.rfind("/") + 1]


def _common_prefix(a: str, b: str) -> str:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return a[:length]


def _bucket_and_first(url: str) -> tuple[str, str]:
    """``s3://b/train/x`` -> (``s3://b/``, ``train``); an object at the top has the first part ''."""
    scheme, separator, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    first, slash, _ = key.partition("/")
    return f"{scheme}{separator}{bucket}/", first if slash else "\0"


class Clients:
    """The clients that are attached, by session. Any thread."""

    def __init__(self, segments: int) -> None:
        self._segments = segments
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._names: frozenset[str] = frozenset()
        self._pages: dict[ClientPage, Session] = {}
        self._departed: Counter[str] = Counter()
        self._touched_ms: dict[int, int] = {}  # by position: when a read was last seen there

    def join(self, session: str) -> ClientPage:
        page = ClientPage(self._segments)
        with self._lock:
            self._pages[page] = self._sessions.setdefault(session, Session(session))
            self._pages[page].clients += 1
            self._names = frozenset(self._sessions)
        return page

    def leave(self, page: ClientPage) -> None:
        """Keeps what the client counted; its session ends with its last client."""
        with self._lock:
            session = self._pages.pop(page)
            self._harvest(page, session)
            session.clients -= 1
            if session.clients == 0:
                del self._sessions[session.name]
                self._names = frozenset(self._sessions)
            self._departed.update(page.counters())
            page.close()

    def session(self, name: str) -> Session:
        """The session; one of its own for a client that never attached."""
        with self._lock:
            return self._sessions.get(name) or Session(name)

    def sessions(self) -> list[Session]:
        """The live sessions, with what they have touched up to now."""
        with self._lock:
            for page, session in self._pages.items():
                self._harvest(page, session)
            return list(self._sessions.values())

    def _harvest(self, page: ClientPage, session: Session) -> None:
        """Collects the segments that a client has read since the last time."""
        touched = page.take_touched()
        session.touched.update(touched)
        self._touched_ms.update(dict.fromkeys(touched, int(time.time() * 1000)))

    def touched_ms(self, position: int) -> int:
        """When a read of the segment was last seen; 0 if none was."""
        with self._lock:
            return self._touched_ms.get(position, 0)

    def names(self) -> frozenset[str]:
        """The live sessions."""
        return self._names

    def counters(self) -> dict[str, int]:
        """The sums over all clients there have been."""
        with self._lock:
            total = Counter(self._departed)
            for page in self._pages:
                total.update(page.counters())
            return {name: total[name] for name in CLIENT_COUNTERS}

    def __len__(self) -> int:
        with self._lock:  # who has left by this count has closed its page, too
            return len(self._pages)
