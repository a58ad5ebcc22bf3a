"""Plain web servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ioaccel.sources.options.client import as_headers, client_options
from ioaccel.sources.options.given import Given, Resolved

# Options of fsspec's HTTP file system that matter to listing or writing only.
IGNORED = (
    "block_size",
    "cache_options",
    "cache_type",
    "encoded",
    "same_scheme",
    "simple_links",
    "size_policy",
)


def resolve(options: Mapping[str, Any], _environ: Mapping[str, str]) -> Resolved:
    """How to ask a web server. Its credentials are the headers."""
    inner = Given("client_kwargs of http", Given("http", options).mapping("client_kwargs"))
    nested = client_options(inner)
    inner.ignore(["trust_env"])
    inner.finish()
    given = Given("http", {name: value for name, value in options.items() if name != "client_kwargs"})
    client = nested | client_options(given)
    if headers := as_headers(nested) | as_headers(client):
        client["default_headers"] = headers
    given.ignore(IGNORED)
    given.finish()
    return Resolved({}, client, {"headers": headers})
