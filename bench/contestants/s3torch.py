"""AWS's s3torchconnector: its map-style and its iterable data set. It has no cache."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from bench.contestants.mapped import Mapped


class _Connector(Mapped):
    package = "s3torchconnector"
    imports = ("s3torchconnector",)

    def arguments(self) -> dict[str, Any]:
        from s3torchconnector import S3ClientConfig, S3ReaderConstructor

        # README, "Reader configurations": sequential for whole objects, range-based for parts of them.
        reader = S3ReaderConstructor.range_based() if self.pieces else S3ReaderConstructor.sequential()
        return {
            "region": "us-east-1",
            "endpoint": self.settings["endpoint"],
            "s3client_config": S3ClientConfig(force_path_style=True),
            "reader_constructor": reader,
        }

    def uri(self, key: str) -> str:
        return f"s3://{self.settings['bucket']}/{key}"


class Map(_Connector):
    """`S3MapDataset.from_objects`."""

    def make_client(self) -> Any:
        from s3torchconnector import S3MapDataset

        uris = [self.uri(self.piece(number)[0]) for number in range(len(self.truth))]
        return S3MapDataset.from_objects(uris, **self.arguments())

    def read(self, number: int) -> bytes:
        reader = self.client[number]
        _, offset, length = self.piece(number)
        if not self.pieces:
            return reader.read()
        reader.seek(offset)
        return reader.read(length)


class Iterable(_Connector):
    """`S3IterableDataset`, its objects shared out among the workers. It does not shuffle."""

    def open(self) -> None:
        from s3torchconnector import S3IterableDataset

        uris = [self.uri(key) for key in self.keys]
        self._numbers = {key: number for number, key in enumerate(self.keys)}
        dataset = S3IterableDataset.from_objects(
            uris, transform=self._sample, enable_sharding=True, **self.arguments()
        )
        self.loader = DataLoader(
            dataset, self.batch, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    def _sample(self, reader: Any) -> Any:
        return self.take(self._numbers[reader.key], reader.read())
