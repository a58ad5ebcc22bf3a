"""The methods of an fsspec file system that write, all refused."""

from __future__ import annotations

from typing import Any, NoReturn

from ioaccel.errors import ReadOnlyError


class ReadOnly:
    """Raises ReadOnlyError from each; to be inherited from before fsspec's own classes."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise ReadOnlyError(
            "ioaccel:// only reads; write with the file system of the target, as in fsspec.open('s3://...')"
        )

    async def _refuse_later(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse()

    mkdir = makedirs = mkdirs = rmdir = rm = rm_file = delete = _refuse
    cp_file = copy = cp = mv = move = rename = mv_file = _refuse
    put = put_file = upload = pipe = pipe_file = touch = write_text = write_bytes = _refuse
    _mkdir = _makedirs = _rm = _rm_file = _cp_file = _copy = _mv_file = _refuse_later
    _put = _put_file = _pipe = _pipe_file = _refuse_later
