"""Batches on their way to a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch


def _each_tensor(batch: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same structure of other tensors."""
    if isinstance(batch, torch.Tensor):
        return change(batch)
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


def empty(size: int, *, pin: bool) -> torch.Tensor | None:
    """Pinned memory of ``size`` bytes, from torch's pool of it; None if any memory will do."""
    if not pin or not torch.cuda.is_available():
        return None
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def moved_ahead(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    """The batches on ``device``; each is copied while the one before it is used."""
    if device.type != "cuda":
        yield from (_each_tensor(batch, lambda t: t.to(device)) for batch in batches)
        return
    stream = torch.cuda.Stream(device)
    waiting: Any = None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = _each_tensor(batch, lambda t: t.to(device, non_blocking=True))
            copied = stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, device)
        waiting = moved, copied, batch  # the source must live until it is copied
    if waiting is not None:
        yield _arrived(*waiting, device)


def _arrived(moved: Any, copied: Any, source: Any, device: torch.device) -> Any:
    """The copy, once the stream that uses it waits for its end."""
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)

    def used_there(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(current)
        return tensor

    batch = _each_tensor(moved, used_there)
    del source
    return batch
