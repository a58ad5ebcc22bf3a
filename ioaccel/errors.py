"""Every error that ioaccel raises: one class a cause, each also the built-in that Python expects.

``str(error)`` is one sentence that names the URL or path and what to do next. The facts stand as
attributes too, so that a program need not parse the sentence:

``url``       the object or path that failed, or None
``range``     ``(start, stop)`` in bytes, or None for the whole object
``attempts``  how many times the store was asked (0: it never was)
``elapsed``   seconds from the first attempt to giving up

Errors pickle, because they cross from the engine to the client and from DataLoader workers to
the training process.
"""

from __future__ import annotations

import errno as _errno
from typing import Any


class IOAccelError(Exception):
    """The root of all errors raised by ioaccel."""

    errno: int | None = None

    def __init__(
        self,
        message: str,
        *,
        url: str | None = None,
        range: tuple[int, int] | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.url = url
        self.range = range
        self.attempts = attempts
        self.elapsed = elapsed

    @property
    def filename(self) -> str | None:
        """The URL, under the name that ``OSError`` has for it."""
        return self.url

    def __str__(self) -> str:
        if self.attempts > 1:
            return f"{self.message} (gave up after {self.attempts} attempts in {self.elapsed:.1f} s)"
        return self.message

    def facts(self) -> dict[str, Any]:
        """The keyword arguments that build an equal error: what is pickled and sent over the wire."""
        return {
            "url": self.url,
            "range": self.range,
            "attempts": self.attempts,
            "elapsed": self.elapsed,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.message, self.facts())


class ObjectNotFoundError(IOAccelError, FileNotFoundError):
    """The bucket or the key does not exist."""

    errno = _errno.ENOENT


class AccessDeniedError(IOAccelError, PermissionError):
    """The store refused the credentials, or they do not allow this request."""

    errno = _errno.EACCES


class RangeError(IOAccelError, ValueError):
    """The range does not lie inside the object."""


class ObjectChangedError(IOAccelError, OSError):
    """The object was replaced while it was being read; no mixture of versions was returned."""

    errno = _errno.ESTALE


class StoreError(IOAccelError, OSError):
    """The store failed, and went on failing until the retries ran out."""

    errno = _errno.EIO


class StoreTimeoutError(StoreError, TimeoutError):
    """The store did not answer before the deadline."""

    errno = _errno.ETIMEDOUT


class UnsupportedURLError(IOAccelError, ValueError):
    """No source reads this scheme, or this key cannot be addressed."""


class DirectoryError(UnsupportedURLError, IsADirectoryError):
    """The URL names a directory, of a store that has real ones, where an object was asked for."""

    errno = _errno.EISDIR


class FormatError(IOAccelError, ValueError):
    """An object is not of the format that it is to be read as, or is damaged."""


class ReadOnlyError(IOAccelError, OSError):
    """Something was to be written through the cache, which only reads."""

    errno = _errno.EROFS


class ConfigError(IOAccelError, ValueError):
    """An option, an environment variable or a configuration file makes no sense."""


class CacheDirectoryError(IOAccelError, OSError):
    """A cache directory cannot be used: missing and not creatable, read-only, not a directory."""

    errno = _errno.EIO


class CacheBusyError(CacheDirectoryError):
    """Another engine serves the directory, together with others than those asked for."""

    errno = _errno.EBUSY


class CacheFormatError(CacheDirectoryError):
    """The directory was written by a newer ioaccel; nothing in it was touched."""

    errno = _errno.EPROTO


class EngineError(IOAccelError, ConnectionError):
    """The engine could not be started or stopped answering."""

    errno = _errno.ECONNREFUSED


class CacheClosedError(IOAccelError, ValueError):
    """The cache was used after ``close()``."""


def _classes() -> dict[str, type[IOAccelError]]:
    found: dict[str, type[IOAccelError]] = {}
    pending: list[type[IOAccelError]] = [IOAccelError]
    while pending:
        cls = pending.pop()
        found[cls.__name__] = cls
        pending.extend(cls.__subclasses__())
    return found


def _rebuild(name: str, message: str, facts: dict[str, Any]) -> IOAccelError:
    """The error that ``name``, ``message`` and ``facts`` describe; IOAccelError for a name unknown here."""
    return _classes().get(name, IOAccelError)(message, **facts)
