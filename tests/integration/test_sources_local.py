"""Local files: what only a file system can do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ioaccel.errors import ObjectChangedError, UnsupportedURLError
from ioaccel.sources import RetryableError, Source, open_source, resolve


@pytest.fixture
def files() -> Source:
    return open_source(resolve("file"), "")


def test_what_is_no_file(files: Source, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for key in (str(tmp_path), str(tmp_path / "fifo"), "/dev/null"):
        for ask in (lambda key=key: files.stat(key), lambda key=key: files.get(key, 0, 1)):
            with pytest.raises(UnsupportedURLError, match=r"directory|regular file"):
                ask()


def test_permission(files: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(os, "open", refuse)  # root may read everything
    with pytest.raises(PermissionError, match="may not be read by user") as caught:
        files.get(str(tmp_path / "x"), 0, 1)
    assert caught.value.filename == f"file://{tmp_path}/x"


def test_a_sick_disk_is_tried_again(files: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> bytes:
        raise OSError(5, "Input/output error")

    (tmp_path / "x").write_bytes(b"x")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(RetryableError, match="Input/output error"):
        files.get(str(tmp_path / "x"), 0, 1)


def test_a_file_that_changes_during_a_read(
    files: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    version = files.stat(str(path)).version
    pread = os.pread

    def change(descriptor: int, count: int, offset: int) -> bytes:
        data = pread(descriptor, count, offset)
        with path.open("r+b") as file:
            file.truncate(3)
        return data

    monkeypatch.setattr(os, "pread", change)
    with pytest.raises(ObjectChangedError):
        files.get(str(path), 0, 5, version)
    path.write_bytes(b"12345")
    with pytest.raises(RetryableError):
        files.get(str(path), 0, 5)


def test_links(files: Source, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(b"x")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "file").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = [info.key for page in files.list(str(tmp_path)) for info in page]
    assert found == [f"{tmp_path}/{name}" for name in ("file", "linked/x", "real/x")]


def test_names_that_are_not_text(files: Source, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_bytes(b"")
    with pytest.raises(UnsupportedURLError, match="UTF-8"):
        list(files.list(str(tmp_path)))


def test_pages(files: Source, tmp_path: Path) -> None:
    for number in range(2500):
        (tmp_path / f"{number:04d}").touch()
    pages = list(files.list(str(tmp_path)))
    assert [len(page) for page in pages] == [1000, 1000, 500]
    assert [info.key for page in pages for info in page] == sorted(str(path) for path in tmp_path.iterdir())
