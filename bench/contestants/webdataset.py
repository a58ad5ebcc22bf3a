"""WebDataset: tar shards, copied whole into a directory.

https://webdataset.github.io/webdataset/ ("Quick start", "FAQ"): shuffled shards, a shuffle buffer, and
batches made in the workers.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from torch.utils.data import default_collate

from bench.contestants.contract import Batches, Contestant

BUFFER = 1000  # samples


class WebDataset(Contestant):
    """`WebDataset(cache_dir=)` with curl, which it takes for http."""

    package = "webdataset"
    loader: Any = None

    def convert(self, directory: Path) -> None:
        import webdataset as wds

        size = self.settings["shard"]
        with wds.ShardWriter(str(directory / "%06d.tar"), maxsize=size, maxcount=10**9, verbose=0) as shards:
            for number in range(len(self.truth)):
                key = self.piece(number)[0]
                data = Path(self.settings["files"], key).read_bytes()
                shards.write({"__key__": f"{number:08d}", "bin": data})

    def open(self) -> None:
        import webdataset as wds

        shards = [self._url(path) for path in sorted(Path(self.settings["converted"]).glob("*.tar"))]
        dataset = (
            wds.WebDataset(
                shards,
                shardshuffle=len(shards),
                cache_dir=self.settings["cache_dir"],
                cache_size=self.settings["cache_size"],
                empty_check=False,
            )
            .shuffle(BUFFER)
            .map(self._sample)
            .batched(self.batch, collation_fn=default_collate)
        )
        self.loader = wds.WebLoader(
            dataset, batch_size=None, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    def batches(self) -> Batches:
        return self.loader

    def close(self) -> None:
        self.loader = None

    def _sample(self, sample: dict[str, Any]) -> Any:
        return self.take(int(sample["__key__"]), sample["bin"])

    def _url(self, path: Path) -> str:
        """curl signs nothing: the URL is signed."""
        import botocore.session
        from botocore.config import Config

        if not hasattr(self, "_s3"):
            self._s3 = botocore.session.get_session().create_client(
                "s3",
                endpoint_url=self.settings["endpoint"],
                region_name="us-east-1",
                config=Config(s3={"addressing_style": "path"}, signature_version="s3v4"),
            )
        key = f"{self.settings['converted_prefix']}{path.name}"
        return self._s3.generate_presigned_url(
            "get_object", {"Bucket": self.settings["bucket"], "Key": key}, ExpiresIn=86400
        )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        with contextlib.suppress(KeyError):
            del state["_s3"]
        return state | {"loader": None}
