"""``ioaccel verify``: reads everything that is cached and checks it."""

from __future__ import annotations

import typer

from ioaccel.cli.errors import FOUND_SOMETHING, complain
from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json


def verify(
    cache_dir: Directories = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Read all that is cached and check it against its checksums.

    Corrupt blocks are removed, and fetched anew when they are read next. Exit code 1 if there were any,
    or if a part could not be read.
    """
    from ioaccel.cli.output import duration, number, print_json, size
    from ioaccel.cli.progress import Pace, shown

    with CacheArguments(cache_dir, config=config).connect(existing=True) as cache:
        pace = Pace("segments", 0)

        def progress(done: int, total: int) -> None:
            pace.total = total
            pace.add(done - pace.count)

        with shown("Verifying", pace):
            found = cache.verify(progress)
    if as_json:
        print_json(found._asdict())
    else:
        for url in found.corrupt:
            complain(f"{url}: a corrupt block was removed")
        for error in found.errors:
            complain(error)
        sound = f"{number(found.blocks, 'blocks')}, {size(found.bytes)}"
        print(f"sound    {sound}; {duration(pace.elapsed)}")
        print(f"corrupt  {number(len(found.corrupt), 'blocks')}{', removed' if found.corrupt else ''}")
    if found.corrupt or found.errors:
        raise typer.Exit(FOUND_SOMETHING)
