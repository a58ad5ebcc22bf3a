"""What each epoch takes. The model is explained in docs/design/0004-plan.md.

An epoch is up to three stretches, one after the other: samples that are cached, missing samples that the
cache has room for, and missing samples that pass by it. Both are fetched ahead, the latter with fewer
requests at once. A stretch takes as long as the slowest thing in it: all else goes on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from ioaccel.predict.inputs import IN_FLIGHT, LOOKED_AFTER_S, PASSING_IN_FLIGHT, Node, Store, Workload


@dataclass(frozen=True)
class EpochPrediction:
    """One epoch. ``requests``, ``store_bytes`` and ``cost`` are those of all nodes together."""

    epoch: int
    hit_share: float  # of the bytes that are read
    requests: float
    store_bytes: float
    data_s: float  # what it takes if accelerators take no time
    seconds: float
    busy: float | None  # share of the time that accelerators compute; None without `step_s`
    limit: str  # what takes longest
    cost: float


@dataclass(frozen=True)
class _Stretch:
    seconds: float
    limit: str


def predict(work: Workload, store: Store, node: Node, nodes: int = 1) -> list[EpochPrediction]:
    """All epochs of a job on ``nodes`` equal nodes, each with a cache of its own, empty at the start."""
    made = []
    for epoch in range(1, work.epochs + 1):
        held, room = _cached(work, node, nodes, epoch)
        hits, admitted = _shares(work, nodes, held, room)
        missing = 1 - hits
        stretches = _stretches(work, store, node, nodes, hits, admitted)
        requests, count = missing * work.blocks, missing * work.bytes
        made.append(_epoch(epoch, work, store, node, nodes, hits, requests, count, stretches))
    return made


def predict_direct(work: Workload, store: Store, node: Node, nodes: int = 1) -> EpochPrediction:
    """Any epoch without ioaccel (its number is 0): each worker waits for one request at a time."""
    samples = work.objects / nodes
    readers = work.workers * node.accelerators
    per_sample = work.blocks / work.objects * store.request_s(work.bytes / work.blocks) + work.sample_s
    bounds = {
        "delay of the store": samples * per_sample / readers,
        **_store_bounds(work, store, node, nodes, samples),
        "CPU": samples * (work.sample_s + work.blocks / work.objects * node.fetch_cpu_s) / node.cores,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    stretches = [_Stretch(bounds[limit], limit)]
    return _epoch(0, work, store, node, nodes, 0.0, work.blocks, work.bytes, stretches)


def _epoch(
    epoch: int,
    work: Workload,
    store: Store,
    node: Node,
    nodes: int,
    hits: float,
    requests: float,
    count: float,
    stretches: list[_Stretch],
) -> EpochPrediction:
    # The first batch waits until workers have started, and where something is missing for a request.
    start = work.start_s if epoch == 1 else 0.0
    if epoch and requests:
        start += store.request_s(work.bytes / work.blocks)
    data = sum(stretch.seconds for stretch in stretches) + start
    longest = max(stretches, key=lambda stretch: stretch.seconds)
    busy, seconds, limit = None, data, longest.limit
    if work.step_s is not None:
        compute = work.objects / (nodes * node.accelerators * work.batch) * work.step_s
        seconds = max(data, compute + start)
        busy = compute / seconds
        if compute + start >= data:
            limit = "accelerators" if compute >= start else "start of the workers"
    cost = store.cost(requests, count)
    return EpochPrediction(epoch, hits, requests, count, data, seconds, busy, limit, cost)


# ---- what is cached -----------------------------------------------------------------------------


def _cached(work: Workload, node: Node, nodes: int, epoch: int) -> tuple[float, float]:
    """Shares of the whole data that a node's cache holds when an epoch begins, and can hold."""
    room = min(1.0, node.cache_bytes / work.bytes)
    if work.order == "shuffled":
        # Each epoch a node draws 1/nodes of the samples anew; what it has drawn before it may hold.
        seen = 1 - (1 - 1 / nodes) ** (epoch - 1)
    else:
        seen = 0.0 if epoch == 1 else 1 / nodes
    return min(room, seen), room


def _shares(work: Workload, nodes: int, held: float, room: float) -> tuple[float, float]:
    """Shares of what a node reads in an epoch: those that hit, and those that are fetched and kept."""
    part = 1.0 if work.order == "shuffled" else 1 / nodes  # what is drawn from
    hits = min(1.0, held / part)
    admitted = min(1 - hits, (room - held) * nodes)
    return hits, admitted


# ---- how long -----------------------------------------------------------------------------------


def _stretches(
    work: Workload, store: Store, node: Node, nodes: int, hits: float, admitted: float
) -> list[_Stretch]:
    samples = work.objects / nodes
    missing = 1 - hits
    if missing <= 0:
        return [_stretch(work, store, node, nodes, samples, 0.0)]
    if work.order == "sequential" and hits:
        # What was admitted comes first, as it did then.
        stretches = [_stretch(work, store, node, nodes, samples * hits, 0.0)]
        samples *= missing
        hits, admitted, missing = 0.0, admitted / missing, 1.0
    else:
        stretches = []
    kept = admitted / missing  # of the time, what is missing is fetched ahead
    if kept > 0:
        stretches.append(_stretch(work, store, node, nodes, samples * kept, missing))
    if kept < 1:
        passing = samples * (1 - kept)
        stretches.append(_stretch(work, store, node, nodes, passing, missing, passing=True))
    return stretches


def _stretch(
    work: Workload,
    store: Store,
    node: Node,
    nodes: int,
    samples: float,
    missing: float,
    *,
    passing: bool = False,
) -> _Stretch:
    """``samples`` of a node of which a share is fetched before it is asked for, into the cache or past it."""
    rate, fetch_cpu_s, in_flight = node.fetches_per_s, node.fetch_cpu_s, IN_FLIGHT
    if passing:
        in_flight = PASSING_IN_FLIGHT
        rate = rate if node.passing_per_s is None else node.passing_per_s
        fetch_cpu_s = fetch_cpu_s if node.passing_cpu_s is None else node.passing_cpu_s
    fetched = samples * missing
    fetches = fetched * work.blocks / work.objects
    size = samples * work.bytes / work.objects
    readers = min(work.workers * node.accelerators, node.cores)
    cold = 0.0
    if node.memory_bytes is not None:
        held = min(node.cache_bytes, work.bytes)
        cold = max(0.0, 1 - node.memory_bytes / held) if held else 0.0
    workers_cpu = samples * work.sample_s / node.cores
    if fetches:
        workers_cpu += samples * (1 - missing) * LOOKED_AFTER_S / node.cores
    engine = 0.0
    if rate and fetches:
        # At its rate the engine keeps a share of the cores busy: there it has to wait for the workers.
        shared = min(1.0, rate * fetch_cpu_s / node.cores)
        engine = fetches / rate + shared * workers_cpu
    bounds = {
        **_store_bounds(work, store, node, nodes, fetched),
        "delay of the store": fetches * store.request_s(work.bytes / work.blocks) / in_flight,
        "engine": engine,
        "CPU": fetches * fetch_cpu_s / node.cores + workers_cpu,
        "workers": samples * work.sample_s / readers,
        "disk": size * (1 - missing) * cold / node.disk_rate if node.disk_rate else 0.0,
        "memory": size / node.copy_rate if node.copy_rate else 0.0,
    }
    limit = max(bounds, key=lambda name: bounds[name])
    return _Stretch(bounds[limit], limit)


def _store_bounds(work: Workload, store: Store, node: Node, nodes: int, fetched: float) -> dict[str, float]:
    """Seconds that the store and the network take for so many samples of a node, while all nodes ask."""
    size = fetched * work.bytes / work.objects
    fetches = fetched * work.blocks / work.objects
    return {
        "store": fetches / node.store_per_s if node.store_per_s else 0.0,
        "network": size / node.network_rate if node.network_rate else 0.0,
        "bytes of the store": size * nodes / store.bytes_per_s if store.bytes_per_s else 0.0,
        "requests of the store": fetches * nodes / store.requests_per_s if store.requests_per_s else 0.0,
    }
