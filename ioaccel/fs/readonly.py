"""The methods of an fsspec file system that write, all refused."""

from __future__ import annotations

from typing import Any, NoReturn

from ioaccel.errors import ReadOnlyError


class ReadOnly:
    """A file system that cannot be written to; to be inherited from before fsspec's own classes."""

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raises ReadOnlyError."""
        raise ReadOnlyError(
            "ioaccel:// only reads; write with the file system of the target, as in fsspec.open('s3://...')"
        )

    async def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        self.refuse()

    mkdir = makedirs = mkdirs = rmdir = rm = rm_file = delete = refuse
    cp_file = copy = cp = mv = move = rename = mv_file = refuse
    put = put_file = upload = pipe = pipe_file = touch = write_text = write_bytes = refuse
    _mkdir = _makedirs = _rm = _rm_file = _cp_file = _copy = _mv_file = _refuse
    _put = _put_file = _pipe = _pipe_file = _refuse
