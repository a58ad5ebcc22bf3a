"""What the arms of ``python -m bench torch`` are told, and what is known of them so far."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.arm import Arm, ArmFailedError

KINDS = {
    "plain": "bench.torch_arms:Plain",
    "obstore": "bench.torch_arms:Obstore",
    "accelerate": "bench.torch_arms:Accelerated",
    "loader": "bench.torch_arms:Native",
    "local": "bench.torch_arms:Local",
    "whole": "bench.torch_arms:Whole",
    "joined": "bench.torch_arms:Joined",
}
CACHED = ("accelerate", "loader")
# At 36-80 samples a second, 5 seconds: four batches for the two workers.
PLAIN_SAMPLES = 256


@dataclass(frozen=True)
class Setting:
    """What an arm needs to know, as it is sent to its process."""

    root: str  # URL of the prefix that holds the objects
    many: str  # URL of the prefix with very many keys
    samples: int
    files: str  # the directory where the objects are files
    truth: str  # sizes and CRCs, a row a sample: a numpy file
    options: dict[str, Any]  # for fsspec
    cache_dir: str = ""
    persistent: bool = False  # keep the workers from epoch to epoch

    def arm(self, kind: str, caches: Path) -> Arm:
        """The process of an arm, with a cache of its own below ``caches``."""
        own = replace(self, samples=self.samples_of(kind), cache_dir=str(caches / kind))
        return Arm(KINDS[kind], asdict(own))

    def samples_of(self, kind: str) -> int:
        """How many samples an epoch of this arm has."""
        return min(self.samples, PLAIN_SAMPLES) if kind == "plain" else self.samples

    def epoch(self, kind: str, arm: Arm) -> dict[str, Any]:
        """A timed epoch. ArmFailedError if it does not bring all there is."""
        answer = arm.ask("epoch")
        count = self.samples_of(kind)
        total = int(np.load(self.truth)[:count, 0].sum())
        if (answer["samples"], answer["bytes"]) != (count, total):
            raise ArmFailedError(f"{arm.kind}.epoch: {answer} are not {count} samples of {total} bytes")
        return answer


class Results:
    """What was measured so far."""

    def __init__(self) -> None:
        # By arm and epoch ("accelerate 2"), a figure a round.
        self.rates: dict[str, list[float]] = defaultdict(list)  # samples a second
        self.gets: dict[str, list[float]] = defaultdict(list)  # requests a sample
        self.figures: dict[str, float] = {}
        self.failures: list[str] = []

    def failed(self, error: Exception) -> None:
        """Notes why figures are missing, and says so at once."""
        message = str(error)
        if message not in self.failures:
            self.failures.append(message)
            print(f"  failed: {message}", flush=True)

    def ratio(self, name: str, of: str, to: str) -> None:
        """The median over the rounds of one rate to another, as the figure ``name``."""
        if self.rates[of] and self.rates[to]:
            pairs = zip(self.rates[of], self.rates[to], strict=False)  # a round may be missing
            self.figures[name] = statistics.median(a / b for a, b in pairs)
