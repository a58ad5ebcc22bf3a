"""``ioaccel bench``: a user's own objects, read directly and through ioaccel."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ioaccel.cli.errors import FOUND_SOMETHING, complain
from ioaccel.cli.options import CacheArguments, ConfigFile, Json, StoreOptions

if TYPE_CHECKING:
    from ioaccel.cli.rates import Rates


def bench(
    url: Annotated[str, typer.Option("--url", help="What to read: the objects below it, up to 16 MiB each.")],
    samples: Annotated[int, typer.Option(min=1, help="Objects an epoch.")] = 1000,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs through ioaccel.")] = 2,
    workers: Annotated[
        int, typer.Option(min=1, help="Readers with one request at a time, as the workers of a DataLoader.")
    ] = 2,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cache directory; default: a temporary one.")
    ] = None,
    cache_size: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Size of the cache; default: 20 GB, or 80% of a smaller disk."),
    ] = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Time reading your own objects, directly and through ioaccel.

    It reads them in random order: directly with as many requests at once as a DataLoader has workers, for
    10 seconds at most; directly with 64 at once; and through ioaccel, epoch by epoch. Exit code 1 if any
    of the objects that are compared differs.
    """
    from ioaccel.cli.output import print_json
    from ioaccel.cli.rates import measure

    arguments = CacheArguments(option=option, config=config)
    rates = measure(
        url,
        samples=samples,
        epochs=epochs,
        workers=workers,
        cache_dir=cache_dir,
        cache_size=cache_size,
        storage_options=arguments.storage_options,
    )
    if as_json:
        print_json(rates.as_dict())
    else:
        _print(rates)
    if rates.different:
        complain(f"{rates.different} of {rates.compared} objects differ from what was read directly")
        raise typer.Exit(FOUND_SOMETHING)


def _print(rates: Rates) -> None:
    from ioaccel.cli.output import number, print_table, size

    print(f"{number(rates.objects, 'objects')}, {size(rates.bytes)}, below {rates.url}")
    rows = [
        (
            arm.name,
            f"{arm.objects_per_s:,.0f}",
            f"{size(arm.bytes_per_s)}/s",
            number(arm.objects, "objects"),
            "-" if arm.store_bytes is None else size(arm.store_bytes),
        )
        for arm in rates.arms
    ]
    print_table(["", "objects/s>", "rate>", "read>", "from the store>"], rows)
    print(f"Compared byte by byte: {number(rates.compared, 'objects')}.")
    if rates.throttled:
        print(
            f"Through ioaccel, the store asked for fewer requests (429, 503) or was late "
            f"{number(rates.throttled, 'times')}: what was measured is its limit."
        )
