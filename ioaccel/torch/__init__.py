"""The PyTorch adapter: any data set and any loader, read through the cache."""

from ioaccel.torch.accelerate import accelerate
from ioaccel.torch.device import TensorBatch
from ioaccel.torch.loader import Loader
from ioaccel.torch.native import ObjectDataset, ShardDataset

__all__ = ["Loader", "ObjectDataset", "ShardDataset", "TensorBatch", "accelerate"]
