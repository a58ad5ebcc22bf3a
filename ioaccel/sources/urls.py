"""What a URL names: a scheme, a bucket and a key, each taken verbatim.

One object has one canonical URL, because the cache hashes it. Keys are never percent-decoded: in
``s3://b/a%20b`` the key is the seven characters ``a%20b``, as in fsspec and in the AWS tools.
"""

from __future__ import annotations

import os
import re
from typing import Any, NoReturn

from ioaccel.errors import UnsupportedURLError

OBJECT_SCHEMES = frozenset({"s3", "gs", "az", "http", "https"})
"""Schemes that obstore reads. ``file`` is read directly, every other scheme through fsspec."""

PROCESS_LOCAL = frozenset({"memory"})
"""Schemes whose contents exist only in the process that made them; no engine can read them."""

ALIASES = {
    "s3a": "s3",
    "s3n": "s3",
    "gcs": "gs",
    "azure": "az",
    "abfs": "az",
    "abfss": "az",
    "local": "file",
}
"""Other spellings of a scheme, and the one that is used here."""

_VERBATIM = tuple(f"{scheme}://" for scheme in sorted(OBJECT_SCHEMES))
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CHAINED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::[^/]*://")
_LOCAL_ODD = re.compile(r"//|/\.{1,2}(?:/|$)|/$")
# A letter, digit, or $ first ($web and $root are Azure containers): so "..", "a b" and "a#b", which
# obstore would put into the request as they are and so ask for another object, are refused here.
_BUCKET = re.compile(r"[A-Za-z0-9$][A-Za-z0-9._$-]*\Z")
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LIST_IT = "pass the URL of an object; manifest(url) of a cache lists what lies below"
_ODD_SEGMENT = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")


def canonical(url: str | os.PathLike[Any]) -> str:
    """The one spelling of ``url`` under which its object is cached.

    A plain path and ``file:`` become ``file:///absolute/path``; other names of a scheme become ours
    (``s3a`` -> ``s3``); everything else stays as it is. Raises UnsupportedURLError.
    """
    text = url if isinstance(url, str) else os.fsdecode(url)
    if not text.isascii():
        _check_unicode(text)
    if text.startswith(_VERBATIM):
        return text
    if text.startswith("file:///") and not _LOCAL_ODD.search(text, 7) and "\0" not in text:
        return text
    if _CHAINED.match(text):
        _refuse(text, "it is a chain for fsspec.open; pass the URL of the object in its store")
    match = _SCHEME.match(text)
    if match is None:
        return _local(text, text.removeprefix("file:"))
    scheme, rest = match[1].lower(), text[match.end() :]
    if scheme in ("abfs", "abfss") and "@" in rest.partition("/")[0]:
        _refuse(text, "write az://container/key and pass account_name in storage_options")
    scheme = ALIASES.get(scheme, scheme)
    if scheme == "file":
        return _local(text, rest)
    if scheme == "ioaccel":
        _refuse(text, "ioaccel:// is the cache itself; pass the URL of the object in its store")
    return f"{scheme}://{rest}"


def split(url: str | os.PathLike[Any]) -> tuple[str, str]:
    """``(scheme, rest)`` of the canonical URL, where ``rest`` is what follows ``://``."""
    scheme, _, rest = canonical(url).partition("://")
    return scheme, rest


def split_object_url(url: str | os.PathLike[Any]) -> tuple[str, str, str]:
    """``(scheme, bucket, key)`` of an object that can be read.

    The bucket is ``host:port`` for http and https, and empty for ``file`` (the key is the absolute
    path) and for schemes that fsspec reads. Raises UnsupportedURLError if there is no bucket or key,
    or if the key cannot be expressed in a request (see `why_unaddressable`).
    """
    scheme, rest = split(url)
    if scheme not in OBJECT_SCHEMES:
        if "::" in rest and scheme != "file":
            _refuse(url, "chained file systems are not read; pass the URL of the object in its store")
        if not rest:
            _refuse(url, "it names no file")
        return scheme, "", rest
    bucket, _, key = rest.partition("/")
    http = scheme in ("http", "https")
    if not (_AUTHORITY if http else _BUCKET).match(bucket):
        what = "host" if http else "bucket"
        why = f"{bucket!r} is not the name of a {what}" if bucket else f"it names no {what}"
        if http and "@" in bucket:
            why = "send a user name and password as headers={'Authorization': ...} in storage_options"
        _refuse(url, why)
    if not key:
        _refuse(url, f"it names no key; {_LIST_IT}")
    if key.endswith("/") and not http and not why_unaddressable(key[:-1]):
        _refuse(url, f"it is a prefix, because it ends with '/'; {_LIST_IT}")
    if not http and (reason := why_unaddressable(key)):
        _refuse(url, f"{reason}; copy the object to a plain key")
    return scheme, bucket, key


def why_unaddressable(key: str) -> str | None:
    """Why obstore cannot ask for exactly this key, or None if it can.

    obstore's paths have no empty, ``.`` or ``..`` segments and no control characters. It rejects some
    of them and silently rewrites others (``tail/`` reads ``tail``), which would be another object.
    """
    suspect = not key.isprintable() or "//" in f"/{key}/" or "/." in f"/{key}"
    if not suspect:  # nearly always, and four times as fast as the exact search
        return None
    if _CONTROL.search(key):
        return "the key contains a control character"
    if _ODD_SEGMENT.search(key):
        return "the key has an empty, '.' or '..' segment between slashes or at an end"
    return None


def _local(url: str, path: str) -> str:
    if not path:
        _refuse(url, "it names no file")
    if "\0" in path:
        _refuse(url, "a path cannot contain a NUL")
    if path == "~" or path.startswith("~/"):
        path = os.path.expanduser(path)
    return "file:///" + os.path.abspath(path).lstrip("/")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        _refuse(text, "it is not valid UTF-8; rename the file")


def _refuse(url: str | os.PathLike[Any], why: str) -> NoReturn:
    text = os.fsdecode(url)
    raise UnsupportedURLError(f"cannot read {text!r}: {why}", url=text)


def split_prefix_url(url: str | os.PathLike[Any]) -> tuple[str, str, str]:
    """``(scheme, bucket, prefix)`` of a URL that is to be listed: the prefix may be empty."""
    scheme, rest = split(url)
    if scheme not in OBJECT_SCHEMES:
        return scheme, "", rest
    bucket, _, prefix = rest.partition("/")
    if not (_AUTHORITY if scheme in ("http", "https") else _BUCKET).match(bucket):
        _refuse(url, f"{bucket!r} is not the name of a bucket" if bucket else "it names no bucket")
    return scheme, bucket, prefix
