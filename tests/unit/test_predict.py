"""The model behind ``ioaccel plan``: what must hold whatever the constants are, and cases that are known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ioaccel import ConfigError
from ioaccel.predict import Node, Store, Workload, efficiency, predict, predict_direct
from ioaccel.predict.measure import FEWEST_BLOCKS, MOST_BLOCKS, chosen
from ioaccel.predict.scale import node_counts

OBJECTS, SIZE = 3000, 110_000
WORK = Workload.of_sizes([SIZE] * OBJECTS, sample_s=150e-6)
STORE = Store(0.02, 80e6)
NODE = Node(cache_bytes=WORK.bytes, cores=2, fetches_per_s=2000.0, fetch_cpu_s=0.65e-3)


def seconds(work: Workload = WORK, store: Store = STORE, nodes: int = 1, **node: Any) -> list[float]:
    return [epoch.seconds for epoch in predict(work, store, replace(NODE, **node), nodes)]


# ---- what is counted ----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("order", ["shuffled", "sharded", "sequential"])
def test_a_cache_hits_what_it_holds_from_the_second_epoch_on(share: float, order: Any) -> None:
    node = replace(NODE, cache_bytes=share * WORK.bytes)
    first, *later = predict(replace(WORK, order=order), STORE, node)
    assert (first.hit_share, first.requests, first.store_bytes) == (0, OBJECTS, WORK.bytes)
    for epoch in later:
        held = min(1.0, share)
        assert epoch.hit_share == pytest.approx(held)
        assert epoch.requests == pytest.approx((1 - held) * OBJECTS)
        assert epoch.store_bytes == pytest.approx((1 - held) * WORK.bytes)


def test_what_is_shuffled_over_nodes_is_hardly_there_when_it_comes_back() -> None:
    """A node that reads a tenth of the data each epoch has a tenth of the next tenth."""
    hits = [epoch.hit_share for epoch in predict(WORK, STORE, NODE, 10)]
    assert hits == pytest.approx([0, 0.1, 0.19])
    sharded = predict(replace(WORK, order="sharded"), STORE, replace(NODE, cache_bytes=WORK.bytes / 20), 10)
    assert [epoch.hit_share for epoch in sharded] == pytest.approx([0, 0.5, 0.5])


def test_large_objects_are_fetched_in_blocks() -> None:
    assert Workload.of_sizes([0, 1, 4 << 20, (4 << 20) + 1]).blocks == 5


def test_cost() -> None:
    store = replace(STORE, price_per_1000_gets=0.4, price_per_gb=10.0)
    first, second, _ = predict(WORK, store, NODE)
    assert first.cost == pytest.approx(3 * 0.4 + 0.33 * 10)
    assert second.cost == 0


# ---- how long -----------------------------------------------------------------------------------

shares = st.floats(0, 1.5)


@given(less=shares, more=shares, order=st.sampled_from(["shuffled", "sharded", "sequential"]))
def test_a_larger_cache_is_never_slower(less: float, more: float, order: Any) -> None:
    less, more = sorted((less, more))
    work = replace(WORK, order=order)
    small = seconds(work, cache_bytes=less * WORK.bytes)
    large = seconds(work, cache_bytes=more * WORK.bytes)
    assert all(b <= a * (1 + 1e-9) for a, b in zip(small, large, strict=True))


@given(
    delay=st.floats(0, 1),
    rate=st.floats(1e6, 1e9),
    fetches=st.floats(10, 1e5),
    share=shares,
    workers=st.integers(1, 64),
    nodes=st.integers(1, 1000),
)
def test_nothing_is_faster_than_its_limits(
    delay: float, rate: float, fetches: float, share: float, workers: int, nodes: int
) -> None:
    work = replace(WORK, workers=workers, step_s=0.1)
    store = Store(delay, bytes_per_s=rate, requests_per_s=1000.0)
    node = replace(NODE, cache_bytes=share * WORK.bytes, fetches_per_s=fetches, accelerators=4)
    for epoch in predict(work, store, node, nodes):
        assert epoch.seconds >= epoch.store_bytes / rate * (1 - 1e-9)
        assert epoch.seconds >= epoch.requests / 1000 * (1 - 1e-9)
        assert epoch.seconds >= epoch.requests / nodes / fetches * (1 - 1e-9)
        assert epoch.seconds >= OBJECTS / nodes * work.sample_s / min(4 * workers, 2) * (1 - 1e-9)
        assert epoch.busy is not None
        assert 0 <= epoch.busy <= 1
        assert math.isfinite(epoch.seconds)
    assert 0 <= (predict_direct(work, store, node, nodes).busy or -1) <= 1


def test_what_is_cached_asks_nothing_of_the_store() -> None:
    slow = Store(10.0, bytes_per_s=1.0, requests_per_s=0.1)
    assert seconds(store=slow)[1:] == seconds(store=STORE)[1:]


def test_who_waits_for_one_request_at_a_time() -> None:
    """2 workers, 20 ms and 110 KB at 80 MB/s each time, and 0.15 ms of their own."""
    expected = OBJECTS * (0.02 + SIZE / 80e6 + 150e-6) / 2
    assert predict_direct(WORK, STORE, NODE).seconds == pytest.approx(expected)


def test_the_cpu_of_a_fetch_is_of_each_block() -> None:
    """Without delay 2 cores do nothing but fetch: 64 blocks an object."""
    large = Workload.of_sizes([256 << 20] * 100, workers=1000)
    node = replace(NODE, fetches_per_s=None, fetch_cpu_s=1e-3)
    assert predict_direct(large, Store(0.0), node).seconds == pytest.approx(6400 * 1e-3 / 2)
    assert predict(large, Store(0.0), replace(node, cache_bytes=large.bytes))[0].seconds == pytest.approx(3.2)


def test_what_is_cached_and_not_in_memory_comes_from_the_disk() -> None:
    slow = seconds(memory_bytes=WORK.bytes / 2, disk_rate=1e8)
    assert slow[1] == pytest.approx(WORK.bytes / 2 / 1e8)
    assert seconds(memory_bytes=2 * WORK.bytes, disk_rate=1e8)[1] == seconds()[1]


def test_what_passes_by_a_full_cache_has_a_rate_of_its_own() -> None:
    """Half of the data fits; it is fetched at 2,000 a second, the other half at 1,000."""
    work = replace(WORK, sample_s=0.0)
    store = Store(0.0)
    node = {"fetch_cpu_s": 0.0, "passing_per_s": 1000.0}
    half = OBJECTS / 2
    assert seconds(work, store, **node, cache_bytes=WORK.bytes / 2) == pytest.approx(
        [half / 2000 + half / 1000, half / 1000, half / 1000]
    )
    assert seconds(work, store, **node) == pytest.approx([OBJECTS / 2000, 0, 0])
    node["passing_per_s"] = None
    assert seconds(work, store, **node, cache_bytes=0) == pytest.approx([OBJECTS / 2000] * 3)


def test_an_epoch_begins_with_a_request_that_nothing_hides() -> None:
    near, far = (seconds(store=Store(delay), cache_bytes=0.9 * WORK.bytes) for delay in (0.0, 0.02))
    assert [b - a for a, b in zip(near, far, strict=True)] == pytest.approx([0.02] * 3)
    near, far = (seconds(store=Store(delay)) for delay in (0.0, 0.02))
    assert [b - a for a, b in zip(near, far, strict=True)] == pytest.approx([0.02, 0, 0])


def test_what_limits_is_named() -> None:
    assert predict(WORK, STORE, NODE)[0].limit == "engine"
    assert predict(WORK, replace(STORE, bytes_per_s=1e6), NODE)[0].limit == "bytes of the store"
    assert predict(replace(WORK, step_s=9.0), STORE, NODE)[0].limit == "accelerators"
    slow = replace(STORE, delay_s=0.2)
    assert predict(WORK, slow, replace(NODE, cache_bytes=0.0))[0].limit == "delay of the store"


# ---- many nodes ---------------------------------------------------------------------------------


def test_numbers_of_nodes() -> None:
    assert node_counts(1) == [1]
    assert node_counts(120) == [1, 2, 5, 10, 20, 50, 100, 120]
    with pytest.raises(ConfigError):
        node_counts(0)


def test_efficiency_falls_with_what_all_share() -> None:
    work = Workload(10**7, 10**12, 10**7, batch=64, sample_s=1e-4, step_s=0.1, order="sharded")
    node = Node(cache_bytes=10**12, cores=64, accelerators=8, fetches_per_s=20_000.0)
    found = efficiency(work, replace(STORE, bytes_per_s=5e10), node)
    assert [one.accelerators for one in found][-1] == 8000
    assert [one.first for one in found] == sorted((one.first for one in found), reverse=True)
    assert found[0].first == pytest.approx(1, abs=1e-3)
    assert found[-1].first < 0.2, "the store has 50 GB/s for all"
    assert all(one.last == pytest.approx(1) for one in found), "what is cached does not ask it"
    assert all(one.first <= one.job <= one.last for one in found)
    assert [one.nodes for one in efficiency(replace(work, objects=2048, blocks=2048), STORE, node)] == [
        1,
        2,
        4,
    ]
    with pytest.raises(ConfigError, match="how many seconds a step takes"):
        efficiency(replace(work, step_s=None), STORE, node)


# ---- what makes no sense ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"workers": 0}, "workers is 0"),
        ({"epochs": -1}, "epochs is -1"),
        ({"step_s": 0.0}, "step_s is 0"),
        ({"sample_s": -1.0}, "sample_s is -1"),
        ({"sample_s": math.nan}, "sample_s is nan"),
        ({"order": "random"}, "order is one of"),
    ],
)
def test_a_job_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Workload.of_sizes([SIZE], **settings)


@pytest.mark.parametrize("sizes", [[], [0, 0], [100, -1]])
def test_nothing_to_read(sizes: list[int]) -> None:
    with pytest.raises(ConfigError):
        Workload.of_sizes(sizes)


def test_stores_and_nodes_that_cannot_be() -> None:
    for wrong in ({"delay_s": -1.0}, {"delay_s": math.inf}, {"delay_s": 0.0, "bytes_per_s": 0.0}):
        with pytest.raises(ConfigError):
            Store(**wrong)
    for node in ({"cache_bytes": -1}, {"cores": 0}, {"accelerators": 0}, {"disk_rate": 0.0}):
        with pytest.raises(ConfigError):
            replace(NODE, **node)  # type: ignore[arg-type]


# ---- what is measured with ----------------------------------------------------------------------


@given(st.lists(st.integers(0, 30 << 20), min_size=FEWEST_BLOCKS, max_size=3000))
def test_blocks_to_measure_with(sizes: list[int]) -> None:
    found = chosen(sizes)
    assert FEWEST_BLOCKS <= len(found) <= MOST_BLOCKS
    assert len({(index, offset) for index, offset, _ in found}) == len(found)
    for index, offset, length in found:
        assert 0 <= length <= 4 << 20
        assert offset + length <= sizes[index]
        assert offset % (4 << 20) == 0
        assert length or not sizes[index]


def test_too_little_to_measure_with() -> None:
    with pytest.raises(ConfigError, match="--store-delay-ms"):
        chosen([100] * (FEWEST_BLOCKS - 1))
    with pytest.raises(ConfigError):
        chosen([])
