"""`open`, and whatever is made of it: pathlib, PIL, numpy, torch.load."""

from __future__ import annotations

import builtins
import functools
import io
import os
from typing import Any

from ioaccel.intercept.scope import Scope, current

_TEXT = frozenset({"r", "rt", "tr"})
_BINARY = frozenset({"rb", "br"})

_original = builtins.open


@functools.wraps(_original)
def _open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    scope = current()
    if scope is not None and type(file) is not int and opener is None and buffering not in (0, 1):
        if mode in _BINARY and encoding is errors is newline is None:
            opened = _served(scope, file)
        elif mode in _TEXT:
            opened = _served(scope, file)
            if opened is not None:
                opened = io.TextIOWrapper(opened, encoding, errors, newline)
                opened.mode = mode  # type: ignore[misc]  # as open() does
        else:
            opened = None
        if opened is not None:
            return opened
    return _original(file, mode, buffering, encoding, errors, newline, closefd, opener)


def _served(scope: Scope, file: Any) -> Any:
    try:
        path = scope.path(file)
    except (TypeError, ValueError):
        return None  # the original says what is wrong with it
    if path is None:
        return None
    return scope.open(scope.target("file", {}), f"file://{path}", os.fspath(file), path)


def install() -> None:
    """Puts the shim in place."""
    builtins.open = io.open = _open
