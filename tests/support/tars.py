"""Tar files for tests."""

from __future__ import annotations

import io
import tarfile


def tar(files: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT, **pax: str) -> bytes:
    """An archive of these files; ``pax`` are global headers of a PAX archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, pax_headers=pax) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
