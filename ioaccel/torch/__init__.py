"""ioaccel for PyTorch: data sets that read through the cache. See each class."""

from ioaccel.torch.native import ObjectDataset, ShardDataset

__all__ = ["ObjectDataset", "ShardDataset"]
