"""Batches on their way to a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    if isinstance(batch, Mapping):
        made: Any = copy.copy(batch)
        made.update({key: _each_tensor(value, change) for key, value in batch.items()})
        return made
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


class MovedAhead:
    """The batches on ``device``; on a GPU, each is copied while the one before it is used.

    An error in place of a batch is raised in its place.
    """

    def __init__(self, batches: Iterator[Any], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._waiting: tuple[Any, Any, Any] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._stream is None:
            return _each_tensor(next(self._batches), lambda t: t.to(self._device))
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        now = self._waiting or self._pull(self._stream)
        self._waiting = None
        try:
            self._waiting = self._pull(self._stream)
        except Exception as error:  # noqa: BLE001  # the next call's, StopIteration among them
            self._error = error
        return _arrived(now, self._device)

    def _pull(self, stream: Any) -> tuple[Any, Any, Any]:
        batch = next(self._batches)
        with torch.cuda.stream(stream):
            moved = _each_tensor(batch, lambda t: t.to(self._device, non_blocking=True))
            return moved, stream.record_event(), batch  # which must live until it is copied


def _arrived(waiting: tuple[Any, Any, Any], device: torch.device) -> Any:
    """The copy; the stream that uses it waits for its end."""
    moved, copied, _ = waiting
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)

    def used_there(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(current)
        return tensor

    return _each_tensor(moved, used_there)
