"""Options as a person wrote them: each spelling is understood, and no typo goes unnoticed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ioaccel.errors import ConfigError

TUNING = frozenset(
    {
        "asynchronous",
        "batch_size",
        "cache_regions",
        "cache_timeout",
        "consistency",
        "default_block_size",
        "default_cache_type",
        "default_fill_cache",
        "fixed_upload_size",
        "listings_expiry_time",
        "max_concurrency",
        "max_paths",
        "skip_instance_cache",
        "use_listings_cache",
    }
)
"""fsspec options that tune how a file system reads or writes, not what: accepted, with no effect."""


_SWITCH_WORDS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(
    ("false", "0", "no", "off", ""), False
)


class Resolved(NamedTuple):
    """How to reach a store: obstore's ``config`` and ``client`` options, and ``credentials``, the part
    of them that says which store is meant and who asks."""

    config: dict[str, Any]
    client: dict[str, Any]
    credentials: dict[str, Any]


class Given:
    """Options that are taken out by name; what is left over at the end is a mistake."""

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        self._scheme = scheme
        self._left: dict[str, Any] = {}
        self._known: set[str] = set()
        for name, value in options.items():
            if value is not None and name not in TUNING:
                self._left[name.lower()] = value

    def take(self, *names: str) -> Any:
        """The value under any of ``names``, or None. ConfigError if two of them disagree."""
        self._known.update(names)
        found = {name: self._left.pop(name) for name in names if name in self._left}
        values = list(found.values())
        if any(value != values[0] for value in values[1:]):
            raise ConfigError(f"{' and '.join(found)} mean the same option and differ; pass one of them")
        return values[0] if values else None

    def text(self, *names: str) -> str | None:
        """`take`, for an option that is a string."""
        value = self.take(*names)
        if value is None or isinstance(value, str):
            return value or None
        raise self._wrong(names[0], value, "a string")

    def flag(self, *names: str) -> bool | None:
        """`take`, for an option that is on or off."""
        value = self.take(*names)
        if value is None or isinstance(value, bool):
            return value
        if (flag := as_flag(value)) is None:
            raise self._wrong(names[0], value, "True or False")
        return flag

    def mapping(self, name: str) -> dict[str, Any]:
        """`take`, for an option that holds others; empty if it is not there."""
        value = self.take(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._wrong(name, value, "a mapping")
        return dict(value)

    def ignore(self, names: Iterable[str]) -> None:
        """Accept options that have no bearing on reading."""
        for name in names:
            self.take(name)

    def finish(self) -> None:
        """Raise ConfigError if anything is left."""
        for name in self._left:
            import difflib

            near = difflib.get_close_matches(name, sorted(self._known), 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(self._known))}"
            raise ConfigError(f"ioaccel knows no option {name!r} for {self._scheme}://; {hint}")

    def _wrong(self, name: str, value: object, wanted: str) -> ConfigError:
        return ConfigError(
            f"option {name!r} for {self._scheme}:// must be {wanted} that another process can be told, "
            f"not {type(value).__name__}"
        )


def as_flag(value: object) -> bool | None:
    """What ``value`` means as a switch, or None if it means nothing."""
    return _SWITCH_WORDS.get(str(value).strip().lower())


def first(environ: Mapping[str, str], *names: str) -> str | None:
    """The first of these environment variables that is set to something."""
    return next((value for name in names if (value := environ.get(name))), None)


def check_endpoint(url: str, name: str) -> str:
    """``url`` without a trailing slash. ConfigError unless it is an http(s) URL: obstore panics on some
    that are not."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in url):
        raise ConfigError(f"{name} is {url!r}; write it as http://host:port or https://host")
    return url.rstrip("/")
