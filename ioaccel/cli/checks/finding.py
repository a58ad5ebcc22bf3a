"""One thing that was looked at."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class Level(enum.Enum):
    """How much a finding matters."""

    OK = "OK"
    NOTE = "note"  # ioaccel works, and could work better
    PROBLEM = "problem"  # ioaccel does not work


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found under ``topic``, what to do about it, and the figures for programs.

    ``directory`` is the cache directory that it is about, if it is about one.
    """

    level: Level
    topic: str
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    directory: str = ""


def ok(topic: str, text: str, **facts: Any) -> Finding:
    """All is well."""
    return Finding(Level.OK, topic, text, "", facts)


def note(topic: str, text: str, advice: str, **facts: Any) -> Finding:
    """It works, and could work better."""
    return Finding(Level.NOTE, topic, text, advice, facts)


def problem(topic: str, text: str, advice: str, **facts: Any) -> Finding:
    """ioaccel does not work like this."""
    return Finding(Level.PROBLEM, topic, text, advice, facts)
