"""Errors as one line on stderr and an exit code that says whose matter it is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ioaccel.errors import (
    AccessDeniedError,
    CacheDirectoryError,
    EngineError,
    IOAccelError,
    ObjectChangedError,
    ObjectNotFoundError,
    StoreError,
)

DONE = 0
FOUND_SOMETHING = 1  # a check found something, or only a part was done
USAGE = 2  # what click says for a wrong command line, too
NOT_FOUND = 3
ACCESS_DENIED = 4
STORE = 5
CACHE = 6  # the cache directory, the engine, or something else on this machine
BUG = 70  # EX_SOFTWARE of sysexits.h
INTERRUPTED = 130  # 128 + SIGINT
HUNG_UP = 141  # 128 + SIGPIPE: whoever read our output did not want all of it
TERMINATED = 143  # 128 + SIGTERM

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (ObjectNotFoundError, NOT_FOUND),
    (AccessDeniedError, ACCESS_DENIED),
    (StoreError, STORE),
    (ObjectChangedError, STORE),
    (CacheDirectoryError, CACHE),
    (EngineError, CACHE),
    # ConfigError, UnsupportedURLError and RangeError: somebody wrote something that makes no sense.
    (ValueError, USAGE),
    (IOAccelError, FOUND_SOMETHING),
    (OSError, CACHE),
)


def exit_code(error: IOAccelError | OSError) -> int:
    """The exit code of an error, by its cause."""
    return next(code for kind, code in _CODES if isinstance(error, kind))


def one_line(error: BaseException) -> str:
    """What an error says, on one line."""
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, IOAccelError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split()) or type(error).__name__


def complain(text: str) -> None:
    """Prints one line to stderr, marked as ours."""
    print(f"ioaccel: {text}", file=sys.stderr, flush=True)


def terminated(*_: object) -> NoReturn:
    """What SIGTERM does: all that is open is closed, and what is temporary removed, as with Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    complain("terminated")
    raise SystemExit(TERMINATED)


@contextmanager
def reported() -> Iterator[None]:
    """Turns what is raised inside into one line on stderr and SystemExit with the code for it.

    Anything that is neither an IOAccelError nor an OSError is a bug, and keeps its traceback.
    """
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        complain("interrupted")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whatever Python still flushes at exit must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(HUNG_UP) from None
    except (IOAccelError, OSError) as error:
        complain(one_line(error))
        raise SystemExit(exit_code(error)) from None
    except Exception as error:
        if type(error).__module__.startswith(("typer", "click")):
            raise  # a wrong command line: typer says so
        import traceback

        traceback.print_exc()
        complain("this is a bug of ioaccel; please report it with the lines above")
        raise SystemExit(BUG) from error
