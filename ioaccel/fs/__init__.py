"""The fsspec file system: ``ioaccel::s3://bucket/key`` reads ``s3://bucket/key`` through the cache.

    fsspec.open("ioaccel::s3://bucket/key", s3={"endpoint_url": ...}, ioaccel={"cache_dir": ...})
    fsspec.filesystem("ioaccel", target_protocol="s3", target_options={...}, cache_dir=...)
    pandas.read_parquet("ioaccel::s3://bucket/key", storage_options={"s3": {...}, "ioaccel": {...}})

fsspec itself takes a chained URL apart, with the file system of its target: ``ioaccel::s3://`` needs s3fs
to be installed. ``ioaccel://s3://bucket/key`` and ``fsspec.filesystem`` do not.
"""

from ioaccel.fs.filesystem import IOAccelFileSystem, gopen

__all__ = ["IOAccelFileSystem", "gopen"]
