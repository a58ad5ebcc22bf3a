"""What the store says of names: which stand below a URL, and how large objects are.

The engine asks it; without one, or for a store that only this process can read, it is asked from here.
"""

from __future__ import annotations

from collections.abc import Sequence

from ioaccel import wire
from ioaccel.client.reader import Reader
from ioaccel.errors import IOAccelError

# Seconds to wait for one directory: a million objects in it are a thousand pages, of up to a second each.
_DIRECTORY_TIMEOUT = 1800.0

# URLs of one message.
_MANY = 1000


def list_directory(reader: Reader, url: str, *, probe: bool = False) -> wire.Directory:
    """What stands directly below a canonical URL, now; both parts are empty if nothing is there.

    For the URL of an object, that object. With ``probe`` one object from any depth, or none: whether there
    is anything, in one request.
    """
    message = wire.ListDirectory(reader.sources_of([url]), url, reader.timeout, probe)
    answer = reader.ask(message, _DIRECTORY_TIMEOUT)
    if isinstance(answer, wire.Directory):
        return answer
    directories, objects = reader.direct.list_directory(url, reader.timeout, probe)
    return wire.Directory(directories, [wire.ObjectStat(name, o.size, o.version) for name, o in objects])


def stat_many(reader: Reader, urls: Sequence[str]) -> list[wire.ObjectStat | IOAccelError]:
    """Size and version of each canonical URL's object, or why they are not known, in one message."""
    found: list[wire.ObjectStat | IOAccelError] = []
    for start in range(0, len(urls), _MANY):
        some = list(urls[start : start + _MANY])
        message = wire.Stat(reader.session, reader.sources_of(some), some, reader.oldest_ms(), reader.timeout)
        answer = reader.ask(message)
        results = answer.results if isinstance(answer, wire.Stats) else [None] * len(some)
        found += [_stat(reader, url, result) for url, result in zip(some, results, strict=True)]
    return found


def _stat(
    reader: Reader, url: str, result: wire.ObjectStat | wire.Uncached | wire.Failure | None
) -> wire.ObjectStat | IOAccelError:
    if isinstance(result, wire.ObjectStat):
        return result
    if isinstance(result, wire.Failure):
        return result.error()
    try:
        info = reader.direct.stat(url, reader.timeout)
    except IOAccelError as error:
        return error
    return wire.ObjectStat(url, info.size, info.version)
