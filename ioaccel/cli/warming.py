"""Bringing a listing into the cache, chunk by chunk, and counting what became of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from ioaccel.cli.listing import Listing, Object
from ioaccel.cli.progress import Pace, shown

if TYPE_CHECKING:
    from ioaccel import Cache
    from ioaccel.errors import IOAccelError

# A chunk is one request to the engine: enough extents to fill any governor's limit, and as many bytes
# as take a few seconds, so that the bar moves and the time limit of a request is far away.
_CHUNK_PIECES = 512
_FIRST_CHUNK_BYTES = 256 << 20
_SMALLEST_CHUNK_BYTES, _LARGEST_CHUNK_BYTES = 32 << 20, 8 << 30
_QUICK_SECONDS, _SLOW_SECONDS = 2.0, 8.0

# Large objects are asked for in pieces: half of what the engine takes on as one extent.
_PIECE_BYTES = 32 << 20

# Blocks that a session must have asked for before the engine evicts what others left (its
# BLOCKS_TO_SHOW_INTEREST): until then a full cache is no reason to give up.
_BLOCKS_BEFORE_EVICTION = 256
_BLOCK_BYTES = 4 << 20


class Piece(NamedTuple):
    """What is asked for at a time: a whole object, or a part of a large one."""

    object: Object
    offset: int
    length: int | None  # None: to the end of an object of unknown size
    last: bool


@dataclass
class Tally:
    """What became of the objects of a listing; those that are ``stored`` are in the cache as a whole."""

    stored: int = 0
    stored_bytes: int = 0
    passed: int = 0  # for want of room
    failed: int = 0
    errors: list[IOAccelError] = field(default_factory=list)  # one for each that failed


def warm_all(cache: Cache, listing: Listing, pace: Pace) -> Tally:
    """Has everything in ``listing`` cached, until it is or the cache is full."""
    tally = Tally()
    with shown(f"Warming {listing.name}", pace):
        passed, full = _round(cache, listing.objects, tally, pace)
        if passed and not full:
            # What came before the engine would evict what others left may have room now.
            _round(cache, passed, tally, pace)
    tally.passed = listing.count - tally.stored - tally.failed
    return tally


def check_all(cache: Cache, listing: Listing, pace: Pace) -> Tally:
    """Counts what is cached, and asks the store nothing.

    An object of unknown size counts as stored if any of it is.
    """
    tally = Tally()
    objects = iter(listing.objects)
    with shown(f"Checking {listing.name}", pace):
        while chunk := list(islice(objects, 10_000)):
            sizes = cache.resident([o.url for o in chunk])
            for each, cached in zip(chunk, sizes, strict=True):
                tally.stored += cached >= (1 if each.size is None else each.size)
            tally.stored_bytes += sum(sizes)
            pace.add(len(chunk), sum(sizes))
    return tally


def _round(cache: Cache, objects: Iterable[Object], tally: Tally, pace: Pace) -> tuple[list[Object], bool]:
    """Asks for all objects once: those that passed, and whether it ended early because the cache is full."""
    pieces: Iterator[Piece] = (piece for each in objects for piece in _cut(each))
    passed: list[Object] = []
    budget, blocks = _FIRST_CHUNK_BYTES, 0
    while chunk := list(_chunk(pieces, budget)):
        begun, stored = time.monotonic(), tally.stored
        large, more_passed = _warm(cache, chunk, tally, pace)
        pieces = chain(pieces, *map(_cut, large))
        passed += more_passed
        in_vain = more_passed and tally.stored == stored
        if in_vain and blocks >= _BLOCKS_BEFORE_EVICTION:
            return passed, True
        blocks += sum(max(1, (p.length or 0) // _BLOCK_BYTES) for p in chunk)
        seconds = time.monotonic() - begun
        if seconds < _QUICK_SECONDS:
            budget = min(2 * budget, _LARGEST_CHUNK_BYTES)
        elif seconds > _SLOW_SECONDS:
            budget = max(budget // 2, _SMALLEST_CHUNK_BYTES)
    return passed, False


def _cut(each: Object) -> Iterator[Piece]:
    """One object in pieces; in one, if its size is not known."""
    if each.size is None:
        yield Piece(each, 0, None, last=True)
        return
    at = 0
    while each.size - at > _PIECE_BYTES:
        yield Piece(each, at, _PIECE_BYTES, last=False)
        at += _PIECE_BYTES
    yield Piece(each, at, each.size - at, last=True)


def _chunk(pieces: Iterator[Piece], budget: int) -> Iterator[Piece]:
    """The next pieces that make a chunk: one at least."""
    for piece in islice(pieces, _CHUNK_PIECES):
        yield piece
        budget -= piece.length or 0
        if budget <= 0:
            return


def _warm(cache: Cache, chunk: list[Piece], tally: Tally, pace: Pace) -> tuple[list[Object], list[Object]]:
    """Has one chunk cached, and counts the objects that end in it.

    Returns, uncounted, those whose size was unknown and that are too large to be asked for at once, and
    those that passed for want of room.
    """
    answer = cache.prefetch([(p.object.url, p.offset, p.length) for p in chunk], wait=True)
    assert answer is not None
    failed = {error.url for error in tally.errors}
    for error in answer.errors:
        if error.url not in failed:
            failed.add(error.url)
            tally.errors.append(error)
    ended = [p.object for p in chunk if p.last]
    large: list[Object] = []
    passed: list[Object] = []
    for each, cached in zip(ended, cache.resident([o.url for o in ended]), strict=True):
        size = each.size
        if each.url in failed:
            tally.failed += 1
        else:
            if size is None:
                # What the engine has just met it knows: the store is not asked again.
                size = cache.stat(each.url).size if answer.passed else cached
            if cached < size:
                known = Object(each.url, size)
                (large if each.size is None and size > _PIECE_BYTES else passed).append(known)
                continue
            tally.stored += 1
            tally.stored_bytes += cached
        pace.add(1, cached if each.size is None else 0)
    pace.add(0, sum(p.length or 0 for p in chunk if not answer.passed))
    return large, passed
