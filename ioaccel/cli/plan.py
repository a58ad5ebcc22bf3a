"""``ioaccel plan``: what a job will take, before it runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ioaccel.cli.options import CacheArguments, ConfigFile, Directories, Json, Sizes, StoreOptions
from ioaccel.errors import ConfigError

_SIZE = "SIZE"
NO_LIMIT = "not given: no limit"


def plan(
    url: Annotated[str, typer.Argument(metavar="URL", help="What the job reads: all that lies below.")],
    cache_size: Sizes = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a batch.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Workers of each accelerator's DataLoader.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, max=10_000, help="Epochs of the job.")] = 3,
    order: Annotated[
        str,
        typer.Option(
            help="shuffled: over all nodes, anew each epoch; sharded: each node shuffles a part of its own; "
            "sequential: the same order each epoch."
        ),
    ] = "shuffled",
    sample_ms: Annotated[
        float | None,
        typer.Option(min=0, help="What a worker takes to decode and collate a sample that is there."),
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="What an accelerator computes on a batch.")
    ] = None,
    samples_per_second: Annotated[
        float | None, typer.Option(help="The same, as samples a second of one accelerator.")
    ] = None,
    accelerators: Annotated[int, typer.Option(min=1, help="Accelerators of a node.")] = 8,
    cores: Annotated[
        int | None, typer.Option(min=1, help="Cores of a node; default: of this machine.")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes of the job.")] = 1,
    disk_rate: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes a second that the cache's disks read.")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure store, engine and disk, with 200 to 10,000 GETs and up to 2 GB; half as many "
            "again, if the cache holds less.",
        ),
    ] = False,
    store_delay_ms: Annotated[
        float | None, typer.Option(min=0, help="From a request to its first byte; instead of --measure.")
    ] = None,
    store_rate: Annotated[
        str | None, typer.Option(metavar=_SIZE, help="Bytes a second that the store has for all nodes.")
    ] = None,
    store_requests_per_s: Annotated[
        float | None, typer.Option(help="Requests a second that the store takes of all nodes.")
    ] = None,
    price_per_1000_gets: Annotated[float, typer.Option(min=0, help="In any currency.")] = 0.0,
    price_per_gb: Annotated[float, typer.Option(min=0, help="Of 10^9 bytes from the store.")] = 0.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the efficiencies to this chart.")
    ] = None,
    cache_dir: Directories = None,
    option: StoreOptions = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Predict what a job takes: time, requests, cost, busy accelerators.

    Lists the URL, and makes no cache. Needs --measure or --store-delay-ms. With --step-seconds or
    --samples-per-second it tells how 1 to 1,000 nodes would do, with the cache and without.
    """
    from ioaccel.cli import planned, planning
    from ioaccel.predict import Node, Store, Workload, efficiency, predict, predict_direct
    from ioaccel.predict.inputs import ORDERS

    arguments = CacheArguments(cache_dir, cache_size, option, config)
    if measure == (store_delay_ms is not None):
        raise ConfigError("what does the store do? Say either --measure, or --store-delay-ms, such as 20")
    # Before anything takes time: what is said is checked.
    if order not in ORDERS:
        raise ConfigError(f"--order is one of {', '.join(ORDERS)}, not {order!r}")
    zero_or_more = {
        "--sample-ms": sample_ms,
        "--store-delay-ms": store_delay_ms,
        "--price-per-1000-gets": price_per_1000_gets,
        "--price-per-gb": price_per_gb,
    }
    _check(zero_or_more, lambda value: value >= 0, "0 or more")
    above_zero = {
        "--step-seconds": step_seconds,
        "--samples-per-second": samples_per_second,
        "--store-requests-per-s": store_requests_per_s,
    }
    _check(above_zero, lambda value: value > 0, "above 0")
    step = _step(step_seconds, samples_per_second, batch)
    store_bytes, disk_bytes = _rate("--store-rate", store_rate), _rate("--disk-rate", disk_rate)
    if plot is not None:
        _check_plot(plot, step)
    room = planning.cache_bytes(arguments)
    here = replace(arguments, cache_size=None)  # a node's disks need not be this machine's
    with planning.scratch_cache(here, planning.SPARE_BYTES, planning.place_of(here)) as (cache, _):
        urls, sizes = planning.listed(cache, url)
    facts = planning.Facts()
    sample = facts.sure(
        "worker, a sample",
        "s",
        (None if sample_ms is None else sample_ms / 1e3, planning.GIVEN),
        (planning.SAMPLE_S, "bench plan: nothing is decoded; say --sample-ms"),
    )
    settings: dict[str, Any] = {"batch": batch, "workers": workers, "epochs": epochs, "order": order}
    work = Workload.of_sizes(sizes, **settings, sample_s=sample, step_s=step)
    if nodes > 1 and nodes * accelerators * batch > work.objects:
        raise ConfigError(
            f"--nodes {nodes}: their {nodes * accelerators:,} accelerators want a batch of {batch} each, and "
            f"there are {work.objects:,} objects; say fewer nodes, or a smaller --batch"
        )
    passing = room < work.bytes
    found, speeds = planning.measured(here, urls, sizes, passing=passing) if measure else (None, None)
    if found is not None:
        work = replace(work, start_s=found.start_s)
    delay = store_delay_ms or 0.0
    store = Store(
        facts.sure(
            "delay of a request" if found else "delay of the store",
            "s",
            (found.request_s if found else None, planning.MEASURED),
            (delay / 1e3, planning.GIVEN),
        ),
        None,
        facts.add("store, bytes", "B/s", (store_bytes, planning.GIVEN), last=NO_LIMIT),
        facts.add("store, requests", "requests/s", (store_requests_per_s, planning.GIVEN), last=NO_LIMIT),
        price_per_1000_gets,
        price_per_gb,
    )
    here_cores = len(os.sched_getaffinity(0))
    node = Node(
        facts.sure("cache of a node", "B", (room, planning.GIVEN)),
        int(facts.sure("cores", "", (cores, planning.GIVEN), (here_cores, "this machine"))),
        accelerators,
        memory_bytes=facts.sure("page cache", "B", (_memory() / 2, "half of this machine's memory")),
        disk_rate=facts.add(
            "disk",
            "B/s",
            (disk_bytes, planning.GIVEN),
            (speeds.cold_read if speeds else None, planning.MEASURED),
            last="not known: no limit",
        ),
        **planning.engine_of(facts, found, work.bytes / work.blocks, here_cores, passing=passing),
    )
    predicted, direct = predict(work, store, node, nodes), predict_direct(work, store, node, nodes)
    scale = efficiency(work, store, node) if step is not None else []
    if as_json:
        planned.print_plan_as_json(url, work, nodes, facts, predicted, direct, scale)
    else:
        planned.print_plan(url, work, store, node, nodes, facts, predicted, direct, scale)
    if plot is not None:
        from ioaccel.predict.picture import draw

        draw(scale, setting=planned.told(work, node), path=plot)


def _step(step_seconds: float | None, samples_per_second: float | None, batch: int) -> float | None:
    if samples_per_second is None:
        return step_seconds
    if step_seconds is not None:
        raise ConfigError("--step-seconds and --samples-per-second say the same; give one of them")
    return batch / samples_per_second


def _check(values: dict[str, float | None], right: Callable[[float], bool], what: str) -> None:
    for option, value in values.items():
        if value is not None and not (math.isfinite(value) and right(value)):
            raise ConfigError(f"{option} is {value:g}; it has to be a number {what}")


def _check_plot(path: Path, step: float | None) -> None:
    from ioaccel.predict.picture import check

    if step is None:
        raise ConfigError("--plot draws how busy accelerators are: say --step-seconds")
    check(path)


def _rate(option: str, text: str | None) -> float | None:
    from ioaccel.config import parse_size

    if text is None:
        return None
    try:
        rate = parse_size(text)
    except ConfigError:
        rate = 0.5
    if isinstance(rate, float):
        raise ConfigError(f"{option} {text}: write bytes a second, such as 800MB")
    return float(rate)


def _memory() -> float:
    from ioaccel.cli.checks.machine import memory_limit

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(min(total, memory_limit() or total))
