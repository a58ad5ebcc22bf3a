"""fsspec's own caches of files and of blocks, in front of s3fs.

https://filesystem-spec.readthedocs.io/en/latest/features.html#caching-files-locally
"""

from __future__ import annotations

from typing import Any

from bench.contestants.direct import s3fs_options
from bench.contestants.mapped import Mapped, cat, cat_ranges


class _Cached(Mapped):
    package = "fsspec"
    imports = ("fsspec.implementations.cached", "s3fs")
    protocol = ""

    def make_client(self) -> Any:
        import fsspec

        return fsspec.filesystem(
            self.protocol,
            target_protocol="s3",
            target_options=s3fs_options(self.settings),
            cache_storage=self.settings["cache_dir"],
            skip_instance_cache=True,
            # Training data does not change: nothing is asked again.
            expiry_time=False,
            check_files=False,
        )


class SimpleCache(_Cached):
    """Whole files, and no record of them: the one that its documentation calls safe in many processes."""

    protocol = "simplecache"
    together = True

    def read_many(self, numbers: list[int]) -> list[bytes]:
        # Both fetch what is missing side by side, but `cat` first asks for each file's version, one by one.
        return cat_ranges(self, numbers)


class FileCache(_Cached):
    """Whole files, and a record of them, in which workers may lose an entry of each other's."""

    protocol = "filecache"
    together = True

    def make_client(self) -> Any:
        client = super().make_client()
        # Versions, which go into the record, are then known from the listing, and not asked for one by one.
        client.ls(f"{self.settings['bucket']}/{self.settings['prefix']}")
        return client

    def read_many(self, numbers: list[int]) -> list[bytes]:
        return cat(self, numbers)  # its `cat_ranges` opens one file after the other


class BlockCache(_Cached):
    """Blocks of files, in sparse files. It can open one file after the other only, also in `cat`."""

    protocol = "blockcache"

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        with self.client.open(f"{self.settings['bucket']}/{key}", "rb") as file:
            if not self.pieces:
                return file.read()
            file.seek(offset)
            return file.read(length)
