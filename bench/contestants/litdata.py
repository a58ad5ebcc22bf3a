"""LitData: data optimized into chunks, and raw objects.

https://github.com/Lightning-AI/litData, README: "Speed up model training" and "Stream raw data".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from bench.contestants.contract import Batches, Contestant


class _Lit(Contestant):
    package = "litdata"
    loader: Any = None

    @property
    def credentials(self) -> dict[str, str]:
        settings = self.settings
        return {
            "endpoint_url": settings["endpoint"],
            "aws_access_key_id": settings["key"],
            "aws_secret_access_key": settings["secret"],
        }

    def batches(self) -> Batches:
        return self.loader

    def close(self) -> None:
        self.loader = None


class Optimized(_Lit):
    """`optimize`, then `StreamingDataset` under `StreamingDataLoader`."""

    def convert(self, directory: Path) -> None:
        import litdata

        paths = [self.piece(number)[0] for number in range(len(self.truth))]
        litdata.optimize(
            fn=partial(_sample, self.settings["files"]),
            inputs=list(enumerate(paths)),
            output_dir=str(directory),
            chunk_bytes=self.settings["shard"],
            num_workers=self.workers,
            verbose=False,
        )

    def open(self) -> None:
        import litdata

        _allow_http()
        dataset = litdata.StreamingDataset(
            f"s3://{self.settings['bucket']}/{self.settings['converted_prefix']}".rstrip("/"),
            cache_dir=self.settings["cache_dir"],
            shuffle=True,
            drop_last=False,
            # A chunk at a time. "auto" keeps a window of 16 MiB of what are bytes to it, smaller than what it
            # shuffles, and decodes a window for nearly each sample: 4 to 10 times slower here.
            batch_decode="all",
            max_cache_size=self.settings["cache_size"],
            storage_options=self.credentials,
            transform=self._take,
        )
        self.loader = litdata.StreamingDataLoader(
            dataset, batch_size=self.batch, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    def _take(self, sample: dict[str, Any]) -> Any:
        return self.take(sample["number"], sample["data"])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"loader": None}


def _allow_http() -> None:
    """LitData reads with obstore, which refuses an endpoint without TLS, such as ours, unless it is told."""
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True


def _sample(files: str, numbered: tuple[int, str]) -> dict[str, Any]:
    number, path = numbered
    return {"number": number, "data": Path(files, path).read_bytes()}


class Raw(_Lit):
    """`StreamingRawDataset` with `cache_files`, under a DataLoader."""

    def open(self) -> None:
        import litdata

        _allow_http()
        wanted = len(self.truth)

        class Numbered(litdata.StreamingRawDataset):
            def setup(self, files: Any) -> Any:
                named = [file for file in files if file.path.rpartition("/")[2].isdigit()]
                return sorted(named, key=lambda file: int(file.path.rpartition("/")[2]))[:wanted]

        raw = Numbered(
            f"s3://{self.settings['bucket']}/{self.settings['prefix']}",
            cache_dir=self.settings["cache_dir"],
            cache_files=True,
            # s3fs lists, boto3 reads: what both understand. Keys are in the environment.
            storage_options={"endpoint_url": self.settings["endpoint"]},
        )
        self.loader = DataLoader(
            _Taken(raw, self.take),
            self.batch,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
        )


class _Taken(Dataset[Any]):
    """The samples of a raw data set, a batch in one call, which is how it downloads side by side."""

    def __init__(self, raw: Any, take: Any) -> None:
        self.raw = raw
        self.take = take

    def __len__(self) -> int:
        return len(self.raw)

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        found = self.raw.__getitems__(numbers)
        return [self.take(number, data) for number, data in zip(numbers, found, strict=True)]
