"""What the engine knows of objects."""

from __future__ import annotations

from support.core import IDENTITY, NOW_MS

from ioaccel._core._engine import Index, block_key
from ioaccel.engine.flights import Flights
from ioaccel.engine.objects import Objects
from ioaccel.sources import ObjectInfo

BASE = block_key(IDENTITY, "s3://bucket/key")


def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    objects = Objects(Index([1], [20 << 20]), Flights(), lambda key, location: True)
    old, new = ObjectInfo("key", 3, '"old"'), ObjectInfo("key", 5, '"new"')
    assert objects.note(BASE, old, NOW_MS).version == '"old"'
    assert objects.note(BASE, new, NOW_MS + 2).version == '"new"'
    assert objects.note(BASE, old, NOW_MS + 1).version == '"new"'
    assert objects.size(BASE) == 5
    # Answers of one moment: the one that came last.
    assert objects.note(BASE, old, NOW_MS + 2).version == '"old"'
