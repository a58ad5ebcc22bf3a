"""Clients of object stores, without a cache: one request a sample, or many at once."""

from __future__ import annotations

import random
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch.utils.data import default_collate

from bench.contestants.contract import Batches
from bench.contestants.mapped import Mapped, cat

THREADS = 128  # twice what obstore gains from
MEMORY = 1 << 30  # bytes that they hold at most


class Boto3(Mapped):
    """boto3: get_object in each worker.

    https://boto3.amazonaws.com/v1/documentation/api/latest/guide/clients.html: a client a process.
    """

    package = "boto3"
    imports = ("boto3",)

    def make_client(self) -> Any:
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.settings["endpoint"],
            aws_access_key_id=self.settings["key"],
            aws_secret_access_key=self.settings["secret"],
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard", "max_attempts": 10}),
        )

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        part = {"Range": f"bytes={offset}-{offset + length - 1}"} if self.pieces else {}
        return self.client.get_object(Bucket=self.settings["bucket"], Key=key, **part)["Body"].read()


class S3fs(Mapped):
    """s3fs: cat_file, which needs no buffered file.

    https://s3fs.readthedocs.io: instances are not to be shared over a fork.
    """

    package = "s3fs"
    imports = ("s3fs",)

    def make_client(self) -> Any:
        import fsspec

        return fsspec.filesystem("s3", **s3fs_options(self.settings))

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        part = {"start": offset, "end": offset + length} if self.pieces else {}
        return self.client.cat_file(f"{self.settings['bucket']}/{key}", **part)


class S3fsBatch(S3fs):
    """s3fs with the samples of a batch in one call, which has many requests in flight at once.

    https://filesystem-spec.readthedocs.io/en/latest/async.html: "cat" of many paths is concurrent.
    """

    together = True

    def read_many(self, numbers: list[int]) -> list[bytes]:
        return cat(self, numbers)


def s3fs_options(settings: dict[str, Any]) -> dict[str, Any]:
    """What an s3fs client is made with."""
    # A worker of its own loop: what the parent cached is not used (fsspec's documentation of forks).
    # botocore's pool has 10 connections unless it is told; a batch is asked for at once.
    config = {"max_pool_connections": max(10, settings["batch"])}
    return {"skip_instance_cache": True, "config_kwargs": config, **settings["options"]}


def obstore_store(settings: dict[str, Any]) -> Any:
    """An obstore client."""
    from obstore.store import S3Store

    return S3Store(
        settings["bucket"],
        endpoint=settings["endpoint"],
        access_key_id=settings["key"],
        secret_access_key=settings["secret"],
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )


class ObstoreLoader(Mapped):
    """obstore in the workers of a DataLoader: its client is made after the fork, as it demands."""

    package = "obstore"
    imports = ("obstore", "obstore.store")

    def make_client(self) -> Any:
        return obstore_store(self.settings)

    def read(self, number: int) -> Any:
        """A buffer of obstore's: to copy it into ``bytes`` takes the GIL, and nobody needs it."""
        import obstore

        key, offset, length = self.piece(number)
        if self.pieces:
            return obstore.get_range(self.client, key, start=offset, length=length)
        return obstore.get(self.client, key).bytes()


class ObstoreThreads(ObstoreLoader):
    """obstore in 128 threads and no worker process: what the client itself can do."""

    def open(self) -> None:
        assert self.client  # made now
        self.pool = ThreadPoolExecutor(THREADS)

    def batches(self) -> Batches:
        numbers = list(range(len(self.truth)))
        random.shuffle(numbers)
        ahead: deque[Future[Any]] = deque()
        batch = []
        # As far ahead as four batches, or what keeps the threads busy, and no more memory than a job has.
        window = min(max(4 * self.batch, 2 * THREADS), max(1, MEMORY // int(self.truth[:, 2].mean())))
        for number in numbers:
            ahead.append(self.pool.submit(self._sample, number))
            if len(ahead) >= window:
                batch.append(ahead.popleft().result())
                if len(batch) == self.batch:
                    yield default_collate(batch)
                    batch = []
        while ahead:
            batch.append(ahead.popleft().result())
            if len(batch) == self.batch or not ahead:
                yield default_collate(batch)
                batch = []

    def close(self) -> None:
        if hasattr(self, "pool"):
            self.pool.shutdown(cancel_futures=True)

    def _sample(self, number: int) -> Any:
        return self.take(number, self.read(number))
