"""Objects whose bytes follow from their names, so that every byte that is read can be checked."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

import numpy as np

from ioaccel.testing.seaweed import SeaweedS3


def payload(name: str, size: int, version: int = 0) -> bytes:
    """``size`` bytes that no other name or version shares."""
    seed = int.from_bytes(hashlib.blake2b(f"{name} {version}".encode(), digest_size=8).digest(), "little")
    words = np.random.SFC64(seed).random_raw(-(-size // 8))  # five times as fast as Generator.bytes()
    return words.tobytes()[:size]


class DataSet:
    """Objects of known bytes in one bucket: ``sizes`` by key."""

    def __init__(self, bucket: str, sizes: dict[str, int]) -> None:
        self.bucket = bucket
        self.sizes = sizes
        self.urls = [self.url(key) for key in sizes]
        self.nbytes = sum(sizes.values())

    @classmethod
    def fill(
        cls, s3: SeaweedS3, bucket: str, sizes: dict[str, int] | Iterable[int], prefix: str = "data/"
    ) -> DataSet:
        """Puts objects of these sizes into the bucket."""
        named = sizes if isinstance(sizes, dict) else {f"{prefix}{n:05d}": s for n, s in enumerate(sizes)}
        made = cls(bucket, named)
        s3.put_many(bucket, ((key, made.data(key)) for key in named))
        return made

    def url(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def data(self, url_or_key: str, version: int = 0) -> bytes:
        """The bytes of an object."""
        key = url_or_key.removeprefix(f"s3://{self.bucket}/")
        return payload(f"{self.bucket}/{key}", self.sizes[key], version)

    def shuffled(self, seed: int) -> list[str]:
        """The URLs in an order of their own."""
        return random.Random(seed).sample(self.urls, len(self.urls))
