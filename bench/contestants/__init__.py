"""Who takes part: a name, and what the runner has to know before the adapter's process starts."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A contestant. ``kind`` is its adapter, a subclass of `contract.Contestant`: "module:Class"."""

    kind: str
    about: str
    ours: bool = False  # runs in ioaccel's environment; all others in the peers'
    converts: bool = False  # needs a copy of the data in its own format
    cached: bool = True  # else every epoch is a first one
    slow: bool = False  # one request at a time a worker in a first epoch: it gets `slow_samples`
    bounded: bool = True  # its cache has a limit
    pieces: bool = True  # can read a part of an object
    shares: bool = True  # several jobs may use one cache directory
    workers: int = 0  # instead of the workload's
    why: str = ""  # what holds it back, in a few words, for the report
    why_cached: str = ""  # and in an epoch that needs nothing from the store


_HERE = "bench.contestants"
_ONE = "one request at a time a worker"
_NONE = "no cache"
_ENGINE = "a GET for each object, which is also written, by an engine on the cores that the store has, too"
_CACHED = (
    "nothing is fetched, reading is what takes longer (0003; after a restart each block is checked first)"
)
_SHUFFLE = "shuffles shards and a buffer, not all samples"

CONTESTANTS: dict[str, Entry] = {
    "local": Entry(f"{_HERE}.local:Local", "plain local files: the ceiling of a plain loader", bounded=False),
    "boto3": Entry(f"{_HERE}.direct:Boto3", "get_object", cached=False, slow=True, why=f"{_ONE}; {_NONE}"),
    "s3fs": Entry(f"{_HERE}.direct:S3fs", "cat_file", cached=False, slow=True, why=f"{_ONE}; {_NONE}"),
    "s3fs-batch": Entry(f"{_HERE}.direct:S3fsBatch", "cat of a whole batch", cached=False, why=_NONE),
    "obstore": Entry(
        f"{_HERE}.direct:ObstoreLoader",
        "get in a DataLoader",
        cached=False,
        slow=True,
        why=f"{_ONE}; {_NONE}",
    ),
    "obstore-32-workers": Entry(
        f"{_HERE}.direct:ObstoreLoader", "the same in 32 workers", cached=False, workers=32, why=_NONE
    ),
    "obstore-threads": Entry(
        f"{_HERE}.direct:ObstoreThreads", "128 threads, no worker processes", cached=False, why=_NONE
    ),
    "s3torchconnector-map": Entry(
        f"{_HERE}.s3torch:Map", "S3MapDataset", cached=False, slow=True, why=f"{_ONE}; {_NONE}"
    ),
    "s3torchconnector-32-workers": Entry(
        f"{_HERE}.s3torch:Map", "S3MapDataset in 32 workers", cached=False, workers=32, why=_NONE
    ),
    "s3torchconnector-iterable": Entry(
        f"{_HERE}.s3torch:Iterable",
        "S3IterableDataset",
        cached=False,
        slow=True,
        pieces=False,
        why=f"{_ONE}; {_NONE}; no shuffle",
    ),
    "fsspec-simplecache": Entry(
        f"{_HERE}.fsspec_caches:SimpleCache", "simplecache::s3://, a batch in one call", bounded=False
    ),
    "fsspec-filecache": Entry(
        f"{_HERE}.fsspec_caches:FileCache",
        "filecache::s3://, cat of a whole batch",
        bounded=False,
        why="its record of all files is written anew after each batch",
    ),
    "fsspec-blockcache": Entry(
        f"{_HERE}.fsspec_caches:BlockCache", "blockcache::s3://", slow=True, bounded=False, why=_ONE
    ),
    "webdataset": Entry(
        f"{_HERE}.webdataset:WebDataset", "tar shards, cache_dir", converts=True, pieces=False, why=_SHUFFLE
    ),
    "streaming": Entry(
        f"{_HERE}.streaming:Streaming", "MDS shards", converts=True, pieces=False, shares=False
    ),
    "litdata": Entry(f"{_HERE}.litdata:Optimized", "optimized chunks", converts=True, pieces=False),
    "litdata-raw": Entry(
        f"{_HERE}.litdata:Raw", "StreamingRawDataset, cache_files", pieces=False, bounded=False
    ),
    "msc-fifo": Entry(f"{_HERE}.msc:Fifo", "Multi-Storage Client, its default policy", slow=True, why=_ONE),
    "msc-no-eviction": Entry(
        f"{_HERE}.msc:NoEviction",
        "Multi-Storage Client, no_eviction",
        slow=True,
        bounded=False,
        why=_ONE,
    ),
    "rclone": Entry(f"{_HERE}.mounts:Rclone", "rclone mount, full cache", slow=True, shares=False, why=_ONE),
    "juicefs": Entry(
        f"{_HERE}.mounts:JuiceFS", "JuiceFS mount", converts=True, slow=True, shares=False, why=_ONE
    ),
    "ioaccel": Entry(
        f"{_HERE}.ours:Accelerated",
        "accelerate() over an unmodified data set",
        ours=True,
        why=_ENGINE,
        why_cached=_CACHED,
    ),
    "ioaccel-loader": Entry(
        f"{_HERE}.ours:Native",
        "Loader over an ObjectDataset, or over parts of files",
        ours=True,
        why=_ENGINE,
        why_cached=_CACHED,
    ),
    "ioaccel-fsspec": Entry(
        f"{_HERE}.ours:Fsspec",
        "ioaccel:// in the data set's own code",
        ours=True,
        why=f"{_ENGINE}; nobody knows what comes next",
    ),
}
