"""NVIDIA's Multi-Storage Client with its cache.

https://nvidia.github.io/multi-storage-client, "Configuration": its Rust client is the fast one; a source
that does not change need not be asked for its version.
"""

from __future__ import annotations

from typing import Any

from bench.contestants.mapped import Mapped


class Fifo(Mapped):
    """Evicts what is oldest: its default."""

    package = "multi-storage-client"
    imports = ("multistorageclient",)
    policy = "fifo"

    def make_client(self) -> Any:
        from multistorageclient import StorageClient, StorageClientConfig

        settings = self.settings
        profile = {
            "storage_provider": {
                "type": "s3",
                "options": {
                    "base_path": settings["bucket"],
                    "endpoint_url": settings["endpoint"],
                    "region_name": "us-east-1",
                    "rust_client": {"allow_http": "true"},
                },
            },
            "caching_enabled": True,
            "credentials_provider": {
                "type": "S3Credentials",
                "options": {"access_key": settings["key"], "secret_key": settings["secret"]},
            },
        }
        size = max(1, settings["cache_size"] >> 20)
        cache = {
            "size": f"{size}M",
            "cache_line_size": f"{min(64, size)}M",  # 64M is its own; it takes no cache that is smaller
            "location": settings["cache_dir"],
            "check_source_version": False,
            "eviction_policy": {"policy": self.policy},
        }
        config = {"profiles": {"bench": profile}, "cache": cache}
        return StorageClient(StorageClientConfig.from_dict(config, "bench"))

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        if not self.pieces:
            return self.client.read(key)
        from multistorageclient.types import Range

        return self.client.read(key, byte_range=Range(offset, length))


class NoEviction(Fifo):
    """Keeps what it has."""

    policy = "no_eviction"
