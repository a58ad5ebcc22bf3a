"""fsspec's own caches of files and of blocks, in front of s3fs.

https://filesystem-spec.readthedocs.io/en/latest/features.html#caching-files-locally
"""

from __future__ import annotations

from typing import Any

from bench.contestants.mapped import Mapped


class _Cached(Mapped):
    package = "fsspec"
    imports = ("fsspec.implementations.cached", "s3fs")
    protocol = ""

    def make_client(self) -> Any:
        import fsspec

        return fsspec.filesystem(
            self.protocol,
            target_protocol="s3",
            target_options=self.settings["options"] | {"skip_instance_cache": True},
            cache_storage=self.settings["cache_dir"],
            skip_instance_cache=True,
            **self.more(),
        )

    def more(self) -> dict[str, Any]:
        """Further arguments."""
        return {}

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        with self.client.open(f"{self.settings['bucket']}/{key}", "rb") as file:
            if not self.pieces:
                return file.read()
            file.seek(offset)
            return file.read(length)


class SimpleCache(_Cached):
    """Whole files, and no record of them: the one that its documentation calls safe in many processes."""

    protocol = "simplecache"


class FileCache(_Cached):
    """Whole files, and a record of them."""

    protocol = "filecache"

    def more(self) -> dict[str, Any]:
        # Training data does not change: nothing is asked again.
        return {"expiry_time": False, "check_files": False}


class BlockCache(FileCache):
    """Blocks of files, in sparse files."""

    protocol = "blockcache"
