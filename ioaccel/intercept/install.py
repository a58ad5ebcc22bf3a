"""Puts the shims in place, once in a process: they do nothing outside a scope."""

from __future__ import annotations

import os
from collections.abc import Sequence

from ioaccel.client.reader import Reader
from ioaccel.intercept import caches, files, filesystems
from ioaccel.intercept.scope import Scope


def serving(reader: Reader, directories: Sequence[str | os.PathLike[str]] = ()) -> Scope:
    """A scope for one thread, in which reads come from this reader's cache."""
    filesystems.install()
    caches.install()
    if directories:
        files.install()
    return Scope(reader, directories)
