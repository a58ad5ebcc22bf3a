"""``ioaccel demo``: trains twice on the same objects, once directly and once through ioaccel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ioaccel.cli.options import CacheArguments, ConfigFile, StoreOptions
from ioaccel.demo.options import DemoOptions

_DEFAULT = DemoOptions()


def demo(
    url: Annotated[
        str | None,
        typer.Option("--url", help="Train on what lies below it, and not on photographs."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Objects an epoch.")] = _DEFAULT.samples,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each of the two runs.")] = _DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = _DEFAULT.batch_size,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes of the DataLoader; 0: it reads in the training process.")
    ] = _DEFAULT.workers,
    latency_ms: Annotated[
        float,
        typer.Option(min=0, help="The demo's own store answers no sooner than this; not used with a URL."),
    ] = _DEFAULT.latency_ms,
    json: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures to this file.")
    ] = None,
    picture: Annotated[
        Path, typer.Option(metavar="FILE", help="Write the chart to this file.")
    ] = _DEFAULT.picture,
    cache_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Cache directory; default: a temporary one.")
    ] = None,
    cache_size: Annotated[str, typer.Option(metavar="SIZE", help="Size of the cache.")] = _DEFAULT.cache_size,
    option: StoreOptions = None,
    config: ConfigFile = None,
) -> None:
    """Train twice on the same objects: directly, then through ioaccel. Show both.

    Without a URL it starts a store of its own and fills it with photographs. Needs the packages of
    ioaccel[demo]. Exit code 1 if the losses of the two runs differ in any bit.
    """
    from ioaccel.cli.output import console
    from ioaccel.demo.run import run

    run(
        DemoOptions(
            url=url,
            samples=samples,
            epochs=epochs,
            batch_size=batch_size,
            workers=workers,
            latency_ms=latency_ms,
            json=json,
            picture=picture,
            cache_dir=cache_dir,
            cache_size=cache_size,
            storage_options=CacheArguments(option=option, config=config).storage_options,
        ),
        console(),
    )
