"""``ioaccel plan``: what a job will take, before it runs."""

from __future__ import annotations

import os
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
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the job.")] = 3,
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
            help="Measure store, engine and disk, with 100 to 5,000 GETs and up to 1 GB; twice, if the cache "
            "holds less.",
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

    arguments = CacheArguments(cache_dir, cache_size, option, config)
    if measure == (store_delay_ms is not None):
        raise ConfigError("what does the store do? Say either --measure, or --store-delay-ms, such as 20")
    step = _step(step_seconds, samples_per_second, batch)
    _check_above_0("--store-requests-per-s", store_requests_per_s)
    if plot is not None:
        _check_plot(plot, step)
    room = planning.cache_bytes(arguments)
    here = replace(arguments, cache_size=None)  # a node's disks need not be this machine's
    with planning.scratch_cache(here, planning.SPARE_BYTES) as (cache, _):
        urls, sizes = planning.listed(cache, url)
    facts = planning.Facts()
    # Before anything takes time: what is said is checked.
    sample = facts.sure(
        "worker, a sample",
        "s",
        (None if sample_ms is None else sample_ms / 1e3, planning.GIVEN),
        (planning.SAMPLE_S, "bench plan: nothing is decoded; say --sample-ms"),
    )
    settings: dict[str, Any] = {"batch": batch, "workers": workers, "epochs": epochs, "order": order}
    work = Workload.of_sizes(sizes, **settings, sample_s=sample, step_s=step)
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
        facts.add("store, bytes", "B/s", (_rate(store_rate), planning.GIVEN), last=NO_LIMIT),
        facts.add("store, requests", "requests/s", (store_requests_per_s, planning.GIVEN), last=NO_LIMIT),
        price_per_1000_gets,
        price_per_gb,
    )
    node = Node(
        facts.sure("cache of a node", "B", (room, planning.GIVEN)),
        int(facts.sure("cores", "", (cores, planning.GIVEN), (len(os.sched_getaffinity(0)), "this machine"))),
        accelerators,
        memory_bytes=facts.sure("page cache", "B", (_memory() / 2, "half of this machine's memory")),
        disk_rate=facts.add(
            "disk",
            "B/s",
            (_rate(disk_rate), planning.GIVEN),
            (speeds.cold_read if speeds else None, planning.MEASURED),
            last="not known: no limit",
        ),
        **planning.engine_of(facts, found, work.bytes / work.blocks, passing=passing),
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
    _check_above_0("--step-seconds", step_seconds)
    _check_above_0("--samples-per-second", samples_per_second)
    if samples_per_second is None:
        return step_seconds
    if step_seconds is not None:
        raise ConfigError("--step-seconds and --samples-per-second say the same; give one of them")
    return batch / samples_per_second


def _check_above_0(option: str, value: float | None) -> None:
    if value is not None and not value > 0:
        raise ConfigError(f"{option} is {value}; it has to be above 0")


def _check_plot(path: Path, step: float | None) -> None:
    from ioaccel.predict.picture import check

    if step is None:
        raise ConfigError("--plot draws how busy accelerators are: say --step-seconds")
    check(path)


def _rate(text: str | None) -> float | None:
    from ioaccel.config import parse_size

    if text is None:
        return None
    try:
        rate = parse_size(text)
    except ConfigError:
        rate = 0.5
    if isinstance(rate, float):
        raise ConfigError(f"{text!r} is no rate: write bytes a second, such as 800MB")
    return float(rate)


def _memory() -> float:
    from ioaccel.cli.checks.machine import memory_limit

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return float(min(total, memory_limit() or total))
