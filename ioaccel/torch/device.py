"""Batches on their way to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class TensorBatch(Sequence[torch.Tensor]):
    """Objects as ``uint8`` tensors, back to back in one.

    ``buffer``   the tensor that holds them all, which is moved and pinned as one
    ``lengths``  bytes of each

    ``batch[i]`` is a view of item ``i``; so is what iteration yields.
    """

    __slots__ = ("buffer", "lengths")

    def __init__(self, buffer: torch.Tensor, lengths: list[int]) -> None:
        self.buffer = buffer
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(torch.split(self.buffer, self.lengths))

    def __getitem__(self, index: Any) -> Any:
        return torch.split(self.buffer, self.lengths)[index]

    def to(self, *args: Any, **kwargs: Any) -> TensorBatch:
        """As ``torch.Tensor.to``."""
        return TensorBatch(self.buffer.to(*args, **kwargs), self.lengths)

    def pin_memory(self) -> TensorBatch:
        """As ``torch.Tensor.pin_memory``."""
        return TensorBatch(self.buffer.pin_memory(), self.lengths)

    def __repr__(self) -> str:
        return f"<TensorBatch of {len(self)} items, {self.buffer.numel()} bytes>"


def _each_tensor(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure of other tensors."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
    if isinstance(batch, TensorBatch):
        return TensorBatch(change(batch.buffer), batch.lengths)
    if isinstance(batch, dict):
        return type(batch)((key, _each_tensor(value, change)) for key, value in batch.items())
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_each_tensor(value, change) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(_each_tensor(value, change) for value in batch)
    return batch


def pinned(batch: Any) -> Any:
    """The batch in pinned memory; as it is, where there is no GPU."""
    if not torch.cuda.is_available():
        return batch
    return _each_tensor(batch, torch.Tensor.pin_memory)


def pinned_array(size: int) -> npt.NDArray[np.uint8]:
    """Memory of ``size`` bytes from torch's pool of pinned memory; plain memory, where there is no GPU."""
    pin = torch.cuda.is_available()
    return torch.empty(size, dtype=torch.uint8, pin_memory=pin).numpy()


def moved_ahead(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches on ``device``; each is copied while the one before it is used."""
    if device.type != "cuda":
        yield from (_each_tensor(batch, lambda t: t.to(device)) for batch in batches)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Any, Any, Any] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = _each_tensor(batch, lambda t: t.to(device, non_blocking=True))
            copied = stream.record_event()
        if waiting is not None:
            yield _arrived(waiting, device)
        waiting = moved, copied, batch  # the source must live until it is copied
    if waiting is not None:
        yield _arrived(waiting, device)


def _arrived(waiting: tuple[Any, Any, Any], device: torch.device) -> Any:
    """The copy; the stream that uses it waits for its end."""
    moved, copied, _ = waiting
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)

    def used_there(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(current)
        return tensor

    return _each_tensor(moved, used_there)
