"""What is fetched ahead of a job that reads more than the cache holds: what waits for it, and how long."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ioaccel._core._engine import Index, block_key
from ioaccel.engine import passing
from ioaccel.engine.block import Block
from ioaccel.engine.passing import BUDGET, Admitted, Passing, Wish
from ioaccel.engine.transit import SEGMENT_SIZE, SEGMENTS, Transit

KEYS = [block_key(bytes(16), f"s3://b/{n}") for n in range(8)]
MIB = 1 << 20


@pytest.fixture
def transit() -> Iterator[Transit]:
    transit = Transit(0, Index([SEGMENTS], [SEGMENT_SIZE]))
    yield transit
    transit.close()


def store(transit: Transit, key: bytes, length: int) -> bytes:
    return transit.store(Block(key, "s3://b/x", "v", length, 0, 1), os.urandom(length), length)


def wish(plan: str = "plan", session: str = "job") -> Wish:
    return Wish(session, plan, time.monotonic())


def bring(jobs: Passing, transit: Transit, key: bytes, length: int = 1000, plan: str = "plan") -> bytes:
    admitted = jobs.admit(wish(plan), key, length)
    assert admitted is not None
    location = store(transit, key, min(length, 1000))  # only counted
    jobs.bring(admitted, key, location, 7, length)
    return location


@pytest.fixture
def jobs(transit: Transit) -> Passing:
    return Passing(transit, lambda: frozenset({"job"}))


def test_a_block_is_given_once(jobs: Passing, transit: Transit) -> None:
    location = bring(jobs, transit, KEYS[0])
    assert jobs.take("other", KEYS[0], 7, 1) is None
    assert jobs.take("job", KEYS[0], 7, 1) == location
    assert jobs.take("job", KEYS[0], 7, 1) is None


def test_another_version_is_not_given(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    assert jobs.take("job", KEYS[0], 8, 1) is None


def test_what_was_overwritten_is_not_given(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    for _ in range(SEGMENTS * SEGMENT_SIZE // (4 * MIB)):
        store(transit, KEYS[1], 4 * MIB)
    assert jobs.take("job", KEYS[0], 7, 1) is None


def test_what_a_reader_has_got_is_not_fetched_for_it_again(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    before = wish()
    assert jobs.take("job", KEYS[1], 7, 1) is None
    assert jobs.admit(before, KEYS[1], 1) is None
    assert jobs.admit(wish(), KEYS[1], 1) is not None  # in the next epoch


def test_what_waits_is_not_fetched_again(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0])
    assert jobs.admit(wish(), KEYS[0], 1) is None


def test_a_new_round_forgets_what_its_plan_asked_for(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0], plan="train")
    location = bring(jobs, transit, KEYS[1], plan="validate")
    jobs.replan("job", "train")
    assert jobs.take("job", KEYS[0], 7, 1) is None
    assert jobs.take("job", KEYS[1], 7, 1) == location


def test_a_job_that_reads_something_else_loses_what_waits(jobs: Passing, transit: Transit) -> None:
    bring(jobs, transit, KEYS[0], BUDGET // 2)
    assert not jobs.room()
    jobs.take("job", KEYS[1], 7, BUDGET - 1)
    assert not jobs.room()
    jobs.take("job", KEYS[2], 7, 1)
    assert jobs.room()
    assert jobs.take("job", KEYS[0], 7, 1) is None


def test_what_a_session_that_left_was_ahead_by_makes_room(transit: Transit) -> None:
    live = {"job"}
    jobs = Passing(transit, lambda: frozenset(live))
    bring(jobs, transit, KEYS[0], BUDGET // 2)
    assert not jobs.room()
    live.clear()
    assert jobs.room()


class Accounts(RuleBasedStateMachine):
    """Whatever comes, what is counted is what waits and what is on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.transit = Transit(0, Index([SEGMENTS], [SEGMENT_SIZE]))
        self.live = {"a", "b"}
        self.jobs = Passing(self.transit, lambda: frozenset(self.live))
        self.under_way: list[tuple[Admitted, bytes]] = []

    def teardown(self) -> None:
        self.transit.close()

    @rule(session=st.sampled_from("ab"), plan=st.sampled_from("xy"), key=st.sampled_from(KEYS))
    def admit(self, session: str, plan: str, key: bytes) -> None:
        if session in self.live:
            admitted = self.jobs.admit(wish(plan, session), key, BUDGET // 7)
            if admitted is not None:
                self.under_way.append((admitted, key))

    @rule(data=st.data(), length=st.integers(0, 2000), twice=st.booleans())
    def bring(self, data: st.DataObject, length: int, twice: bool) -> None:
        if self.under_way:
            admitted, key = data.draw(st.sampled_from(self.under_way))
            self.under_way.remove((admitted, key))
            for _ in range(1 + twice):
                self.jobs.bring(admitted, key, store(self.transit, key, length), 7, length)
            self.jobs.give_back(admitted)

    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        if self.under_way:
            admitted, key = data.draw(st.sampled_from(self.under_way))
            self.under_way.remove((admitted, key))
            self.jobs.give_back(admitted)

    @rule(session=st.sampled_from("ab"), key=st.sampled_from(KEYS), likely=st.sampled_from([0, BUDGET // 3]))
    def take(self, session: str, key: bytes, likely: int) -> None:
        self.jobs.take(session, key, 7, likely)

    @rule(session=st.sampled_from("ab"), plan=st.sampled_from("xy"))
    def replan(self, session: str, plan: str) -> None:
        self.jobs.replan(session, plan)

    @rule(session=st.sampled_from("ab"))
    def leave_or_come(self, session: str) -> None:
        self.live ^= {session}
        self.jobs.room()

    @invariant()
    def counted(self) -> None:
        waiting = sum(w.length for job in self.jobs._jobs.values() for w in job.waiting.values())
        assert self.jobs._bytes == waiting + sum(admitted.length for admitted, _ in self.under_way)
        assert self.jobs._bytes <= BUDGET + BUDGET // 7


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_no_more_is_remembered_than_a_job_looks_ahead(
    jobs: Passing, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passing, "_MOST_GIVEN", 3)
    bring(jobs, transit, KEYS[0])
    before = wish()
    for key in KEYS[1:6]:
        jobs.take("job", key, 7, 1)
    assert [jobs.admit(before, key, 1) is None for key in KEYS[1:6]] == [False, False, True, True, True]
