"""The PyTorch adapter: any data set and any loader, read through the cache."""

from ioaccel.torch.accelerate import accelerate

__all__ = ["accelerate"]
