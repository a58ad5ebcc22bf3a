"""A `SourceSpec`: all that another process must be told to read a store as this one would.

Made by the client when it connects, sent to the engine, and opened there. Importing this is cheap:
it reads no store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ioaccel.errors import ConfigError
from ioaccel.sources.options import az, gs, http, s3
from ioaccel.sources.options.given import TUNING, Resolved
from ioaccel.sources.urls import ALIASES, OBJECT_SCHEMES, PROCESS_LOCAL, canonical, split, split_object_url

__all__ = ["PROCESS_LOCAL", "SourceSpec", "canonical", "resolve", "split", "split_object_url"]

_STORES: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], Resolved]] = {
    "s3": s3.resolve,
    "gs": gs.resolve,
    "az": az.resolve,
    "http": http.resolve,
    "https": http.resolve,
}
# Options that people pass to other libraries and that hold live objects or decide what ioaccel decides.
_REFUSED = {
    "credential": "it cannot be sent to another process; pass keys, a token or a file",
    "credential_provider": "it cannot be sent to another process; pass keys, or put them in the environment",
    "credentials": "they cannot be sent to another process; pass keys, a token or a file",
    "fs": "ioaccel makes its own file system; pass the options of yours",
    "loop": "it cannot be sent to another process; leave it out",
    "retry_config": "ioaccel retries by itself; leave it out",
    "session": "it cannot be sent to another process; pass key and secret, or profile",
    "get_client": "it cannot be sent to another process; pass headers",
}


class SourceSpec(msgspec.Struct, frozen=True):
    """How to reach the stores of one scheme.

    ``kind``      "object" (read with obstore), "local" or "fsspec"
    ``options``   what the reader of that kind is opened with; the secrets are here and nowhere else
    ``identity``  16 bytes that differ between two endpoints and between two credentials: the same
                  bucket and key seen under two identities are two objects to the cache
    """

    kind: str
    scheme: str
    options: dict[str, Any]
    identity: bytes

    def __repr__(self) -> str:
        return f"SourceSpec(kind={self.kind!r}, scheme={self.scheme!r}, identity={self.identity.hex()})"

    def __hash__(self) -> int:
        return hash(self.identity)


def resolve(
    scheme: str, storage_options: Mapping[str, Any] | None = None, environ: Mapping[str, str] = os.environ
) -> SourceSpec:
    """What ``storage_options`` and the environment say about ``scheme``; options win.

    ``storage_options`` has fsspec's names or obstore's, flat or below the name of a scheme
    (``{"s3": {...}}``). ConfigError names an option that is not understood or cannot be sent to
    another process. It reads ~/.aws and key files: call it when connecting, not for each object.
    """
    scheme = ALIASES.get(scheme, scheme)
    options = _of_scheme(scheme, storage_options or {})
    _check_sendable(scheme, options)
    if scheme in OBJECT_SCHEMES:
        found = _STORES[scheme](options, environ)
        sent = {"config": found.config, "client": found.client}
        return SourceSpec("object", scheme, sent, _identity("object", scheme, found.credentials))
    if scheme == "file":
        return SourceSpec("local", scheme, {}, _identity("local", scheme, {}))
    options.pop("asynchronous", None)  # how the engine calls a file system is its own affair
    return SourceSpec("fsspec", scheme, options, _identity("fsspec", scheme, options))


def _of_scheme(scheme: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` themselves, or the part that stands below the name of ``scheme``."""
    schemes = {*OBJECT_SCHEMES, *ALIASES, "file", scheme}
    nested = [name for name in options if name in schemes and isinstance(options[name], Mapping)]
    if not nested:
        return dict(options)
    if flat := [name for name, value in options.items() if not isinstance(value, Mapping)]:
        raise ConfigError(
            f"storage_options has {nested[0]!r} for one scheme and {flat[0]!r} for all; put every option "
            f"below the name of its scheme"
        )
    group = {"http", "https"} if scheme in ("http", "https") else {scheme}
    mine = [name for name in nested if ALIASES.get(name, name) in group]
    return {key: value for name in mine for key, value in options[name].items()}


def _check_sendable(scheme: str, options: Mapping[str, Any], path: str = "") -> None:
    for name, value in options.items():
        if value is None:
            continue
        if not isinstance(name, str):
            raise ConfigError(f"option {name!r} for {scheme}:// must have a string as its name")
        if not path and name in _REFUSED and scheme in OBJECT_SCHEMES:
            raise ConfigError(f"option {name!r} for {scheme}:// is not taken: {_REFUSED[name]}")
        if isinstance(value, Mapping):
            _check_sendable(scheme, value, f"{path}{name}.")
        elif not _plain(value):
            raise ConfigError(
                f"option '{path}{name}' for {scheme}:// is a {type(value).__name__}, which cannot be sent to "
                f"the engine, another process; pass strings and numbers, or put them in the environment"
            )


def _plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_plain(each) for each in value)
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _plain(each) for name, each in value.items())
    return value is None or isinstance(value, (bool, int, float, str, bytes))


def _identity(kind: str, scheme: str, facts: Mapping[str, Any]) -> bytes:
    told = {name: value for name, value in facts.items() if name not in TUNING}
    packed = msgspec.msgpack.encode([kind, scheme, told], order="deterministic")
    return hashlib.blake2b(packed, digest_size=16, person=b"ioaccel source").digest()
