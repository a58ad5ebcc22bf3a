"""``ioaccel evict``: removes an object, or all below a URL, from the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, StoreOptions


def evict(
    url: Annotated[str, typer.Argument(metavar="URL", help="An object, and all that lies below it.")],
    cache_dir: Directories = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Remove an object and all that lies below its URL from the cache. The store is not touched.

    Objects are cached for the credentials and the endpoint that they were read with, so name the same
    ones. Removing what is not cached is no error.
    """
    from ioaccel.cli.output import number, print_json, size
    from ioaccel.cli.progress import waiting

    with (
        CacheArguments(cache_dir, None, option, config).connect(existing=True) as cache,
        waiting(f"Evicting {url}"),
    ):
        names = [url] if url.endswith("/") else [url, f"{url}/"]
        removed = [cache.evict(name) for name in names]
    blocks, count = sum(r.blocks for r in removed), sum(r.bytes for r in removed)
    if as_json:
        print_json({"url": url, "blocks": blocks, "bytes": count})
    elif blocks:
        print(f"evicted {size(count)} in {number(blocks, 'blocks')}")
    else:
        print("nothing to evict: none of it is cached for these credentials and this endpoint")
