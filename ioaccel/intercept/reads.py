"""What was read."""

from __future__ import annotations

import threading
from typing import NamedTuple

from ioaccel.client.reader import Reader


class Read(NamedTuple):
    """One extent that was read: ``store`` is the identity of its store, in hexadecimal."""

    store: str
    url: str
    offset: int
    length: int | None


class Target(NamedTuple):
    """A store, as the program reaches it."""

    store: str
    reader: Reader


class Ledger:
    """``reads`` grows by what was read, in order; ``seconds`` by the time that it took."""

    def __init__(self) -> None:
        self.reads: list[Read] = []
        self.seconds = 0.0


class _Local(threading.local):
    ledgers: tuple[Ledger, ...] = ()


local = _Local()


def open_ledger() -> Ledger | None:
    """The one that this thread's reads go into now."""
    return local.ledgers[-1] if local.ledgers else None
