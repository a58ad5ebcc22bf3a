"""Contestants that cheat or break, for the benchmark's own tests."""

from __future__ import annotations

import time
from typing import Any

from bench.contestants.local import Local


class WrongByte(Local):
    """Its last sample is not what the store has."""

    def read(self, number: int) -> bytes:
        data = super().read(number)
        return data[:-1] + bytes([data[-1] ^ 1]) if number == len(self.truth) - 1 else data


class WrongSecondJob(WrongByte):
    """Of two jobs with a cache each, the second one, where it is timed."""

    place = "cache/1"

    def read(self, number: int) -> bytes:
        wrong = self.settings["cache_dir"].endswith(self.place)
        return super().read(number) if wrong else Local.read(self, number)


class WrongSecondJobCold(WrongSecondJob):
    """The same, where its cache is checked empty."""

    place = "cold/1"


class TooFew(Local):
    """Leaves a sample out, which makes it faster."""

    def dataset(self) -> Any:
        whole = super().dataset()

        class Short(type(whole)):  # type: ignore[misc]
            def __len__(self) -> int:
                return super().__len__() - 1

        return Short(self)


class OfAllFiles(Local):
    """Wants samples of more than one file."""

    def open(self) -> None:
        if len(self.keys) < 2:
            raise ValueError(f"all samples are of {self.keys}")
        super().open()


class Hangs(Local):
    """Begins an epoch and never ends it."""

    def epoch(self, step_s: float = 0.0) -> dict[str, Any]:
        time.sleep(1000)
        return {}
