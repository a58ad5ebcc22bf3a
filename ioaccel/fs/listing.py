"""What stands where: one request of the engine to the store, or one of its listings, for each question."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ioaccel import wire
from ioaccel.client.listing import list_directory, stat_many
from ioaccel.client.manifest import read_listing
from ioaccel.fs.base import CacheFileSystem
from ioaccel.fs.info import Info, directories_of, directory_info, file_info
from ioaccel.fs.names import FLAT


class ListingFileSystem(CacheFileSystem):
    """The methods that list and describe."""

    def info(self, path: str, **_: Any) -> Info:
        """``name``, ``size``, ``type``, ``version`` and, if known, ``ETag`` or ``mtime``."""
        name: str = self._strip_protocol(path)
        url = self._names.url(name)
        scheme, rest = url.split("://", 1)
        if not rest.strip("/"):
            return directory_info(name)
        if scheme not in FLAT or "/" in rest:
            found = stat_many(self._reader, [url])[0]
            if isinstance(found, wire.ObjectStat):
                return file_info(name, found.size, found.version)
            if isinstance(found, IsADirectoryError):
                return directory_info(name)
            if scheme not in FLAT or not isinstance(found, FileNotFoundError):
                raise found
            if not list_directory(self._reader, f"{url}/", probe=True).objects:
                raise found
        else:
            list_directory(self._reader, f"{url}/", probe=True)  # raises if there is no such bucket
        return directory_info(name)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What stands directly in a directory; of a file, the file. FileNotFoundError if there is neither."""
        name = self._strip_protocol(path)
        entries = self._entries(name)
        if not entries:
            self.info(name)  # raises unless there is an empty directory
        return entries if detail else [entry["name"] for entry in entries]

    def _entries(self, name: str) -> list[Info]:
        listed = list_directory(self._reader, self._names.url(name))
        entries = [directory_info(self._names.name_of(url)) for url in listed.directories]
        entries += [file_info(self._names.name_of(o.url), o.size, o.version) for o in listed.objects]
        return sorted(entries, key=lambda entry: str(entry["name"]))

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        refresh: bool = False,
        **_: Any,
    ) -> Any:
        """All files below ``path``, or the file of that name; nothing if there is nothing.

        A directory is what files are in: empty ones are not found, except at ``maxdepth``. ``refresh``
        lists anew what the session has already listed.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        name = self._strip_protocol(path)
        found = self._below(name, refresh) if maxdepth is None else self._levels(name, maxdepth)
        names = sorted(n for n, info in found.items() if withdirs or info["type"] == "file")
        return {name: found[name] for name in names} if detail else names

    def _below(self, name: str, refresh: bool) -> dict[str, Info]:
        """Everything below, by name, as one listing has it."""
        url = self._names.url(name)
        try:
            table = read_listing(self._reader, url, refresh or url.partition("://")[0] not in FLAT)
        except FileNotFoundError:
            return {}
        root = self._names.name_of(table.schema.metadata[b"ioaccel.root"].decode())
        rows = zip(*(table[c].to_pylist() for c in ("key", "size", "version")), strict=True)
        found = {root + key: file_info(root + key, size, version) for key, size, version in rows}
        # A store may have an empty object under the name of a directory, to mark it.
        return found | {n: directory_info(n) for n in directories_of(found, name)}

    def _levels(self, name: str, depth: int) -> dict[str, Info]:
        """The same for what is ``depth`` levels below and above that, directory by directory."""
        found: dict[str, Info] = {}
        level = [name]
        for _ in range(depth):
            entries = {e["name"]: e for directory in level for e in self._entries(directory)}
            level = [n for n, e in entries.items() if e["type"] == "directory"]
            found |= entries
        if found.keys() - {name} or (not found and self.isdir(name)):
            found[name] = directory_info(name)
        return found

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Bytes of all files below ``path``, or ``{name: bytes}`` of each."""
        found = self.find(path, maxdepth=maxdepth, withdirs=withdirs, detail=True, **kwargs)
        sizes = {name: info["size"] for name, info in found.items()}
        return sum(sizes.values()) if total else sizes

    def exists(self, path: str, **_: Any) -> bool:
        """Whether a file or directory is there. Raises if the store does not say."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether it is a file. Raises if the store does not say."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether it is a directory. Raises if the store does not say."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> datetime:
        """When the object was changed. NotImplementedError if the store names versions by etags."""
        info = self.info(path)
        if "mtime" not in info:
            raise NotImplementedError(f"{path}: only its version is known, {info.get('version')}")
        return datetime.fromtimestamp(info["mtime"], UTC)
