"""``ioaccel warm``: fetches everything below a URL into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ioaccel.cli.errors import DONE, FOUND_SOMETHING, complain, exit_code, one_line
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, Sizes, StoreOptions
from ioaccel.errors import ConfigError

if TYPE_CHECKING:
    from ioaccel.cli.listing import Listing
    from ioaccel.cli.progress import Pace
    from ioaccel.cli.warming import Tally

SHOWN_ERRORS = 5
"""The first errors tell what is wrong; a million of them tell no more."""


def warm(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="One object, or all that lies below.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", metavar="LIST", help="A file with one URL a line; - is stdin."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only say how much is cached; of the store, ask the listing only.")
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

    What is cached already, and current, is not fetched again. It ends early when the cache is full.
    Exit code 1 if not everything is cached in the end.
    """
    from ioaccel.cli.listing import from_file, from_store
    from ioaccel.cli.progress import Pace, waiting
    from ioaccel.cli.warming import check_all, warm_all

    if (url is None) == (file is None):
        raise ConfigError("warm takes a URL, or a list of URLs with -f LIST")
    with CacheArguments(cache_dir, cache_size, option, config).connect(
        existing=check, timeout=timeout
    ) as cache:
        if url is not None:
            with waiting(f"Listing {url}"):
                listing = from_store(cache, url)
        else:
            listing = from_file(file or "-")
        pace = Pace("objects", listing.count, listing.size)
        tally = (check_all if check else warm_all)(cache, listing, pace)
    if as_json:
        _print_json(tally, listing, pace, check=check)
    else:
        _print(tally, listing, pace, check=check)
    raise typer.Exit(_code(tally, listing))


def _code(tally: Tally, listing: Listing) -> int:
    if tally.stored == listing.count:
        return DONE
    return exit_code(tally.errors[0]) if tally.failed == listing.count else FOUND_SOMETHING


def _print(tally: Tally, listing: Listing, pace: Pace, *, check: bool) -> None:
    from ioaccel.cli.output import number, print_facts, rate, size

    for error in tally.errors[:SHOWN_ERRORS]:
        complain(one_line(error))
    if len(tally.errors) > SHOWN_ERRORS:
        complain(f"and {number(len(tally.errors) - SHOWN_ERRORS, 'objects')} more that failed")
    of_size = f" of {size(listing.size)}" if listing.size is not None else ""
    facts = [
        (
            "cached" if check else "stored",
            f"{tally.stored:,} of {number(listing.count, 'objects')}, {size(tally.stored_bytes)}{of_size}",
        )
    ]
    if not check:
        facts += [
            (
                "passed",
                number(tally.passed, "objects") + (", because the cache is full" if tally.passed else ""),
            ),
            ("failed", number(tally.failed, "objects")),
            ("took", rate(pace.elapsed, tally.stored, tally.stored_bytes)),
        ]
    print_facts(facts)


def _print_json(tally: Tally, listing: Listing, pace: Pace, *, check: bool) -> None:
    from ioaccel.cli.output import print_json

    data = {
        "url": listing.name,
        "objects": listing.count,
        "bytes": listing.size,
        "stored": tally.stored,
        "stored_bytes": tally.stored_bytes,
    }
    if not check:
        data |= {
            "passed": tally.passed,
            "failed": tally.failed,
            "errors": [one_line(e) for e in tally.errors[:SHOWN_ERRORS]],
            "seconds": round(pace.elapsed, 3),
        }
    print_json(data)
