"""Where samples lie in tar files: against tarfile and webdataset, which read the same bytes."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tars import tar
from webdataset.tariterators import group_by_keys, tar_file_expander

from ioaccel.errors import FormatError
from ioaccel.formats.tarheaders import members
from ioaccel.formats.tarsamples import ShardSamples, samples_of

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
BLOCK = 4 << 20


class File(io.BytesIO):
    """Bytes, as the cache's files give them."""

    name = "s3://bucket/shard.tar"

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.size = len(data)


def ours(data: bytes) -> list[dict[str, Any]]:
    """The samples, read by the places that the index gives."""
    batch = samples_of(File(data))  # type: ignore[arg-type]
    rows = ShardSamples(batch)
    found = []
    for row in range(batch.num_rows):
        key, parts = rows[row]
        assert rows.extents(row) == [(offset, length) for _, offset, length in parts]
        found.append({"__key__": key} | {e: data[o : o + n] for e, o, n in parts})
    return found


def theirs(data: bytes) -> list[dict[str, Any]]:
    files = tar_file_expander([{"url": "x", "stream": io.BytesIO(data)}])
    return [{k: v for k, v in sample.items() if k != "__url__"} for sample in group_by_keys(files)]


def places(data: bytes) -> list[tuple[str, int, int]]:
    return [tuple(member) for member in members(File(data))]  # type: ignore[arg-type, misc]


def places_by_tarfile(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8") as archive:
        return [(m.name, m.offset_data, m.size) for m in archive if m.isreg()]


names = st.lists(
    st.sampled_from(
        ["a", "b", "0001", ".", "/", "jpg", "SEG", "é", "\udcff", "__meta__", "_", " ", "n" * 90]
    ),
    min_size=1,
    max_size=5,
).map("".join)


@given(
    files=st.lists(st.tuples(names, st.integers(0, 1500)), max_size=12),
    format=st.sampled_from(FORMATS),
    pax=st.sampled_from([{}, {"comment": "of the whole archive"}]),
)
@settings(max_examples=200, deadline=None)
def test_names_and_sizes_of_all_kinds(files: list[tuple[str, int]], format: int, pax: dict[str, str]) -> None:
    named: dict[str, bytes] = {}
    for number, (name, size) in enumerate(files):
        try:
            tarfile.TarInfo(name).tobuf(format, errors="surrogateescape")
        except (ValueError, UnicodeError):
            continue  # too long for this format
        named.setdefault(name, bytes([65 + number]) * size)
    data = tar(list(named.items()), format, **(pax if named else {}))  # tarfile wants a file after a header
    assert places(data) == places_by_tarfile(data)
    try:
        expected = theirs(data)
    except ValueError:
        with pytest.raises(FormatError, match="two members"):
            ours(data)
        return
    assert ours(data) == expected


def test_the_layout_of_webdataset() -> None:
    data = tar(
        [
            ("__index__/a.json", b"skipped"),
            ("dir/0001.JPG", b"image"),
            ("dir/0001.seg.png", b"mask"),
            ("dir/0001.cls", b"7"),
            ("0001.cls", b"another sample"),
            ("dir.with.dots/0002.txt", b""),
            ("README", b"no extension"),
            (".hidden", b"no key"),
            ("./0003.cls", b"8"),
            ("dir/0001.cls", b"not next to its kin"),
        ]
    )
    expected = [
        {"__key__": "dir/0001", "jpg": b"image", "seg.png": b"mask", "cls": b"7"},
        {"__key__": "0001", "cls": b"another sample"},
        {"__key__": "dir.with.dots/0002", "txt": b""},
        {"__key__": "./0003", "cls": b"8"},
        {"__key__": "dir/0001", "cls": b"not next to its kin"},
    ]
    assert ours(data) == expected == theirs(data)


def test_what_is_no_regular_file_is_skipped() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("0001.jpg")
            info.type, info.linkname = kind, "0000.jpg"
            archive.addfile(info)
        old_directory = tarfile.TarInfo("old.d/")
        old_directory.type = tarfile.AREGTYPE
        archive.addfile(old_directory)
        contiguous = tarfile.TarInfo("0002.jpg")
        contiguous.type, contiguous.size = tarfile.CONTTYPE, 3
        archive.addfile(contiguous, io.BytesIO(b"abc"))
    assert ours(out.getvalue()) == [{"__key__": "0002", "jpg": b"abc"}] == theirs(out.getvalue())


def test_headers_at_the_edges_of_blocks_and_members_larger_than_a_block() -> None:
    sizes = [BLOCK - 1024, 5, BLOCK - 512, 3 * BLOCK + 1, 0, 512]
    data = tar([(f"{n}.bin", bytes([n]) * size) for n, size in enumerate(sizes)])
    assert places(data) == places_by_tarfile(data)
    file = File(data)
    read = [0]

    class Counted(File):
        def readinto(self, target: Any) -> int:
            read[0] += len(target)
            return super().readinto(target)

    file = Counted(data)
    assert len(list(members(file))) == len(sizes)  # type: ignore[arg-type]
    assert read[0] < len(data) - BLOCK  # what is only body was not read


def test_numbers_in_base_256_and_signed_checksums() -> None:
    plain = bytearray(tar([("0001.jpg", b"abc"), ("0002.jpg", b"def")]))
    plain[124:136] = b"\x80" + (3).to_bytes(11, "big")
    for name, total in (("unsigned", sum), ("signed", lambda b: sum(x - 256 * (x > 127) for x in b))):
        header = plain[:148] + b" " * 8 + plain[156:512]
        plain[148:156] = b"%06o\0 " % total(header)
        assert [size for _, _, size in places(bytes(plain))] == [3, 3], name


@pytest.mark.parametrize("module", [gzip, bz2, lzma], ids=["gzip", "bz2", "xz"])
def test_compressed(module: Any) -> None:
    with pytest.raises(FormatError, match=r"s3://bucket/shard\.tar .*compressed.*uncompressed"):
        places(module.compress(tar([("0001.jpg", b"abc")])))


@pytest.mark.parametrize(
    "data", [b"", b"<html>no such bucket</html>", b"\x89PNG" + bytes(2000)], ids=["empty", "html", "png"]
)
def test_no_tar_archive(data: bytes) -> None:
    with pytest.raises(FormatError, match=r"s3://bucket/shard\.tar .*no tar archive"):
        places(data)


def test_an_archive_without_members() -> None:
    assert places(tar([])) == []


@given(st.data())
@settings(deadline=None)
def test_truncated(data: st.DataObject) -> None:
    files = [(f"{'n' * 120}/{n}.jpg", bytes([n]) * 700) for n in range(4)]
    whole = tar(files, data.draw(st.sampled_from(FORMATS)))
    full = places(whole)
    end = full[-1][1] + 1024  # behind the last member; there the end marker begins
    cut = whole[: data.draw(st.integers(1, end - 1))]
    try:
        found = places(cut)
    except FormatError as error:
        assert error.url == File.name  # noqa: PT017  # it may be read, or not
        return
    assert found == full[: len(found)]  # between two members: no reader of tar can tell
    assert len(cut) % 512 == 0


def test_a_damaged_header() -> None:
    whole = tar([(f"{n}.jpg", bytes(700)) for n in range(4)])
    for position in (3 * 512 + 3, 3 * 512 + 130, 3 * 512 + 150):
        data = bytearray(whole)
        data[position] ^= 0x55
        with pytest.raises(FormatError, match=r"byte 1536 is damaged"):
            places(bytes(data))


def test_a_sparse_file() -> None:
    info = tarfile.TarInfo("0001.bin")
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\0" + b"00000000003\0"  # one piece of three bytes
    header[124:136], header[483:495] = b"00000000003\0", b"00000001000\0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(FormatError, match=r"0001\.bin is a sparse file.*--sparse"):
        places(bytes(header) + b"abc" + bytes(509 + 1024))


def test_twice_the_same_extension() -> None:
    with pytest.raises(FormatError, match=r"'0001' has two members 'jpg'"):
        ours(tar([("0001.jpg", b"a"), ("0001.JPG", b"b")]))
