"""Reading a batch for code that wants ``bytes``, if need be in a certain version of each object."""

from __future__ import annotations

from collections.abc import Sequence

from ioaccel import wire
from ioaccel.client.reader import Reader
from ioaccel.sources.base import changed


def read_bytes(
    reader: Reader, extents: Sequence[wire.Extent], versions: Sequence[int] | None = None
) -> list[bytes]:
    """The bytes of each extent. What is missing is asked of the engine in one message.

    ``versions`` are hashes: places that were found in one version mean nothing in another. Raises
    ObjectChangedError if an object is of another version by now, or what `Cache.read_many` raises.
    """
    wanted = versions or [0] * len(extents)
    # What is cached is copied once, into its bytes object; by way of a batch it would be copied twice, which
    # costs more than the threads of the batch gain.
    data = [reader.hit(*extent, version) for extent, version in zip(extents, wanted, strict=True)]
    missing = [i for i, item in enumerate(data) if item is None]
    if missing:
        batch, found = reader.read_versions([extents[i] for i in missing])
        for i, item, version in zip(missing, batch, found, strict=True):
            # 0 is any version when asked for, and none that is known when found: what did not come by way
            # of the cache. That is rare, and is asked for by version.
            if wanted[i] and version not in (0, wanted[i]):
                raise changed(extents[i][0])
            again = wanted[i] and not version
            data[i] = bytes(reader.read_version(extents[i], wanted[i])[0] if again else item)
    return data  # type: ignore[return-value]  # all that was None has been read
