"""What the tests of ``accelerate`` share."""

from __future__ import annotations

import pickle
from typing import Any

from torch.utils.data import DataLoader

from ioaccel.testing.countproxy import CountingProxy
from support import DataSet
from support import torch_data as td

COUNT = 40
Options = dict[str, Any]


def loader_of(dataset: Any, **kwargs: Any) -> DataLoader[Any]:
    workers = {"timeout": 50} if kwargs.get("num_workers") else {}
    return DataLoader(dataset, **{"batch_size": 4, "collate_fn": td.as_is} | workers | kwargs)


def epoch(loader: Any) -> dict[int, bytes]:
    return {index: sample for batch in loader for index, sample in batch}


def expected(data: DataSet) -> dict[int, bytes]:
    return dict(enumerate(map(data.data, data.urls)))


def total(proxy: CountingProxy) -> int:
    return proxy.reset().requests.total()


def unpickled(thing: Any) -> Any:
    """As another process has it, with a connection of its own."""
    return pickle.loads(pickle.dumps(thing))
