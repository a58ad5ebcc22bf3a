"""What is fetched ahead of a job that reads more than the cache holds: what waits for it, and how long."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import deque
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioaccel._core._engine import Index, block_key
from ioaccel.engine import passing
from ioaccel.engine.block import Block
from ioaccel.engine.passing import BUDGET, SHARE, Ahead, Passing
from ioaccel.engine.transit import SEGMENT_SIZE, SEGMENTS, Transit

KEYS = [block_key(bytes(16), f"s3://b/{n}") for n in range(8)]
MIB = 1 << 20


@pytest.fixture
def transit() -> Iterator[Transit]:
    transit = Transit(0, Index([SEGMENTS], [SEGMENT_SIZE]))
    yield transit
    transit.close()


@pytest.fixture
def jobs(transit: Transit) -> Passing:
    jobs = Passing(transit, lambda: frozenset({"job"}))
    assert jobs.turn("job", "plan", 1) == 1
    return jobs


def store(transit: Transit, key: bytes, length: int) -> bytes:
    return transit.store(Block(key, "s3://b/x", "v", length, 0, 1), os.urandom(length), length)


def overwrite(transit: Transit) -> None:
    for _ in range(SEGMENTS * SEGMENT_SIZE // (4 * MIB)):
        store(transit, KEYS[7], 4 * MIB)


def leave(jobs: Passing, most: int = 16, plan: str = "plan") -> Ahead:
    ahead = jobs.leave("job", plan, time.monotonic(), most, full=True)
    assert ahead is not None
    return ahead


def bring(jobs: Passing, transit: Transit, key: bytes, length: int = 1000, plan: str = "plan") -> bytes:
    """A wave of one block, which is only counted if it is long."""
    ahead = leave(jobs, 1, plan)
    assert jobs.admit(ahead, key, length)
    location = store(transit, key, min(length, 1000))
    jobs.bring(ahead, key, location, 7, length)
    jobs.end(ahead)
    return location


def test_a_block_is_given_once(jobs: Passing, transit: Transit) -> None:
    location = bring(jobs, transit, KEYS[0])
    assert jobs.total_bytes == 1000
    assert jobs.take("other", KEYS[0], 7, whole=True) is None
    assert jobs.take("job", KEYS[0], 7, whole=True) == location
    assert jobs.take("job", KEYS[0], 7, whole=True) is None
    assert jobs.total_bytes == 0


def test_another_version_is_not_given(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    assert jobs.take("job", KEYS[0], 8, whole=True) is None
    assert jobs.total_bytes == 0


def test_what_is_read_in_part_waits_for_who_reads_on(jobs: Passing, transit: Transit) -> None:
    location = store(transit, KEYS[0], 1000)
    jobs.given("new", KEYS[0], (location, 7))
    assert jobs.take("job", KEYS[0], 7, whole=True) is None
    assert jobs.take("new", KEYS[0], 8, whole=False) is None
    for whole in (False, False, True):
        assert jobs.take("new", KEYS[0], 7, whole=whole) == location
    assert jobs.take("new", KEYS[0], 7, whole=True) is None, "read to its end"
    assert jobs.total_bytes == 0


def test_what_was_fetched_ahead_and_is_read_in_part_waits_on(jobs: Passing, transit: Transit) -> None:
    location = bring(jobs, transit, KEYS[0])
    for whole in (False, False, True):
        assert jobs.take("job", KEYS[0], 7, whole=whole) == location
        assert jobs.total_bytes == 0, "it takes no share any more"
        if not whole:
            ahead = leave(jobs)
            assert not jobs.admit(ahead, KEYS[0], 1), "it is there"
            jobs.end(ahead)
    assert jobs.take("job", KEYS[0], 7, whole=True) is None


def test_no_more_is_held_than_is_in_transit(
    jobs: Passing, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_MOST_HELD", 3)
    held = jobs._sessions["job"].held
    for key in KEYS[:5]:
        jobs.hold("job", key, (store(transit, key, 1000), 7))
    assert list(held) == KEYS[2:5]
    overwrite(transit)
    elsewhere = (1).to_bytes(2, "little") + store(transit, KEYS[1], 1000)[2:]  # in a cache
    jobs.hold("job", KEYS[1], (elsewhere, 7))
    assert not held


def test_what_a_reader_has_got_is_not_fetched_for_it_again(jobs: Passing) -> None:
    before = leave(jobs)
    assert jobs.take("job", KEYS[1], 7, whole=True) is None
    assert not jobs.admit(before, KEYS[1], 1)
    assert jobs.admit(leave(jobs), KEYS[1], 1)  # in the next epoch


def test_what_a_reader_has_got_meanwhile_does_not_wait_for_it(jobs: Passing, transit: Transit) -> None:
    """It has joined the flight: before the block came, or between that and its own answer."""
    ahead = leave(jobs)
    for n, key in enumerate(KEYS[:2]):
        assert jobs.admit(ahead, key, 1000)
        if n == 0:
            jobs.take("job", key, 7, whole=True)
        jobs.bring(ahead, key, store(transit, key, 1000), 7, 1000)
        jobs.given("job", key)
    jobs.end(ahead)
    assert jobs.total_bytes == 0


def test_what_waits_is_not_fetched_again(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    assert not jobs.admit(leave(jobs), KEYS[0], 1)


def test_a_new_round_forgets_what_its_plan_asked_for(jobs: Passing, transit: Transit) -> None:
    jobs.turn("job", "validation", 1)
    bring(jobs, transit, KEYS[0])
    late = leave(jobs)
    assert jobs.admit(late, KEYS[2], 1000)
    location = bring(jobs, transit, KEYS[1], plan="validation")
    assert jobs.turn("job", "plan", 1) == 0
    assert jobs.turn("job", "plan", 2) == 1
    assert jobs.turn("job", "plan", 1) == -1
    jobs.bring(late, KEYS[2], store(transit, KEYS[2], 1000), 7, 1000)
    jobs.end(late)
    assert jobs.total_bytes == 1000
    assert jobs.take("job", KEYS[0], 7, whole=True) is None
    assert jobs.take("job", KEYS[2], 7, whole=True) is None
    assert jobs.take("job", KEYS[1], 7, whole=True) == location


def test_a_share_is_for_what_waits_and_what_is_on_its_way(jobs: Passing, transit: Transit) -> None:
    waves = []
    while (ahead := jobs.leave("job", "plan", time.monotonic(), 16, full=True)) is not None:
        waves.append(ahead)
    assert sum(ahead.extents for ahead in waves) == SHARE // MIB
    for ahead in waves:
        jobs.end(ahead)
    bring(jobs, transit, KEYS[0], SHARE)
    assert jobs.leave("job", "plan", time.monotonic(), 1, full=True) is None
    freed = []
    jobs.freed = lambda: freed.append(1)
    jobs.take("job", KEYS[0], 7, whole=True)
    assert freed
    leave(jobs)


def fill(jobs: Passing, sizes: Iterator[int]) -> list[bool]:
    """A job that is ahead by all of its share reads on: whether each block was admitted."""
    waiting: deque[bytes] = deque()
    admitted = []
    for wave in range(200):
        while (ahead := jobs.leave("job", "plan", time.monotonic(), 16, full=True)) is None:
            for _ in range(len(waiting) // 4 + 1):
                jobs.take("job", waiting.popleft(), 7, whole=True)
        for n in range(ahead.extents):
            key, size = block_key(bytes(16), f"s3://b/{wave}/{n}"), next(sizes)
            admitted.append(jobs.admit(ahead, key, size))
            if admitted[-1]:
                jobs.bring(ahead, key, bytes(16), 7, size)
                waiting.append(key)
        jobs.end(ahead)
    return admitted


def test_what_was_let_go_is_not_refused_because_sizes_vary(
    jobs: Passing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refusal in each wave, and each batch waits a whole request for it: at 80% cached, twice as long."""
    monkeypatch.setattr(jobs._transit, "holds", lambda location: True)
    sizes = random.Random(1)
    admitted = fill(jobs, (max(1, int(sizes.gauss(110_000, 30_000))) for _ in itertools.count()))
    assert all(admitted)
    assert len(admitted) > 2000
    assert jobs.total_bytes <= SHARE * 9 // 8


def test_what_was_refused_counts_in_what_a_wave_is_taken_for(jobs: Passing, transit: Transit) -> None:
    """Else the next one would be taken for too little again, and more of it refused."""
    [plan] = jobs._plans()
    bring(jobs, transit, KEYS[0], SHARE - 8 * MIB)
    plan.typical = MIB
    ahead = leave(jobs)
    assert ahead.extents == 8
    keys = [block_key(bytes(16), f"s3://b/large {n}") for n in range(8)]
    admitted = [key for key in keys if jobs.admit(ahead, key, 4 * MIB)]
    assert len(admitted) == 3
    for key in admitted:
        jobs.bring(ahead, key, bytes(16), 7, 4 * MIB)
    jobs.end(ahead)
    assert plan.typical == MIB + 3 * MIB / 4  # a quarter of the way to 4 MiB


def test_a_wave_that_has_given_up_sets_nothing_aside(jobs: Passing) -> None:
    """Its flights are still queued: they would set aside what nobody gives back."""
    ahead = leave(jobs)
    jobs.end(ahead)
    assert not jobs.admit(ahead, KEYS[0], 4 * MIB)
    assert jobs.total_bytes == 0


def test_what_many_plans_exceed_is_an_eighth(transit: Transit) -> None:
    jobs = Passing(transit, lambda: frozenset("abcd"))
    for session in "abcd":
        jobs.turn(session, "plan", 1)
    waves = []
    while any(more := [jobs.leave(session, "plan", time.monotonic(), 1, full=True) for session in "abcd"]):
        waves += [ahead for ahead in more if ahead is not None]
    for n, ahead in enumerate(waves):
        jobs.admit(ahead, block_key(bytes(16), f"s3://b/{n}"), 2 * MIB)
    assert BUDGET < jobs.total_bytes <= BUDGET * 9 // 8


def test_larger_ones_than_the_share_go_one_by_one(jobs: Passing, transit: Transit) -> None:
    for key in KEYS:
        bring(jobs, transit, key, 2 * SHARE)
        jobs.take("job", key, 7, whole=True)
    assert leave(jobs).extents == 1
    assert jobs.leave("job", "plan", time.monotonic(), 16, full=True) is None


def test_a_wave_of_many_that_is_alone_keeps_to_the_share(jobs: Passing) -> None:
    ahead = jobs.leave("job", "plan", time.monotonic(), 64, full=False)
    assert ahead is not None
    keys = [block_key(bytes(16), f"s3://b/many {n}") for n in range(64)]
    admitted = [key for key in keys if jobs.admit(ahead, key, 4 * MIB)]
    assert SHARE <= len(admitted) * 4 * MIB <= SHARE * 9 // 8
    assert list(ahead.refused) == keys[len(admitted) :]


def test_small_blocks_do_not_overtake_large_ones(jobs: Passing) -> None:
    """They would wait until the large ones have passed by, and be overwritten by them."""
    waves = [jobs.leave("job", "plan", time.monotonic(), 64, full=False) for _ in range(2)]
    assert all(waves)
    for ahead, admitted in zip(waves, (True, False), strict=True):
        assert ahead is not None
        assert jobs.admit(ahead, KEYS[0], 1000) is admitted
        jobs.end(ahead)


def test_what_a_wave_has_kept_tells_what_the_next_one_weighs(jobs: Passing) -> None:
    """Else small objects are taken for large ones once the cache is full, and nothing leaves for a while."""
    [plan] = jobs._plans()
    for _ in range(20):
        ahead = jobs.leave("job", "plan", time.monotonic(), 64, full=False)
        assert ahead is not None
        for _ in range(64):
            jobs.kept(ahead, 1000)
        assert plan.unmeasured == 0, "nothing of it comes past the cache any more"
        jobs.end(ahead)
    assert 1000 <= plan.typical < 5000


def test_many_plans_share(transit: Transit) -> None:
    jobs = Passing(transit, lambda: frozenset("abcd"))
    for session in "abcd":
        jobs.turn(session, "plan", 1)
        ahead = jobs.leave(session, "plan", time.monotonic(), 1, full=True)
        assert ahead is not None
    while any(jobs.leave(s, "plan", time.monotonic(), 1, full=True) is not None for s in "abcd"):
        pass
    assert BUDGET - 4 * MIB <= jobs.total_bytes <= BUDGET


def test_who_is_too_far_ahead_for_the_ring_falls_back(
    jobs: Passing, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    [plan] = jobs._plans()
    for key in KEYS[:4]:
        bring(jobs, transit, key)
    overwrite(transit)
    assert [jobs.take("job", key, 7, whole=True) for key in KEYS[:4]] == [None] * 4
    assert plan.share == SHARE // 2  # once for all that was overwritten together
    plan.share = SHARE
    monkeypatch.setattr(passing, "_LOOK_SECONDS", 0.0)
    for n in range(3):
        bring(jobs, transit, KEYS[0])
        overwrite(transit)
        assert jobs.take("job", KEYS[0], 7, whole=True) is None
        assert plan.share == SHARE >> (n + 1)
    bring(jobs, transit, KEYS[1], SHARE)
    assert jobs.take("job", KEYS[1], 7, whole=True) is not None
    assert plan.share == SHARE


def test_what_was_overwritten_makes_room(
    jobs: Passing, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a job that has paused: it will not ask for it for a while."""
    monkeypatch.setattr(passing, "_LOOK_SECONDS", 0.0)
    bring(jobs, transit, KEYS[0], SHARE // 2)
    bring(jobs, transit, KEYS[1], SHARE // 2)
    assert jobs.leave("job", "plan", time.monotonic(), 1, full=True) is None
    overwrite(transit)
    assert jobs.leave("job", "plan", time.monotonic(), 1, full=True) is not None


def test_sessions_that_left_and_old_plans_are_forgotten(transit: Transit) -> None:
    live = {"a"}
    jobs = Passing(transit, lambda: frozenset(live))
    jobs.turn("a", "plan", 1)
    ahead = jobs.leave("a", "plan", time.monotonic(), 1, full=True)
    assert ahead is not None
    live = {"b"}
    for n in range(100):
        jobs.turn("b", f"plan {n}", 1)
    assert jobs.total_bytes == 0
    assert len(jobs._plans()) < 10
    jobs.end(ahead)
    # One that was forgotten before its turn brings nothing.
    late = jobs.leave("b", "plan 0", time.monotonic(), 1, full=True)
    assert late is None or not jobs.admit(late, KEYS[0], 1)


class Accounts(RuleBasedStateMachine):
    """Whatever comes, what is counted is what waits and what waves have set aside."""

    def __init__(self) -> None:
        super().__init__()
        self.transit = Transit(0, Index([SEGMENTS], [SEGMENT_SIZE]))
        self.live = {"a", "b"}
        self.jobs = Passing(self.transit, lambda: frozenset(self.live))
        self.waves: list[tuple[Ahead, list[bytes]]] = []

    def teardown(self) -> None:
        self.transit.close()

    @rule(session=st.sampled_from("ab"), plan=st.sampled_from("xy"), number=st.integers(0, 3))
    def turn(self, session: str, plan: str, number: int) -> None:
        if session in self.live:
            self.jobs.turn(session, plan, number)

    @rule(
        session=st.sampled_from("ab"), plan=st.sampled_from("xy"), most=st.integers(1, 16), full=st.booleans()
    )
    def leave(self, session: str, plan: str, most: int, full: bool) -> None:
        ahead = self.jobs.leave(session, plan, time.monotonic(), most, full=full)
        if ahead is not None:
            assert 1 <= ahead.extents <= most
            self.waves.append((ahead, []))

    @rule(data=st.data(), key=st.sampled_from(KEYS), likely=st.sampled_from([0, 1000, 5 * MIB]))
    def admit(self, data: st.DataObject, key: bytes, likely: int) -> None:
        if self.waves:
            ahead, keys = data.draw(st.sampled_from(self.waves))
            if self.jobs.admit(ahead, key, likely):
                keys.append(key)

    @rule(data=st.data(), length=st.sampled_from([0, 700, 4 * MIB]))
    def bring(self, data: st.DataObject, length: int) -> None:
        if self.waves:
            ahead, keys = data.draw(st.sampled_from(self.waves))
            if keys:
                key = keys.pop()
                self.jobs.bring(ahead, key, store(self.transit, key, min(length, 1000)), 7, length)

    @rule(data=st.data(), length=st.sampled_from([0, 700, 4 * MIB]))
    def keep(self, data: st.DataObject, length: int) -> None:
        if self.waves:
            self.jobs.kept(data.draw(st.sampled_from(self.waves))[0], length)

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """What it has asked for may still come, and be asked for."""
        if self.waves:
            self.jobs.end(data.draw(st.sampled_from(self.waves))[0])

    @rule(session=st.sampled_from("ab"), key=st.sampled_from(KEYS), joined=st.booleans(), whole=st.booleans())
    def read(self, session: str, key: bytes, joined: bool, whole: bool) -> None:
        if joined:
            self.jobs.given(session, key)
        else:
            self.jobs.take(session, key, 7, whole=whole)
        for plan in self.jobs._sessions[session].plans.values() if session in self.jobs._sessions else ():
            assert key not in plan.waiting

    @rule(session=st.sampled_from("ab"))
    def leave_or_come(self, session: str) -> None:
        self.live ^= {session}

    @invariant()
    def counted(self) -> None:
        for plan in self.jobs._plans():
            waiting = sum(w.length for w in plan.waiting.values())
            aside = sum(ahead.reserved for ahead, _ in self.waves if ahead.plan is plan)
            assert plan.bytes == waiting + aside
            assert (
                plan.unmeasured == sum(ahead.unmeasured for ahead, _ in self.waves if ahead.plan is plan) >= 0
            )
            assert 0 <= plan.share <= SHARE


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_no_more_is_remembered_than_a_job_looks_ahead(jobs: Passing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_MOST_GIVEN", 3)
    before = leave(jobs)
    for key in KEYS[1:6]:
        jobs.take("job", key, 7, whole=True)
    assert [jobs.admit(before, key, 1) for key in KEYS[1:6]] == [True, True, False, False, False]
