"""Mosaic Streaming: MDS shards, downloaded whole and kept.

https://docs.mosaicml.com/projects/streaming: the data set is told the batch size, and shuffles by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from bench.contestants.contract import Batches, Contestant

SHUFFLE_BLOCK = 2000  # samples, at most


class Streaming(Contestant):
    """`StreamingDataset` under a DataLoader, as its documentation has it.

    Its shuffle block (262,144 samples at least) would be all of these data sets: the first batch then waits
    for nearly all shards, and a small cache fetches them again and again. What it shuffles here is twice
    what WebDataset has in its buffer, or half of what the cache holds; LitData shuffles within chunks. Rates
    are the same where all is cached.
    """

    package = "mosaicml-streaming"
    loader: Any = None

    def convert(self, directory: Path) -> None:
        from streaming import MDSWriter

        columns = {"number": "int", "data": "bytes"}
        with MDSWriter(out=str(directory), columns=columns, size_limit=self.settings["shard"]) as writer:
            for number in range(len(self.truth)):
                data = Path(self.settings["files"], self.piece(number)[0]).read_bytes()
                writer.write({"number": number, "data": data})

    def open(self) -> None:
        from streaming import StreamingDataset
        from streaming.base.util import clean_stale_shared_memory

        clean_stale_shared_memory()  # its documentation, "FAQ": of a job that was ended
        self._fetch_index()
        take = self.take

        class Samples(StreamingDataset):
            def __getitem__(self, index: Any) -> Any:
                found = super().__getitem__(index)
                return take(found["number"], found["data"])

        dataset = Samples(
            remote=f"s3://{self.settings['bucket']}/{self.settings['converted_prefix']}".rstrip("/"),
            local=self.settings["cache_dir"],
            shuffle=True,
            batch_size=self.batch,
            shuffle_block_size=self._shuffle_block(),
            cache_limit=self.settings["cache_size"],
        )
        self.loader = DataLoader(
            dataset, self.batch, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    def _shuffle_block(self) -> int:
        held = self.settings["cache_size"] / float(self.truth[:, 2].mean())  # samples
        return max(self.batch, min(SHUFFLE_BLOCK, int(held / 2)))

    def _fetch_index(self) -> None:
        """Puts the index where Streaming looks first.

        Else it fetches it itself, before it forks: its workers then share that connection (0.13), get
        answers to each other's requests, and hand out wrong bytes, or fail.
        """
        import boto3

        index = Path(self.settings["cache_dir"], "index.json")
        if not index.exists():
            client = boto3.client("s3", endpoint_url=self.settings["endpoint"])
            key = f"{self.settings['converted_prefix']}index.json"
            client.download_file(self.settings["bucket"], key, str(index))

    def batches(self) -> Batches:
        return self.loader

    def close(self) -> None:
        self.loader = None
