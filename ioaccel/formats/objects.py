"""The objects below a prefix as a list that does not change: sample 7 is the same object in every process."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ioaccel.client.cache import Cache
from ioaccel.errors import ConfigError, ObjectNotFoundError
from ioaccel.formats.tables import Table, Tables, numbers

# Goes into the names of the files; see `tar`.
_FORMAT = 1


class ObjectList:
    """Keys and sizes of objects, in the order of the keys (of their UTF-8).

    It is a mapped file in the cache directory, which all processes of a node share; pickling it pickles
    the path. Any thread.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._reset()

    def _reset(self) -> None:
        table = self._table.read()
        self.root: str = table.schema.metadata[b"ioaccel.root"].decode()
        self.keys: pa.ChunkedArray = table["key"]
        # Where each chunk begins, its offsets and its bytes: mapped memory, as Arrow lays out strings.
        self._starts = [0]
        self._chunks: list[tuple[npt.NDArray[np.int32], memoryview]] = []
        for chunk in self.keys.chunks:
            _, offsets, data = chunk.buffers()
            every = np.frombuffer(offsets, np.int32)[chunk.offset :]
            self._chunks.append((every, memoryview(data)))
            self._starts.append(self._starts[-1] + len(chunk))
        self._sizes: pa.ChunkedArray = table["size"]

    def __getstate__(self) -> dict[str, Any]:
        return {"_table": self._table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __len__(self) -> int:
        return len(self.keys)

    # One scalar at a time: `take` would first join the chunks, which takes milliseconds for a million.

    def key(self, index: int) -> str:
        key: str = self.keys[index].as_py()
        return key

    def url(self, index: int) -> str:
        return self.root + self.key(index)

    def urls(self, indices: Sequence[int]) -> list[str]:
        """The URLs of many, several times faster than one by one."""
        found = []
        for index in indices:
            chunk = bisect_right(self._starts, index) - 1
            offsets, data = self._chunks[chunk]
            at = index - self._starts[chunk]
            found.append(self.root + str(data[offsets[at] : offsets[at + 1]], "utf-8"))
        return found

    def size(self, index: int) -> int:
        """Bytes, when the prefix was listed."""
        size: int = self._sizes[index].as_py()
        return size


def object_list(cache: Cache, url: str, pattern: str | Iterable[str] | None = None) -> ObjectList:
    """What is stored below ``url``, by the cache's manifest of it, and matches a pattern, or one of several.

    A pattern is compared with the whole key as by ``fnmatch``: ``*`` stands for anything, slashes included.
    Markers of directories are left out. Raises ObjectNotFoundError if nothing is left, ConfigError for a
    pattern that makes no sense, and what the store says.
    """
    manifest = cache.manifest(url)
    table = _without_markers(_in_order(manifest.select(["key", "size"])))
    patterns = None if pattern is None else [pattern] if isinstance(pattern, str) else list(pattern)
    if patterns is not None:
        table = table.filter(_matching(table["key"], patterns))
    if table.num_rows == 0:
        raise _nothing(url, manifest["key"], patterns)
    root = manifest.schema.metadata[b"ioaccel.root"].decode()
    table = table.replace_schema_metadata({"ioaccel.root": root})
    family = hashlib.blake2b(repr((_FORMAT, root, url, patterns)).encode(), digest_size=16).hexdigest()
    tables = Tables(cache.directories[0], f"objects-{family}")
    content = _digest(table)
    return ObjectList(tables.find(content) or tables.keep(content, table.schema, table.to_batches()))


def _nothing(url: str, keys: pa.ChunkedArray, patterns: list[str] | None) -> ObjectNotFoundError:
    if patterns is None:
        why = "nothing but directory markers is stored there; check the prefix"
    else:
        wanted = " or ".join(map(repr, patterns))
        why = f"none of its {len(keys)} objects matches {wanted}; one of them is {keys[0].as_py()!r}"
    return ObjectNotFoundError(f"{url}: {why}", url=url)


def _matching(keys: pa.ChunkedArray, patterns: list[str]) -> pa.ChunkedArray:
    regex = "|".join(map(_regex, patterns))
    try:
        return pc.match_substring_regex(keys, f"(?s)^(?:{regex})$")
    except pa.ArrowInvalid as error:
        raise ConfigError(
            f"pattern={patterns!r} makes no sense ({error}); write it as for fnmatch"
        ) from error


def _in_order(table: pa.Table) -> pa.Table:
    """Sorted by key: nearly all stores list so, SeaweedFS does not."""
    keys = table["key"]
    if pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py() is not False:
        return table
    return table.combine_chunks().sort_by("key")


def _without_markers(table: pa.Table) -> pa.Table:
    """Without the empty objects under whose name others stand, as consoles make them for "directories".

    Their key is ``d/``, which is listed as ``d`` and cannot be read.
    """
    keys, count = table["key"], table.num_rows
    sizes = np.concatenate([numbers(chunk) for chunk in table["size"].chunks])
    found = []
    for row in np.flatnonzero(sizes == 0).tolist():
        below = keys[row].as_py() + "/"
        at = row + 1
        if at < count and keys[at].as_py() < below:  # d.txt stands between d and d/1
            at = bisect_left(range(count), below, at, key=lambda i: keys[i].as_py())
        if at < count and keys[at].as_py().startswith(below):
            found.append(row)
    if not found:
        return table
    keep = np.ones(count, bool)
    keep[found] = False
    return table.filter(pa.array(keep))


def _digest(table: pa.Table) -> str:
    """A name for what is in a table: 40 MB of keys and sizes are hashed in 40 ms.

    The same rows in other chunks have another name; then a second file is written, and that is all.
    """
    digest = hashlib.blake2b(digest_size=16)
    for batch in table.to_batches():
        for column in batch.columns:
            digest.update(f"{len(column)} {column.offset}".encode())
            for buffer in column.buffers():
                digest.update(b"" if buffer is None else buffer)
    return digest.hexdigest()


def _regex(pattern: str) -> str:
    """A pattern of ``fnmatch`` for Arrow's RE2, which does not know all that ``fnmatch.translate`` writes."""
    parts = []
    for part in re.findall(r"\[!?+.[^\]]*\]|.", pattern, re.DOTALL):
        if part in ("*", "?"):
            parts.append(".*" if part == "*" else ".")
        elif len(part) > 1:
            inner = re.sub(r"([\\\[\]^])", r"\\\1", part[1:-1])
            parts.append("[^" + inner[1:] + "]" if inner.startswith("!") else "[" + inner + "]")
        else:
            parts.append(re.escape(part))
    return "".join(parts)
