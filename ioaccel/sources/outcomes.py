"""What a failed request to an object store means: try again, give up, or ask differently.

obstore has few exception classes and puts the rest into the text, in two parts: a sentence, and
Rust's debug view. Both are read here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from obstore import exceptions as obstore

from ioaccel.errors import (
    AccessDeniedError,
    ConfigError,
    IOAccelError,
    ObjectNotFoundError,
    StoreError,
    UnsupportedURLError,
)
from ioaccel.sources.base import RetryableError, changed

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_METHOD = re.compile(r"Error performing ([A-Z]+) (\S+) in ")
_TIMING = re.compile(r" in [\d.]+[nµm]?s\b")
# Requests for credentials, not for data. Data is only ever asked for with GET and HEAD.
_SIGN_IN = re.compile(
    r"Error performing (?:token request|PUT|POST)|External \w+ credential provider|Failed to read token file"
    r"|Error performing GET https?://(?:169\.254\.\d+\.\d+|metadata\.google\.internal)\b"
)

_THROTTLED = {
    "RequestLimitExceeded",
    "RequestThrottled",
    "ServerBusy",
    "SlowDown",
    "SlowDownRead",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerDisabled", "ContainerBeingDeleted"}
_DENIED = {
    "AuthorizationHeaderMalformed": "check region in storage_options",
    "ExpiredToken": "the session token has expired; renew the credentials and connect again",
    "InvalidAccessKeyId": "the store does not know this key; check key (AWS_ACCESS_KEY_ID)",
    "InvalidToken": "the session token is not valid; check token (AWS_SESSION_TOKEN)",
    "RequestTimeTooSkewed": "the clock of this node is wrong; set it",
    "SignatureDoesNotMatch": "check secret (AWS_SECRET_ACCESS_KEY) in storage_options",
    "TokenRefreshRequired": "the session token has expired; renew the credentials and connect again",
}
_DENIED_ADVICE = (
    "allow these credentials to read and list the bucket, or pass others in storage_options "
    "(a missing key looks the same to those who may not list)"
)
_SIGN_IN_ADVICE = "pass key and secret, or anon=True for public data, in storage_options"


class At(NamedTuple):
    """The read that failed; ``start`` and ``stop`` are 0 where it was not a range."""

    url: str
    start: int = 0
    stop: int = 0

    @property
    def range(self) -> tuple[int, int] | None:
        return (self.start, self.stop) if self.stop else None


class PastTheEndError(Exception):
    """416: the range starts at or past the end, or the object is empty. Does not leave the sources."""


class NoRangesError(Exception):
    """The server answered a range request with all of the object. Does not leave the sources."""


@contextmanager
def translated(at: At) -> Iterator[None]:
    """Raise what obstore raises inside as RetryableError, a class of `ioaccel.errors`, PastTheEndError or
    NoRangesError."""
    try:
        yield
    except IOAccelError:
        raise
    except Exception as error:
        raise outcome(error, at) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which derives from BaseException
            raise
        raise StoreError(f"{at.url}: obstore failed inside: {error}; please report it", url=at.url) from error


def outcome(error: Exception, at: At) -> Exception:
    """The exception to raise for ``error``."""
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else ""
    seen = " ".join(str(each) for each in (status, code) if each)
    if status is not None and (code in _THROTTLED or status in (429, 503)):
        return RetryableError(f"{at.url}: the store asks for fewer requests ({seen})", throttled=True)
    if _SIGN_IN.search(text.partition("\n")[0]):
        return _sign_in(text, status, at)
    if isinstance(error, FileNotFoundError) or status == 404:
        return _missing(code, text, at)
    if isinstance(error, obstore.PreconditionError):
        return changed(at.url)
    refused = isinstance(error, (obstore.PermissionDeniedError, obstore.UnauthenticatedError))
    if refused or status in (401, 403) or code in _DENIED:
        advice = _DENIED.get(code, _DENIED_ADVICE)
        return AccessDeniedError(
            f"{at.url}: access denied ({seen or _brief(text)}); {advice}", url=at.url, range=at.range
        )
    if status == 416:
        return PastTheEndError(at.url)
    if "NotPartial" in text or "RangeNotSupported" in text:
        return NoRangesError(at.url)
    if status is not None and (status in (408, 500, 502, 504) or status > 504 or code == "RequestTimeout"):
        return RetryableError(f"{at.url}: the store failed ({seen})", timed_out=status in (408, 504))
    if status is None and (connection := _connection(text, at)) is not None:
        return connection
    return _final(error, text, at)


def _sign_in(text: str, status: int | None, at: At) -> Exception:
    passing = status is not None and status >= 500
    if passing or ("kind: Timeout" in text and "Connect" not in text):
        return RetryableError(f"{at.url}: no credentials yet ({_brief(text)})", timed_out=not passing)
    return AccessDeniedError(
        f"{at.url}: no credentials ({_brief(text)}); {_SIGN_IN_ADVICE}", url=at.url, range=at.range
    )


def _missing(code: str, text: str, at: At) -> ObjectNotFoundError:
    method = _METHOD.search(text)
    if code in _NO_BUCKET:
        message = f"{at.url}: the bucket does not exist at this endpoint; check its name and endpoint_url"
    elif code or not method or method[1] != "HEAD":
        message = f"{at.url} does not exist; check the key"
    else:  # an answer to HEAD has no body that could say which
        message = f"{at.url}: the bucket or the key does not exist; check both, and endpoint_url"
    return ObjectNotFoundError(message, url=at.url, range=at.range)


def _connection(text: str, at: At) -> Exception | None:
    """What became of a request that got no answer, or a broken one."""
    if "InvalidCertificate" in text:
        return StoreError(
            f"{at.url}: the certificate of the endpoint is not trusted; pass verify='/path/to/ca.pem'",
            url=at.url,
        )
    if "kind: Builder" in text or "BadScheme" in text:
        return ConfigError(
            f"{at.url}: the endpoint is not a URL ({_brief(text)}); check endpoint_url", url=at.url
        )
    if "BareRedirect" in text:
        return ConfigError(
            f"{at.url}: the bucket is in another region; pass region in storage_options", url=at.url
        )
    if "HttpError" in text:
        timed_out = "kind: Timeout" in text
        host = _endpoint(text)
        what = f"no answer in time from {host}" if timed_out else f"the connection to {host} failed"
        return RetryableError(f"{at.url}: {what} ({_cause(text)})", timed_out=timed_out)
    if "MissingContentLength" in text or "UnexpectedRange" in text:
        return RetryableError(f"{at.url}: a broken answer ({_brief(text)})")
    return None


def _final(error: Exception, text: str, at: At) -> Exception:
    if isinstance(error, (obstore.InvalidPathError, UnicodeError)) or "Could not parse path" in text:
        return UnsupportedURLError(
            f"{at.url!r}: obstore cannot express this key; copy the object", url=at.url
        )
    if isinstance(error, (obstore.NotSupportedError, NotImplementedError)):
        return UnsupportedURLError(f"{at.url}: the store cannot do this ({_brief(text)})", url=at.url)
    return StoreError(f"{at.url}: the store refused ({_brief(text)})", url=at.url, range=at.range)


def _endpoint(text: str) -> str:
    """Where a request went, as ``http://host:port``; obstore does not say it of a body that breaks off."""
    found = _METHOD.search(text)
    parts = urlsplit(found[2] if found else "")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "the store"


def _cause(text: str) -> str:
    """The operating system's or hyper's word for a broken connection."""
    for pattern in (
        r'message: "([^"]+)"',
        r'error: "([^"]+)"',
        r"(IncompleteBody|IncompleteMessage|TimedOut)",
    ):
        if found := re.search(pattern, text):
            return found[1]
    return _brief(text)


def _brief(text: str) -> str:
    """The sentence, without the time it took, any query (it may hold a signature) and any excess."""
    line = re.sub(r"\?\S+", "?...", _TIMING.sub("", text.partition("\n")[0]))
    return line if len(line) <= 300 else f"{line[:300]}..."
