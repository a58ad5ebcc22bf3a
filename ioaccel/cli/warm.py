"""``ioaccel warm``: fetches everything below a URL into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ioaccel.cli.errors import DONE, FOUND_SOMETHING, complain, exit_code, one_line
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, Sizes, StoreOptions
from ioaccel.errors import ConfigError

if TYPE_CHECKING:
    from ioaccel.cli.listing import Listing
    from ioaccel.cli.warming import Tally

SHOWN_ERRORS = 5
"""The first errors tell what is wrong; a million of them tell no more."""


def warm(
    url: Annotated[str | None, typer.Argument(metavar="[URL]", help="All that lies below it, or one object.")] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="LIST", help="A file with one URL a line; - is stdin."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say how much is cached; ask the store for its listing at most.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="What the store has for each read.")
    ] = 60.0,
    cache_dir: Directories = None,
    cache_size: Sizes = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Fetch what lies below a URL into the cache.

    What is cached and current already is not fetched again. It ends early when the cache is full. Exit
    code 1 if not everything is cached at the end.
    """
    from ioaccel.cli.listing import from_file, from_store
    from ioaccel.cli.progress import Pace, waiting
    from ioaccel.cli.warming import check_all, warm_all

    if (url is None) == (file is None):
        raise ConfigError("warm takes a URL, or a list of URLs with -f LIST")
    with CacheArguments(cache_dir, cache_size, option, config).connect(timeout=timeout) as cache:
        if url is not None:
            with waiting(f"Listing {url}"):
                listing = from_store(cache, url)
        else:
            listing = from_file(file or "-")
        pace = Pace("objects", listing.count, listing.size)
        tally = check_all(cache, listing, pace) if check else warm_all(cache, listing, pace)
    _tell(tally, listing, pace, check=check, as_json=as_json)
    raise typer.Exit(_code(tally, listing))


def _tell(tally: Tally, listing: Listing, pace: object, *, check: bool, as_json: bool) -> None:
    from ioaccel.cli.output import number, print_json, size

    if as_json:
        print_json(tally.as_dict(listing))
        return
    for error in tally.errors[:SHOWN_ERRORS]:
        complain(one_line(error))
    if len(tally.errors) > SHOWN_ERRORS:
        complain(f"and {number(len(tally.errors) - SHOWN_ERRORS, 'errors')} more")
    whole = f"{number(listing.count, 'objects')}, {size(listing.size)}" if listing.size is not None else ""
    share = f"{number(tally.cached, 'objects')}, {size(tally.cached_bytes)}"
