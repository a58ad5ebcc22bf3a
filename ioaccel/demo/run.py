"""``ioaccel demo``: train twice on the same objects, once directly and once through ioaccel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from ioaccel.demo import extras
from ioaccel.demo.caches import cache_in
from ioaccel.demo.options import DemoOptions
from ioaccel.errors import ConfigError, IOAccelError

if TYPE_CHECKING:
    from rich.console import Console

    from ioaccel import Cache
    from ioaccel.demo.readers import Reader
    from ioaccel.demo.report import Report
    from ioaccel.demo.stage import Stage
    from ioaccel.demo.train import Epoch

__all__ = ["DemoOptions", "run"]


def run(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo; print, draw and write its figures, and return what ``--json`` writes.

    Raises ConfigError if a package is missing, a file cannot be written there or the URL holds nothing
    to read, and IOAccelError, after everything is written, if the losses differ in any bit.
    """
    extras.require(server=options.url is None)
    from ioaccel.demo import figures, picture
    from ioaccel.demo.readers import CachedReader, DirectReader
    from ioaccel.demo.report import Report

    _check_outputs(options)
    report = Report(console)
    with _prepared(options, report) as (stage, cache):
        setting = figures.setting(options, stage)
        report.line(setting)
        direct = DirectReader(stage.urls[0], stage.storage_options)
        runs = {
            "direct": _train("direct", direct, stage, options, report),
            "ioaccel": _train("ioaccel", CachedReader(cache), stage, options, report, cache),
        }
    report.table(runs)
    report.line(figures.NOTES)
    report.line(figures.conclusion(runs))
    picture.draw(runs, setting=setting, path=options.picture)
    report.line(f"Picture: {options.picture}")
    result = figures.as_dict(runs, options, stage)
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        report.line(f"Figures: {options.json}")
    if not figures.identical(runs):
        raise IOAccelError(
            "the losses of the two runs differ, so they did not read the same bytes; unless the objects "
            "changed meanwhile, please report this with the figures that --json writes"
        )
    return result


def _check_outputs(options: DemoOptions) -> None:
    """Raise ConfigError for a file that could not be written: better now than after the training."""
    from ioaccel.demo.picture import FORMATS

    if options.picture.suffix not in FORMATS:
        raise ConfigError(
            f"{options.picture} is no picture that can be drawn; use one of {', '.join(FORMATS)}"
        )
    for path in filter(None, (options.picture, options.json)):
        if not path.absolute().parent.is_dir():
            raise ConfigError(f"{path} cannot be written: there is no directory {path.parent}")


@contextmanager
def _prepared(options: DemoOptions, report: Report) -> Iterator[tuple[Stage, Cache]]:
    """What to read, and a cache to read it through; whatever was started for it is stopped at the end."""
    from ioaccel.demo import stage

    where = options.cache_dir, options.cache_size
    if options.url is None:
        photographs = stage.photographs(options.samples, latency_ms=options.latency_ms, report=report)
        with photographs as found, cache_in(*where, found.storage_options) as cache:
            yield found, cache
    else:
        with cache_in(*where, options.storage_options) as cache:
            with report.task(f"Listing {options.url}"):
                found = stage.objects(
                    options.url, options.samples, cache=cache, storage_options=options.storage_options
                )
            report.line("A sample is an image, decoded, or of any other object its first 3 KiB.")
            yield found, cache


def _train(
    name: str,
    reader: Reader,
    stage: Stage,
    options: DemoOptions,
    report: Report,
    cache: Cache | None = None,
) -> list[Epoch]:
    """One of the two runs, with a line for each of its epochs; accelerated if it has a cache."""
    from ioaccel.demo.samples import ObjectDataset
    from ioaccel.demo.train import train

    dataset = ObjectDataset(stage.urls, stage.labels, reader)
    done: list[Epoch] = []
    with report.task(f"Training, {name}", total=options.epochs * len(dataset)) as task:
        epochs = train(
            dataset,
            classes=stage.classes,
            epochs=options.epochs,
            batch_size=options.batch_size,
            workers=options.workers,
            store_bytes=reader.store_bytes,
            progress=task.advance,
            cache=cache,
        )
        with closing(epochs):
            for epoch in epochs:
                done.append(epoch)
                report.line(f"{name}, epoch {len(done)}: {epoch.samples_per_s:,.0f} samples/s")
    return done
