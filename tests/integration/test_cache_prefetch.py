"""Prefetch in many small messages, as a loader sends them: batch by batch, dozens of batches ahead."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DataSet, wait_for

import ioaccel
from ioaccel import Cache
from ioaccel.engine.passing import SHARE
from ioaccel.testing.countproxy import CountingProxy, Fault, Request
from ioaccel.testing.seaweed import SeaweedS3

SIZE = 20_000
COUNT = 800


@pytest.fixture(scope="module")
def data(s3: SeaweedS3) -> DataSet:
    s3.create_bucket("cache-prefetch")
    return DataSet.fill(s3, "cache-prefetch", [SIZE] * COUNT)


class Watch:
    """A hook for the proxy: what is asked for, in order, and how much of it at once."""

    def __init__(self, delay: float = 0.0, slow: str = "", slow_seconds: float = 0.0) -> None:
        self._delay = delay
        self._slow = slow
        self._slow_seconds = slow_seconds
        self._lock = threading.Lock()
        self.asked: list[str] = []
        self.at_once = 0
        self._now = 0

    def __call__(self, request: Request) -> Fault | None:
        with self._lock:
            self.asked.append(request.path)
            self._now += 1
            self.at_once = max(self.at_once, self._now)
        slow = bool(self._slow) and self._slow in request.path
        time.sleep(self._slow_seconds if slow else self._delay)
        with self._lock:
            self._now -= 1
        return None


@pytest.fixture
def proxy(s3: SeaweedS3) -> Iterator[CountingProxy]:
    with CountingProxy(s3.endpoint) as proxy:
        yield proxy


def connect(proxy: CountingProxy, s3: SeaweedS3, directory: Path, size: int) -> Cache:
    return ioaccel.connect(directory, size, {**s3.storage_options, "endpoint_url": proxy.endpoint})


@pytest.fixture
def cache(s3: SeaweedS3, proxy: CountingProxy, tmp_path: Path) -> Iterator[Cache]:
    with connect(proxy, s3, tmp_path, 2 * COUNT * SIZE) as cache:
        yield cache


def send(cache: Cache, urls: list[str], batch: int) -> None:
    for start in range(0, len(urls), batch):
        cache.prefetch(urls[start : start + batch])


@pytest.mark.parametrize("batch", [8, 1])
def test_small_messages_fill_the_store(cache: Cache, data: DataSet, proxy: CountingProxy, batch: int) -> None:
    proxy.hook = watch = Watch(delay=0.1)
    send(cache, data.urls[:400], batch)
    wait_for(lambda: cache.status()["cached_bytes"] == 400 * SIZE)
    assert watch.at_once >= 48  # a governor begins with 64


@pytest.mark.parametrize("batch", [16, COUNT])
def test_one_slow_object_does_not_hold_up_those_behind_it(
    cache: Cache, data: DataSet, proxy: CountingProxy, batch: int
) -> None:
    proxy.hook = Watch(slow=data.urls[3].rpartition("/")[2], slow_seconds=8.0)
    send(cache, data.urls, batch)
    wait_for(lambda: cache.status()["cached_bytes"] == (COUNT - 1) * SIZE, 6)


def test_what_is_asked_for_first_comes_first(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    proxy.hook = watch = Watch(delay=0.02)
    send(cache, data.urls, 16)
    wait_for(lambda: cache.status()["cached_bytes"] == COUNT * SIZE)
    places = [data.urls.index(f"s3:/{path}") for path in watch.asked]
    # Those that are in flight together, up to 256, arrive in any order; and on a busy machine a thread may be
    # held up with its wave of 64 before it asks, or two of eight. So 80 of 100 are nearer to their place; of
    # 800 in random order, 54 are.
    near = sum(abs(place - n) <= 256 for n, place in enumerate(places))
    assert near >= 0.8 * COUNT


def test_a_read_overtakes(cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    proxy.hook = Watch(delay=0.2)
    send(cache, data.urls[1:], 16)  # takes 2.5 s
    wait_for(lambda: cache.status()["store_requests"] >= 64)
    began = time.monotonic()
    assert cache.read(data.urls[0]) == data.data(data.urls[0])
    assert cache.read(data.urls[-1]) == data.data(data.urls[-1])  # the last one in the queue
    assert time.monotonic() - began < 1.5
    assert cache.status()["cached_bytes"] < COUNT * SIZE


@pytest.mark.parametrize("slow", ["77", "/0000"])
def test_what_cannot_be_kept_is_not_fetched(
    s3: SeaweedS3, proxy: CountingProxy, data: DataSet, tmp_path: Path, slow: str
) -> None:
    half = COUNT // 2 * SIZE
    most = 1.01 * half + 2 * SIZE  # what takes long is asked for once more, at most 0.5% of it
    # Some come late, or before any size is known: what is already on its way has room, too.
    proxy.hook = Watch(delay=0.01, slow=slow, slow_seconds=0.8)
    with connect(proxy, s3, tmp_path, half) as cache:
        for _ in range(2):
            send(cache, data.urls, 16)
            wait_for(lambda: cache.status()["cached_bytes"] == half)
            time.sleep(1.5)  # longer than the engine believes that there is no room
        assert proxy.reset().bytes["GET"] <= most
        assert cache.status()["passed_bytes"] <= 2 * SIZE
        # What was not fetched is read all the same, while it is asked for ahead.
        for start in range(0, COUNT, 64):
            urls = data.urls[start : start + 64]
            cache.prefetch(data.urls[start + 64 : start + 128])
            for url, view in zip(urls, cache.read_many(urls), strict=True):
                assert view == data.data(url)
        assert proxy.reset().bytes["GET"] <= most
        assert cache.status()["direct_bytes"] == 0


def test_a_prefetch_takes_the_place_of_what_nobody_reads(
    s3: SeaweedS3, proxy: CountingProxy, data: DataSet, bucket: str, tmp_path: Path
) -> None:
    other = DataSet.fill(s3, bucket, [SIZE] * COUNT)
    with connect(proxy, s3, tmp_path, COUNT * SIZE) as cache:
        assert cache.prefetch(other.urls, wait=True) == (COUNT, 0, [])
    # What takes long is asked for twice, and set aside room for once.
    proxy.hook = Watch(slow="77", slow_seconds=0.5)
    with connect(proxy, s3, tmp_path, COUNT * SIZE) as cache:
        send(cache, data.urls, 16)
        wait_for(lambda: sum(cache.resident(data.urls)) == COUNT * SIZE)
        assert cache.status()["passed_bytes"] == 0


def test_the_queue_of_a_session_that_left_is_dropped(
    s3: SeaweedS3, cache: Cache, data: DataSet, proxy: CountingProxy
) -> None:
    proxy.hook = Watch(delay=0.2)
    with connect(proxy, s3, Path(cache.directories[0]), 2 * COUNT * SIZE) as other:
        send(other, data.urls[:700], 2)
    began = time.monotonic()
    cache.prefetch(data.urls[700:])
    wait_for(lambda: sum(cache.resident(data.urls[700:])) == 100 * SIZE, 2.0)
    assert time.monotonic() - began < 2.0  # all of it takes 2.5 s
    assert cache.status()["cached_bytes"] < 400 * SIZE


def test_sessions_take_turns(s3: SeaweedS3, cache: Cache, data: DataSet, proxy: CountingProxy) -> None:
    proxy.hook = Watch(delay=0.2)
    with connect(proxy, s3, Path(cache.directories[0]), 2 * COUNT * SIZE) as other:
        other.prefetch([*data.urls[:700], *([data.urls[0]] * 10_000)])
        cache.prefetch(data.urls[760:])
        wait_for(lambda: sum(cache.resident(data.urls[760:])) == 40 * SIZE, 2.3)
        assert cache.status()["cached_bytes"] < COUNT * SIZE


# ---- ahead of a job, past a cache that is full --------------------------------------------------

HALF = COUNT // 2 * SIZE


@pytest.fixture
def full(s3: SeaweedS3, proxy: CountingProxy, data: DataSet, tmp_path: Path) -> Iterator[Cache]:
    """One that holds the first half of the data."""
    with connect(proxy, s3, tmp_path, HALF) as cache:
        assert cache.prefetch(data.urls[: COUNT // 2], wait=True) == (COUNT // 2, 0, [])
        proxy.reset()
        yield cache


def plan(cache: Cache, urls: list[str], number: int = 0, name: str = "train") -> None:
    """As the planner of a loader does it, batch by batch."""
    reader = cache._reader
    for start in range(0, len(urls), 16):
        if missing := reader.missing(urls[start : start + 16]):
            reader.prefetch(missing, (name, number))


def read(cache: Cache, data: DataSet, urls: list[str]) -> None:
    for start in range(0, len(urls), 16):
        some = urls[start : start + 16]
        for url, view in zip(some, cache.read_many(some), strict=True):
            assert view == data.data(url)


def settled(proxy: CountingProxy) -> int:
    """Requests by now, once there are no new ones."""
    seen = -1
    while seen != (now := proxy.counts.requests.total()):
        seen = now
        time.sleep(0.3)
    return seen


def test_what_does_not_fit_is_there_before_it_is_read(
    full: Cache, proxy: CountingProxy, data: DataSet
) -> None:
    """Each byte once, whatever is in the cache, and in several epochs."""
    for number in range(3):
        urls = data.shuffled(number)
        before = full.status()
        proxy.reset()
        plan(full, urls, number)
        wait_for(lambda: settled(proxy) >= COUNT // 2)
        ahead = settled(proxy)
        read(full, data, urls)
        after = full.status()
        assert settled(proxy) == ahead  # nothing had to be waited for
        assert ahead <= COUNT // 2 + after["store_hedged"] - before["store_hedged"]
        assert after["ahead_bytes"] == 0
        assert after["hit_bytes"] - before["hit_bytes"] == HALF
        assert after["cached_bytes"] == HALF


def test_a_job_that_overtakes_its_plan_fetches_nothing_twice(
    full: Cache, proxy: CountingProxy, data: DataSet
) -> None:
    proxy.hook = Watch(delay=0.05)
    urls = data.shuffled(1)
    plan(full, urls)
    read(full, data, urls)
    requests, status = settled(proxy), full.status()
    assert requests <= COUNT // 2 + status["store_hedged"] + COUNT // 100
    assert status["ahead_bytes"] == 0  # also of what readers got by joining a flight


def test_an_epoch_that_is_left_half_way_makes_room_for_the_next(
    full: Cache, proxy: CountingProxy, data: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = data.shuffled(1)
    plan(full, urls, 1)
    read(full, data, urls[: COUNT // 4])
    settled(proxy)
    other = data.shuffled(2)
    plan(full, other, 2)
    settled(proxy)
    proxy.reset()
    read(full, data, other)
    assert settled(proxy) == 0


def test_a_plan_that_nobody_follows_does_no_harm(full: Cache, proxy: CountingProxy, data: DataSet) -> None:
    plan(full, data.shuffled(1), 1)
    settled(proxy)
    read(full, data, data.shuffled(2))
    assert full.status()["direct_bytes"] == 0
    assert full.status()["ahead_bytes"] == 0  # all of it was read, in another order
    plan(full, data.shuffled(3), 2)
    wait_for(lambda: full.status()["ahead_bytes"] == HALF)


def test_two_plans_of_a_job_do_not_wait_for_each_other(
    full: Cache, proxy: CountingProxy, data: DataSet
) -> None:
    """Validation in the middle of a training epoch: what was asked for last comes, and nothing twice."""
    train, validate = data.urls[COUNT // 2 : COUNT * 3 // 4], data.urls[COUNT * 3 // 4 :]
    plan(full, train, name="train")
    read(full, data, train[:50])
    plan(full, validate, name="validate")
    wait_for(lambda: settled(proxy) >= COUNT // 2)
    ahead = settled(proxy)
    read(full, data, validate)
    read(full, data, train[50:])
    assert settled(proxy) == ahead <= COUNT // 2 + full.status()["store_hedged"]


def test_an_object_that_was_replaced_while_it_waited(
    s3: SeaweedS3, full: Cache, proxy: CountingProxy, bucket: str
) -> None:
    """Within a session it keeps the version that was seen first; the next one sees the new one."""
    own = DataSet.fill(s3, bucket, [SIZE] * 4)
    plan(full, own.urls)
    wait_for(lambda: settled(proxy) == 4)
    s3.put(bucket, own.urls[0].split("/", 3)[3], b"new")
    with connect(proxy, s3, Path(full.directories[0]), HALF) as later:
        assert later.read(own.urls[0]) == b"new"
    assert full.read_many(own.urls)[0] in (own.data(own.urls[0]), b"new")
    assert full.read_many(own.urls[1:])[0] == own.data(own.urls[1])


def test_no_more_is_fetched_ahead_than_memory_is_set_aside_for(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path
) -> None:
    size = 3 << 20
    own = DataSet.fill(s3, bucket, [size] * 120)  # more than the ring of segments holds
    with connect(proxy, s3, tmp_path, 5 * size) as cache:
        cache.read_many(own.urls[:5])
        proxy.reset()
        plan(cache, own.urls[5:])
        wait_for(lambda: proxy.counts.requests.total() * size >= SHARE // 2)
        assert settled(proxy) * size <= SHARE * 9 // 8 + size
        for url in own.urls[5:]:
            assert cache.read(url) == own.data(url)
        assert settled(proxy) <= 115 + cache.status()["store_hedged"] + 1
        assert cache.status()["ahead_bytes"] == 0


@pytest.mark.parametrize("batch", [16, 200])
def test_what_the_cache_turns_out_to_have_no_room_for_is_fetched_ahead_all_the_same(
    s3: SeaweedS3, proxy: CountingProxy, bucket: str, tmp_path: Path, batch: int
) -> None:
    """The waves that find out were too many: they leave again, in their order, as the job reads on."""
    size, count = 1 << 20, 200
    own = DataSet.fill(s3, bucket, [size] * count)
    proxy.hook = watch = Watch(delay=0.02)
    with connect(proxy, s3, tmp_path, 40 * size) as cache:
        cache.read_many(own.urls[:5])  # sizes are known
        for start in range(0, count, batch):
            cache._reader.prefetch([(url, 0, None) for url in own.urls[start : start + batch]], ("train", 0))
        wait_for(lambda: (proxy.counts.requests.total() - 40) * size >= SHARE // 2)
        assert (settled(proxy) - 40) * size <= SHARE * 9 // 8 + size
        for start in range(0, count, 8):
            urls = own.urls[start : start + 8]
            paths = {url.removeprefix("s3:/") for url in urls}
            wait_for(lambda paths=paths: paths <= set(watch.asked))  # type: ignore[misc]  # before it is read
            for url, view in zip(urls, cache.read_many(urls), strict=True):
                assert view == own.data(url)
        assert settled(proxy) <= count + cache.status()["store_hedged"] + 1


def test_memory_is_no_disk_to_wait_for(full: Cache, data: DataSet) -> None:
    """Files in memory refuse to say whether one would wait: what passes by counted as a slow disk."""
    before = full.status()["disk_ns"]
    for _ in range(3):
        read(full, data, data.urls[COUNT // 2 :])
    assert full.status()["disk_ns"] == before
