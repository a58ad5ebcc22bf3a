"""What ``ioaccel plan`` prints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ioaccel.predict.epochs import EpochPrediction
from ioaccel.predict.scale import LARGEST

if TYPE_CHECKING:
    from ioaccel.cli.planning import Fact, Facts
    from ioaccel.predict import Efficiency, Node, Store, Workload


def told(work: Workload, node: Node) -> str:
    from ioaccel.cli.output import number, size

    return f"{number(work.objects, 'objects')}, {size(work.bytes)}; cache of {size(node.cache_bytes)} a node"


def print_plan(
    url: str,
    work: Workload,
    store: Store,
    node: Node,
    nodes: int,
    facts: Facts,
    predicted: list[EpochPrediction],
    direct: EpochPrediction,
    scale: list[Efficiency],
) -> None:
    from ioaccel.cli.output import number, print_facts, print_table

    print(f"{url}: {told(work, node)}")
    print(
        f"{number(nodes, 'nodes')} of {number(node.accelerators, 'accelerators')}, {work.workers} workers "
        f"each, batches of {work.batch}, {work.order}\n"
    )
    print_facts((fact.name, f"{_value(fact)}  ({fact.origin})") for fact in facts.all.values())
    print()
    headings = ["epoch", "hits>", "requests>", "from the store>", "time>", "busy>", "cost>", "limited by"]
    rows = [_row(*row) for row in _together(predicted)]
    rows.append(_row("all epochs", _sum(predicted)))
    rows.append(_row("without ioaccel, each", direct))
    rows.append(_row("without ioaccel, all", _sum([direct] * len(predicted))))
    costs = store.price_per_1000_gets or store.price_per_gb
    hidden = {5} if work.step_s is None else set()
    hidden |= set() if costs else {6}
    kept = [column for column in range(len(headings)) if column not in hidden]
    print_table([headings[c] for c in kept], ([row[c] for c in kept] for row in rows))
    if scale:
        print("\nshare of the time that accelerators compute")
        headings = [
            "nodes",
            "accelerators",
            "without ioaccel",
            "epoch 1",
            "last epoch",
            "all",
            "hits then",
        ]
        print_table(
            [f"{heading}>" for heading in headings],
            ([f"{one.nodes:,}", f"{one.accelerators:,}", *map(_percent, _shares(one))] for one in scale),
        )
        if scale[-1].nodes < LARGEST:
            print("More nodes would have less than a batch for each accelerator.")


def _together(epochs: list[EpochPrediction]) -> Iterator[tuple[str, EpochPrediction]]:
    """Epochs by their numbers; those that follow and are alike in one row."""
    for _, alike in itertools.groupby(epochs, lambda epoch: replace(epoch, epoch=0)):
        first, *rest = alike
        yield f"{first.epoch}-{rest[-1].epoch}" if rest else f"{first.epoch}", first


def _sum(epochs: list[EpochPrediction]) -> EpochPrediction:
    """All epochs as one."""
    seconds = sum(each.seconds for each in epochs)
    busy = [each.busy * each.seconds for each in epochs if each.busy is not None]
    return EpochPrediction(
        epoch=0,
        hit_share=sum(each.hit_share for each in epochs) / len(epochs),
        requests=sum(each.requests for each in epochs),
        store_bytes=sum(each.store_bytes for each in epochs),
        data_s=sum(each.data_s for each in epochs),
        seconds=seconds,
        busy=sum(busy) / seconds if busy else None,
        limit="",
        cost=sum(each.cost for each in epochs),
    )


def _row(label: str, epoch: EpochPrediction) -> list[str]:
    from ioaccel.cli.output import duration, size

    return [
        label,
        f"{epoch.hit_share:.1%}",
        f"{epoch.requests:,.0f}",
        size(epoch.store_bytes),
        duration(epoch.seconds),
        "" if epoch.busy is None else _percent(epoch.busy),
        f"{epoch.cost:,.3g}",
        epoch.limit,
    ]


def _shares(one: Efficiency) -> list[float]:
    return [one.direct, one.first, one.last, one.job, one.hit_share]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{share:.1%}"


def _value(fact: Fact) -> str:
    from ioaccel.cli.output import size

    if fact.value is None:
        return "-"
    if fact.unit.startswith("B"):
        return size(fact.value) + fact.unit[1:]
    if fact.unit == "s":
        return f"{fact.value * 1e3:.3g} ms"
    return f"{fact.value:,.4g} {fact.unit}".rstrip()


def print_plan_as_json(
    url: str,
    work: Workload,
    nodes: int,
    facts: Facts,
    predicted: list[EpochPrediction],
    direct: EpochPrediction,
    scale: list[Efficiency],
) -> None:
    from ioaccel.cli.output import print_json

    print_json(
        {
            "url": url,
            "nodes": nodes,
            "workload": asdict(work),
            "assumed": [asdict(fact) for fact in facts.all.values()],
            "epochs": [asdict(epoch) for epoch in predicted],
            "direct": asdict(direct),
            "efficiency": [asdict(one) for one in scale],
        }
    )
