"""``ioaccel du``: what is cached, by prefix."""

from __future__ import annotations

from typing import Annotated

import typer

from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json


def du(
    url: Annotated[str | None, typer.Argument(metavar="URL", help="Only what lies below it.")] = None,
    depth: Annotated[
        int, typer.Option(min=0, help="Path components below the bucket, or below URL, to tell apart.")
    ] = 1,
    cache_dir: Directories = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show what the objects below each prefix take in the cache.

    What was read with different credentials, or from different endpoints, is added up.
    """
    from ioaccel.cli.output import print_json, print_table, size
    from ioaccel.cli.progress import waiting

    top, levels = ("", 0) if url is None else _directory(url)
    with CacheArguments(cache_dir, config=config).connect(existing=True) as cache, waiting("Adding up"):
        used = {p: of for p, of in cache.usage(levels + depth).items() if p.startswith(top)}
    blocks, total = (sum(of[i] for of in used.values()) for i in (0, 1))
    if as_json:
        rows = [{"prefix": prefix, "blocks": n, "bytes": count} for prefix, (n, count) in used.items()]
        print_json({"prefixes": rows, "blocks": blocks, "bytes": total})
        return
    lines = [(size(count), f"{n:,}", prefix) for prefix, (n, count) in used.items()]
    print_table(("size>", "blocks>", "prefix"), [*lines, (size(total), f"{blocks:,}", "total")])


def _directory(url: str) -> tuple[str, int]:
    """The canonical URL of a directory, and how many components it has below its bucket."""
    from ioaccel.sources import canonical

    scheme, _, rest = canonical(url).partition("://")
    rest = rest.rstrip("/")
    return f"{scheme}://{rest}/", rest.count("/")
