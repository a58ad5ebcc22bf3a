"""Where the members of a tar archive lie, from its headers alone.

A plain header is taken apart here, in 2 us; whatever is special (long names, PAX, sparse files, numbers in
base 256, checksums of old Suns) is left to Python's ``tarfile``, which takes 40 us and knows all of it.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from ioaccel._core._client import BLOCK_SIZE
from ioaccel.client.file import ObjectFile
from ioaccel.errors import FormatError, IOAccelError

_HEADER = tarfile.BLOCKSIZE  # 512, also what data is padded to
_ZEROS = bytes(_HEADER)

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
"""How a compressed file begins."""


class Member(NamedTuple):
    """A regular file in an archive: its ``size`` bytes begin at ``offset``."""

    name: str
    offset: int
    size: int


def members(file: ObjectFile) -> Iterator[Member]:
    """The regular files of the archive, in order; names as ``tarfile`` gives them.

    The archive ends at a block of zeros or at the end of the object, as for every reader of tar. FormatError
    if it is compressed, no tar archive, truncated or damaged, or has a sparse file in it.
    """
    window = _Window(file)
    size = file.size
    _check_beginning(window, file.name)
    tar = _open(window, file.name)
    at = 0
    while at < size:
        header = window.header(at)
        if header == _ZEROS:
            return
        if len(header) < _HEADER:
            _refuse(file.name, f"it ends within a header, at byte {size}, and must have been truncated")
        found = None if tar.pax_headers else _plain(header)
        if found is not None:
            name, length = found
            start = at + _HEADER
            following = start + -(-length // _HEADER) * _HEADER
            regular = True
        else:
            info = _special(tar, window, at)
            name, length, start, following = info.name, info.size, info.offset_data, tar.offset
            regular = info.isreg()
            if info.issparse():
                _refuse(file.name, f"{name} is a sparse file, not in one piece; pack it without --sparse")
        if following > size:
            _refuse(file.name, f"{name} ends at byte {following}, the object at {size}; it was truncated")
        if following <= at or length < 0:
            _refuse(file.name, f"its header at byte {at} is damaged")
        if regular:
            yield Member(name, start, length)
        at = following


def _plain(header: bytes) -> tuple[str, int] | None:
    """Name and size, if this is the sound header of a regular file without anything special; else None."""
    kind = header[156]
    if kind not in b"0\0" or header[124] >= 0x80:
        return None
    try:
        size = int(header[124:136].partition(b"\0")[0] or b"0", 8)
        checksum = int(header[148:156].partition(b"\0")[0], 8)
    except ValueError:
        return None
    # The sum of all bytes, with blanks in place of the checksum. Adler's low half is the sum of all bytes and
    # one, modulo 65521, at the speed of C.
    expected = checksum + sum(header[148:156]) - 8 * ord(" ")
    if (expected + 1) % 65521 != zlib.adler32(header) & 0xFFFF:
        return None
    name = header[:100].partition(b"\0")[0].decode("utf-8", "surrogateescape")
    if prefix := header[345:500].partition(b"\0")[0]:
        name = f"{prefix.decode('utf-8', 'surrogateescape')}/{name}"
    if size < 0 or name.endswith("/"):  # how an old archive marks a directory
        return None
    return name, size


def _special(tar: tarfile.TarFile, window: _Window, at: int) -> tarfile.TarInfo:
    """The member whose first header stands at ``at``; ``tar.offset`` is then the next one."""
    window.seek(at)
    try:
        return tarfile.TarInfo.fromtarfile(tar)
    except IOAccelError:
        raise
    except (tarfile.TarError, ValueError, OverflowError) as error:
        _refuse(window.name, f"its header at byte {at} is damaged ({error})")


def _open(window: _Window, name: str) -> tarfile.TarFile:
    """What ``fromtarfile`` needs: it remembers the global PAX headers."""
    try:
        return tarfile.TarFile(fileobj=window, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    except tarfile.TarError as error:
        _refuse(name, f"it is no tar archive, or its beginning is damaged ({error})")


def _check_beginning(window: _Window, name: str) -> None:
    head = window.header(0)
    for magic, how in _COMPRESSED.items():
        if head.startswith(magic):
            _refuse(
                name,
                f"it is compressed with {how}, so no sample can be read by itself; store the tar file "
                "uncompressed (images do not shrink further), or read it in order with webdataset",
            )


def _refuse(url: str, why: str) -> NoReturn:
    raise FormatError(f"{url} cannot be read as a shard: {why}", url=url)


class _Window:
    """The bytes of an object around a position, a block of the cache at a time.

    A block is what the store is asked for anyway; in smaller pieces, a block that the cache has no room for
    would be fetched again for each. Members larger than a block are stepped over.
    """

    def __init__(self, file: ObjectFile) -> None:
        self.name = file.name
        self._file = file
        self._memory = bytearray(min(BLOCK_SIZE, file.size))
        self._view = memoryview(self._memory)
        self._number = -1
        self._at = 0

    def header(self, at: int) -> bytes:
        """Up to 512 bytes from ``at``, a multiple of 512, on: they lie within one block."""
        number, inside = divmod(at, BLOCK_SIZE)
        if number != self._number:
            self._load(number)
        return bytes(self._view[inside : inside + _HEADER])

    def read(self, count: int) -> bytes:
        parts = []
        while count > 0 and self._at < self._file.size:
            number, inside = divmod(self._at, BLOCK_SIZE)
            if number != self._number:
                self._load(number)
            part = bytes(self._view[inside : inside + count])
            parts.append(part)
            self._at += len(part)
            count -= len(part)
        return b"".join(parts)

    def seek(self, at: int) -> None:
        self._at = at

    def tell(self) -> int:
        return self._at

    def _load(self, number: int) -> None:
        begin = number * BLOCK_SIZE
        view = memoryview(self._memory)[: max(0, min(BLOCK_SIZE, self._file.size - begin))]
        self._file.seek(begin)
        self._file.readinto(view)
        self._view = view
        self._number = number
