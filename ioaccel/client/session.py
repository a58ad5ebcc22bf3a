"""A job's session with its engine: names, messages, and what to do when the engine is gone.

The engine is reached when it is first needed, by each process for itself, and again after it was lost.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ioaccel import wire
from ioaccel._core._client import Keyring, View
from ioaccel.client.direct import DirectReader
from ioaccel.client.link import Backoff, EngineLost, Link
from ioaccel.config import CacheConfig
from ioaccel.errors import CacheClosedError, IOAccelError, UnsupportedURLError
from ioaccel.sources import SourceSpec, canonical, resolve

if TYPE_CHECKING:
    from typing import Self

log = logging.getLogger("ioaccel")


class Session:
    """One cache, as one process tree uses it. Any thread; survives fork and pickling."""

    def __init__(
        self,
        config: CacheConfig,
        session: str,
        started_ms: int,
        timeout: float,
        sources: dict[str, SourceSpec] | None = None,
    ) -> None:
        self.config = config
        self.session = session
        self.started_ms = started_ms
        self.timeout = timeout
        self._sources: dict[str, SourceSpec] = {}
        self._ring = Keyring()
        self._closed = False
        self._derived: dict[str, Self] = {}  # by their options; closed together with this one
        for spec in (sources or {}).values():
            self._add(spec)
        self._reset()
        _sessions.add(self)

    def _reset(self) -> None:
        """Makes what belongs to one process; also called in a forked child."""
        self._lock = threading.RLock()
        self._link: Link | None = None
        self._view: View | None = None
        self._backoff = Backoff()
        self.direct = DirectReader(self.spec_of)
        self._complained = False
        self._counting = threading.Lock()  # of what was waited for
        self.waited_seconds = 0.0  # for what was not cached; threads that wait together count together
        self._taken = (0.0, 0.0)  # by `take_waits`

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.config,
            "session": self.session,
            "started_ms": self.started_ms,
            "timeout": self.timeout,
            "sources": self._sources,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def with_options(self, scheme: str, options: Mapping[str, Any]) -> Self:
        """One of the same cache and session that reaches the stores of a scheme in another way."""
        # fsspec's file system of http:// reads https://, too.
        schemes = ("http", "https") if scheme in ("http", "https") else (scheme,)
        config = replace(self.config, storage_options={s: dict(options) for s in schemes})
        return self.adopt(type(self)(config, self.session, self.started_ms, self.timeout))

    def adopt(self, other: Self) -> Self:
        """One of the same cache that closes together with this one: the first with its options."""
        with self._lock:
            other._closed = self._closed
            return self._derived.setdefault(repr(other.config.storage_options), other)

    def begin_session(self) -> None:
        """From now on, what the store said before counts only with ``max_age`` or ``immutable``."""
        self.started_ms = int(time.time() * 1000)

    @property
    def disk_seconds(self) -> float:
        """How long copies have waited for the disk, in all threads of this process."""
        view = self._view
        return view.disk_seconds if view is not None else 0.0

    def take_waits(self) -> tuple[float, float]:
        """Seconds that were waited for stores and for disks since the last call, of any thread."""
        with self._counting:
            waits = (self.waited_seconds, self.disk_seconds)
            before, self._taken = self._taken, waits
        # Another engine's counters begin at zero.
        return max(0.0, waits[0] - before[0]), max(0.0, waits[1] - before[1])

    def close(self) -> None:
        """Hangs up; the private engine leaves after its last client."""
        with self._lock:
            self._closed = True
            self._drop()
            derived, self._derived = self._derived, {}
        for other in derived.values():
            other.close()

    # ---- names ----------------------------------------------------------------------------------

    def spec_of(self, scheme: str) -> SourceSpec:
        """How to reach the stores of a scheme; settled once for the session, and for its workers."""
        spec = self._sources.get(scheme)
        if spec is None:
            with self._lock:
                spec = self._sources.get(scheme)
                if spec is None:
                    spec = resolve(scheme, self.config.storage_options)
                    self._add(spec)
        return spec

    def _add(self, spec: SourceSpec) -> None:
        self._ring.add(spec.scheme, spec.identity)
        self._sources[spec.scheme] = spec

    def canonical(self, url: str | os.PathLike[Any]) -> str:
        """The canonical URL, whose scheme is known from now on."""
        name = canonical(url)
        scheme, _, rest = name.partition("://")
        if not rest:
            raise UnsupportedURLError(f"cannot read {name!r}: it names nothing", url=name)
        self.spec_of(scheme)
        return name

    def sources_of(self, urls: Iterable[str]) -> dict[str, SourceSpec]:
        """What the engine must know to read these canonical URLs."""
        schemes = {url[: url.index("://")] for url in urls}
        return {scheme: self.spec_of(scheme) for scheme in schemes}

    def oldest_ms(self) -> int:
        """A version that was last checked before this does not count."""
        if self.config.max_age is not None:
            return int((time.time() - self.config.max_age) * 1000)
        return 0 if self.config.consistency == "immutable" else self.started_ms

    # ---- the engine -----------------------------------------------------------------------------

    def _current(self) -> View | None:
        """The view of a live engine, or None if there is none for now."""
        view = self._view
        if view is not None and view.current:
            return view
        with self._lock:
            if self._closed:
                raise CacheClosedError("this cache was closed; connect() again")
            try:
                return self._renew().view
            except EngineLost:
                self._drop()
                return None

    def _renew(self) -> Link:
        """The link to a live engine; the caller holds the lock. EngineLost if there is none for now."""
        link = self._link
        if link is not None and link.view.alive:
            if not link.view.current:
                link.remap()
            return link
        self._drop()
        if not self._backoff.ready():
            raise EngineLost("waiting to try again")
        try:
            self.attach()
        except IOAccelError as error:
            self._backoff.failed()
            if not self._complained:
                log.warning("%s; reading the store directly until an engine can be reached", error)
                self._complained = True
            raise EngineLost(str(error)) from error
        assert self._link is not None
        if self._complained:
            log.warning("engine %d serves the cache again", self._link.engine_pid)
            self._complained = False
        self._backoff.worked()
        return self._link

    def attach(self) -> None:
        """Reaches the engine now, and raises the reason if that cannot be done."""
        with self._lock:
            if self._link is None:
                self._link = Link(self.config.directories, self.config.capacities, self.session)
                self._view = self._link.view

    def _drop(self) -> None:
        self._view = None
        if self._link is not None:
            self._link.close()
            self._link = None

    def ask(self, message: wire.Message, timeout: float | None = None) -> wire.Answer | None:
        """The engine's answer, or None if there is no engine; a dead one is replaced once."""
        for _ in range(2):
            with self._lock:
                if self._closed:
                    raise CacheClosedError("this cache was closed; connect() again")
                try:
                    link = self._renew()
                except EngineLost:
                    return None
            try:
                return link.request(message, self.timeout if timeout is None else timeout)
            except EngineLost as lost:
                with self._lock:
                    if self._link is link:
                        log.info("the engine is gone (%s)", lost)
                        self._drop()
        return None

    def prefetch(self, extents: list[wire.Extent], plan: wire.Plan | None = None) -> None:
        """Asks for extents with canonical URLs to be cached soon. Those of a plan are read in its order."""
        sources = self.sources_of(extent[0] for extent in extents)
        self.ask(wire.Prefetch(self.session, sources, extents, self.oldest_ms(), self.timeout, plan=plan))

    def post(self, board: str, note: bytes) -> None:
        """Leaves a note for other processes of the session; it is lost if there is no engine."""
        self.ask(wire.Post(self.session, board, note))

    def collect(self, board: str) -> list[bytes]:
        """The notes that were left, and are taken away."""
        answer = self.ask(wire.Collect(self.session, board))
        return answer.notes if isinstance(answer, wire.Notes) else []


# ---- forks --------------------------------------------------------------------------------------

_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _after_fork() -> None:
    """In the child: hangs up what was inherited (the parent keeps its own) and begins anew."""
    for session in list(_sessions):
        session._drop()
        session._reset()


os.register_at_fork(after_in_child=_after_fork)
