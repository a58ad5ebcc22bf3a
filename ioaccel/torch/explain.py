"""What an accelerated loader does, and what it waited for."""

from __future__ import annotations

from dataclasses import dataclass, field

from ioaccel.torch.tally import Counts

# What a batch is waited for, in the order of the road.
CAUSES = ("queue", "store", "disk", "copy", "code")


@dataclass
class Epoch:
    """One epoch: ``waited`` seconds in ``next(iterator)``, and those of all workers by cause."""

    batches: int = 0
    samples: int = 0  # that workers have counted
    served: int = 0  # reads of theirs that came from the cache
    waited: float = 0.0
    workers: int = 1
    store: float = 0.0  # waiting for what was not cached
    disk: float = 0.0  # waiting for what was not in memory
    reading: float = 0.0  # with both of them
    code: float = 0.0  # the data set's own

    def add(self, before: Counts, now: Counts) -> None:
        """Takes note of what workers have counted in between."""
        self.samples += now.samples - before.samples
        self.served += now.served - before.served
        self.store += now.store - before.store
        self.disk += now.disk - before.disk
        self.reading += now.reading - before.reading
        self.code += now.code - before.code

    @property
    def copy(self) -> float:
        """The rest of reading. Threads that share a reader tell what it waited for before they have read."""
        return max(0.0, self.reading - self.store - self.disk)

    def waits(self) -> dict[str, float]:
        """The seconds of ``waited`` by cause.

        Workers at work share what is waited for by what they do; what is left is the queue between
        them and this process: indices and batches on their way, and collating.
        """
        busy = self.store + self.disk + self.copy + self.code
        caused = min(self.waited, busy / max(self.workers, 1))
        shares = {c: getattr(self, c) / busy * caused if busy else 0.0 for c in CAUSES[1:]}
        return {"queue": self.waited - caused, **shares}


@dataclass
class Explanation:
    """``source`` says where prefetch knows from what samples read; ``epochs`` what each waited for."""

    source: str
    epochs: list[Epoch] = field(default_factory=list)
    first: int = 1  # the number of the first of them
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"ioaccel: {self.source}"]
        for number, epoch in enumerate(self.epochs, self.first):
            waits = ", ".join(f"{cause} {seconds:.2f}" for cause, seconds in epoch.waits().items())
            lines.append(f"epoch {number}: {epoch.batches} batches, waited {epoch.waited:.2f} s: {waits}")
        lines += [f"not accelerated: {what}: {why}" for what, why in self.refused.items()]
        return "\n".join(lines)
