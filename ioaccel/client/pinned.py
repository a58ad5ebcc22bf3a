"""Reading extents that were found in a certain version of each object, and mean nothing in another."""

from __future__ import annotations

from collections.abc import Sequence

from ioaccel import wire
from ioaccel.client.batch import Batch
from ioaccel.client.reader import Reader, _join
from ioaccel.sources.base import changed


def read_versions(reader: Reader, extents: Sequence[wire.Extent], versions: Sequence[int]) -> Batch:
    """`read_many` of extents, each in the version whose hash is given.

    ObjectChangedError if an object is of another version by now.
    """
    request = reader._request(extents)
    batch = reader._read_batch(request)
    found = [request.version(i) for i in range(len(extents))]
    for (url, _, _), got, version in zip(extents, found, versions, strict=True):
        if got not in (0, version):
            raise changed(url)
    if 0 not in found:
        return batch
    # What did not come out of the cache has no version there. It is rare, and is asked for by version.
    parts = list(batch)
    for i, got in enumerate(found):
        if got == 0:
            parts[i] = reader.read_version(extents[i], versions[i])[0]
    return _join(parts)
