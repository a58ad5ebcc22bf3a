"""The reads of one piece of a program: where they are served from, and what they were."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from ioaccel.client.file import BUFFER_SIZE, BufferedObjectFile
from ioaccel.client.reader import Reader, TooLong
from ioaccel.errors import RangeError
from ioaccel.intercept.reads import Ledger, Read, Target, local
from ioaccel.intercept.served import RangesFile, WholeFile
from ioaccel.sources import split
from ioaccel.sources.urls import canonical

log = logging.getLogger("ioaccel")

# Up to this an object is read whole when it is opened: it is one block of the cache, so nothing more is
# fetched than for its first byte, and one read costs less than a file does. Larger ones are read as they
# are asked for.
WHOLE_BYTES = 4 << 20


# What one batch reads ahead and holds in memory of whole objects: beyond this they are only asked for.
_AHEAD_BYTES = 64 << 20
# The same of parts, which are not held: they are read once more, from the cache.
_COPIED_BYTES = 8 << 20


class Scope(Ledger):
    """Serves the reads of the thread that has entered it, and takes note of them. One thread at a time."""

    def __init__(self, reader: Reader, directories: Iterable[str | os.PathLike[str]] = ()) -> None:
        super().__init__()
        self._reader = reader
        self._directories = tuple(os.path.join(os.path.abspath(d), "") for d in directories)
        self._targets: dict[tuple[str, str], Target] = {}  # by scheme and options
        self.file_systems: dict[str, Target | None] = {}  # by fsspec's token
        self.quick: list[tuple[str, dict[str, Any], Target | None]] = []  # asked of fsspec.open
        self.stores: dict[str, Reader] = {}  # by identity
        self.held: dict[tuple[str, str], memoryview] = {}  # whole objects read ahead, by store and URL
        self._typical_bytes = float(1 << 20)  # of objects, until some were seen
        self.refused: dict[str, str] = {}  # why reads were left to the original, by what was read

    def __enter__(self) -> Self:
        local.ledgers = (*local.ledgers, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        local.ledgers = local.ledgers[:-1]

    # ---- where ----------------------------------------------------------------------------------

    def target(self, scheme: str, options: Mapping[str, Any]) -> Target:
        """The store of a scheme that is reached with these options. Raises ConfigError for unknown ones."""
        key = (scheme, repr(sorted(options.items())))
        target = self._targets.get(key)
        if target is None:
            scheme = split(f"{scheme}://x/x")[0]
            reader = self._reader.with_options(scheme, options) if options else self._reader
            target = self._targets[key] = self.target_of(reader, scheme)
        return target

    def target_of(self, reader: Reader, scheme: str) -> Target:
        """The store of a scheme as a reader reaches it."""
        store = reader.spec_of(scheme).identity.hex()
        return Target(store, self.stores.setdefault(store, reader))

    def path(self, path: Any) -> str | None:
        """The absolute path, if it lies below one of the directories."""
        text = os.fsdecode(path)
        if not text.startswith("/") or "/." in text or "//" in text:
            text = os.path.abspath(text)
        return text if text.startswith(self._directories) else None

    # ---- reading --------------------------------------------------------------------------------

    def open(
        self, target: Target, url: str, name: str, path: str | None = None
    ) -> WholeFile | BufferedObjectFile | None:
        """The object as a file, or None if the cache cannot serve it. ``path`` is that of a local file."""
        begun = perf_counter()
        try:
            data = self._whole(target, url)
            if isinstance(data, bytes):
                return WholeFile(data, name, path)
            size, version = data
            return BufferedObjectFile(
                RangesFile(target, canonical(url), name, size, version, path), BUFFER_SIZE
            )
        except Exception as error:  # noqa: BLE001  # the original function will say it in its own words
            self.refuse(url, error)
            return None
        finally:
            self.seconds += perf_counter() - begun

    def read(self, target: Target, url: str, offset: int = 0, length: int | None = None) -> bytes | None:
        """Bytes of the object, or None if the cache cannot serve them."""
        begun = perf_counter()
        try:
            if offset == 0 and length is None:
                data = self._whole(target, url)
                if isinstance(data, bytes):
                    return data
            reader = target.reader
            found = reader.hit(url, offset, length)
            if found is None:
                try:
                    found = bytes(reader.read_batch([(url, offset, length)])[0])
                except RangeError:  # stores give what there is
                    length = reader.size_and_version(url)[0] - offset
                    if length <= 0:
                        raise
                    found = bytes(reader.read_batch([(url, offset, length)])[0])
        except Exception as error:  # noqa: BLE001
            self.refuse(url, error)
            return None
        else:
            self.reads.append(Read(target.store, url, offset, length))
            return found
        finally:
            self.seconds += perf_counter() - begun

    def read_many(self, target: Target, extents: Sequence[tuple[str, int, int | None]]) -> list[bytes] | None:
        """Many extents at once, or None if the cache cannot serve one of them."""
        begun = perf_counter()
        try:
            found = [bytes(part) for part in target.reader.read_batch(extents)]
        except Exception as error:  # noqa: BLE001
            self.refuse(extents[0][0], error)
            return None
        else:
            self.reads += [Read(target.store, *extent) for extent in extents]
            return found
        finally:
            self.seconds += perf_counter() - begun

    def _whole(self, target: Target, url: str) -> bytes | tuple[int, int]:
        held = self.held.get((target.store, url)) if self.held else None
        data = bytes(held) if held is not None else target.reader.read_small(url, WHOLE_BYTES)
        if isinstance(data, bytes):
            self.reads.append(Read(target.store, url, 0, None))
        return data

    def read_ahead(self, reads: Sequence[Read], *, hint: bool = False) -> None:
        """Asks for all that is missing among these extents at once; the next opens find it.

        With ``hint``, the disk is told of the others. Errors are left to whoever reads.
        """
        begun = perf_counter()
        for store, reader in list(self.stores.items()):
            wanted = list(dict.fromkeys(r[1:] for r in reads if r.store == store))
            try:
                missing = reader.missing(wanted, hint=hint)
                # What passes by the cache is missing still, and held: it must not be fetched once more.
                self._read_missing(store, reader, [m for m in missing if (store, m[0]) not in self.held])
            except TooLong:
                pass  # what is small was fetched nevertheless
            except Exception as error:  # noqa: BLE001
                log.debug("read ahead: %s", error)
        self.seconds += perf_counter() - begun

    def _read_missing(
        self, store: str, reader: Reader, missing: Sequence[tuple[str, int, int | None]]
    ) -> None:
        whole = [url for url, offset, length in missing if offset == 0 and length is None]
        most = max(8, int(_AHEAD_BYTES / self._typical_bytes))
        if whole[most:]:
            reader.prefetch([(url, 0, None) for url in whole[most:]])
        if whole:
            batch = reader.read_all_small(whole[:most], WHOLE_BYTES)
            self._typical_bytes = max(1.0, batch.nbytes / len(batch))
            self.held.update(((store, url), data) for url, data in zip(whole, batch, strict=False))
        pieces = [extent for extent in missing if extent[2] is not None]
        size = sum(length or 0 for _, _, length in pieces)
        if pieces and size > _COPIED_BYTES:
            reader.prefetch(pieces)
        elif len(pieces) > 1:  # one alone is as fast without
            reader.read_batch(pieces)  # they are cached now, or in transit

    def refuse(self, what: str, why: object) -> None:
        """Takes note of a read that is left to the original function."""
        if len(self.refused) < 100:
            self.refused.setdefault(what, str(why))


def current() -> Scope | None:
    """The scope that this thread is in."""
    ledgers = local.ledgers
    return ledgers[-1] if ledgers else None  # type: ignore[return-value]  # none but scopes are entered
