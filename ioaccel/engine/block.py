"""Blocks: what is cached of an object at a time, and their keys in the index."""

from __future__ import annotations

import msgspec


class Block(msgspec.Struct, frozen=True):
    """One block on its way to a segment."""

    key: bytes
    url: str
    version: str
    object_size: int
    object_offset: int
    checked_ms: int


def block_of(base: bytes, number: int) -> bytes:
    """The key of block ``number``: the object's, with the number added to its second word."""
    if number == 0:
        return base
    high = (int.from_bytes(base[8:], "little") + number) & (2**64 - 1)
    return base[:8] + high.to_bytes(8, "little")


def length_at(location: bytes) -> int:
    """The bytes of the block that stands there (csrc/ia_layout.h)."""
    return int.from_bytes(location[16:20], "little")
