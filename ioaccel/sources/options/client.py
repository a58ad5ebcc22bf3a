"""Options of the HTTP client, which are the same for every store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ioaccel.errors import ConfigError
from ioaccel.sources.options.given import Given

_SECONDS = ("connect_timeout", "read_timeout", "timeout")
_TEXTS = ("proxy_ca_certificate", "proxy_excludes", "proxy_url", "user_agent")


def client_options(given: Given, ca_bundle: str | None = None) -> dict[str, Any]:
    """obstore's client options out of ``verify``, ``headers``, ``client_options`` and the time limits.

    Time limits are numbers of seconds or strings such as ``"30s"``. ``ca_bundle``: a PEM file that the
    environment names, used unless ``verify`` is given. ConfigError for what makes no sense.
    """
    nested = Given("client_options", given.mapping("client_options"))
    found: dict[str, Any] = {}
    for options in (nested, given):
        for name in _SECONDS:
            if (value := options.take(name)) is not None:
                found[name] = _duration(name, value)
        for name in _TEXTS:
            if (text := options.text(name)) is not None:
                found[name] = text
        headers = options.mapping("headers") | options.mapping("default_headers")
        if headers:
            found["default_headers"] = {_header(name): _header(value) for name, value in headers.items()}
    # obstore has its own switch for plain http; here the URL of the endpoint says it.
    nested.ignore(["allow_http", "http1_only", "pool_idle_timeout", "pool_max_idle_per_host"])
    given.ignore(["allow_http"])
    if nested.flag("allow_invalid_certificates"):
        found["allow_invalid_certificates"] = True
    if (pem := nested.take("root_certificate")) is not None:
        found["root_certificate"] = pem.decode() if isinstance(pem, bytes) else str(pem)
    nested.finish()
    return found | _trust(given.take("verify", "ssl_verify"), ca_bundle)


def _trust(verify: object, ca_bundle: str | None) -> dict[str, Any]:
    if verify is False:
        return {"allow_invalid_certificates": True}
    path = ca_bundle if verify in (None, True) else verify
    if path is None:
        return {}
    try:
        # Read here, because the engine may not see the same files.
        with open(str(path), encoding="ascii") as file:
            return {"root_certificate": file.read()}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"verify names {path!r}, which is not a readable PEM file: {error}") from error


def _duration(name: str, value: object) -> str:
    if isinstance(value, str):
        if not value.replace(".", "", 1).isdecimal():
            return value
        number = float(value)  # without a unit, as on a command line
        return _duration(name, number)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return f"{max(1, round(value * 1000))}ms"
    raise ConfigError(f"option {name!r} is {value!r}; give a number of seconds above 0")


def _header(value: object) -> str:
    if not isinstance(value, str) or any(character in value for character in "\r\n\0"):
        raise ConfigError("option 'headers' must hold plain strings, without line breaks")
    return value


def as_headers(client: Mapping[str, Any]) -> dict[str, str]:
    """The headers among client options."""
    headers: dict[str, str] = client.get("default_headers", {})
    return headers
