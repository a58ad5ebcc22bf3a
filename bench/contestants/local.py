"""The same bytes in local files: what no reader of a remote store can beat by much."""

from __future__ import annotations

from bench.contestants.mapped import Mapped


class Local(Mapped):
    """Plain files, opened and read one by one."""

    def read(self, number: int) -> bytes:
        key, offset, length = self.piece(number)
        with open(f"{self.settings['files']}/{key}", "rb", buffering=0) as file:
            if offset:
                file.seek(offset)
            return file.read(length)
