"""Blocks that the cache has no room for, fetched ahead of the job that is about to read them.

They wait in the transit shard, which is memory, until the job asks for them. Each plan has a share of it:
what is on its way and what waits come to no more than that and an eighth of it. The ring is also for what
others read; a plan whose blocks were overwritten before they were asked for has been too far ahead, and its
share is halved, to grow again with each block that is found in time.

What a reader has read only a part of, or an answer had no room for, is found there, too, until it is
overwritten: whoever reads on has it without another request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from ioaccel.engine.transit import SEGMENT_SIZE, SEGMENTS, Transit

# Of all plans together: three of eight segments. One plan has half of it, 48 MiB: 40 ms at 10 Gb/s.
BUDGET = SEGMENTS * SEGMENT_SIZE * 3 // 8
SHARE = BUDGET // 2

# What was let go may come to so much more than it was taken for, of a share: sizes vary. For what is refused
# its batch waits a whole request long.
_SLACK = 1 / 8

# Blocks of which it is remembered that a reader was given them: as many as a job looks ahead, and more.
_MOST_GIVEN = 20_000

# Blocks in transit of which only a part was read, however small: what is remembered of them.
_MOST_HELD = 20_000

# Plans of a session that are remembered: training, validation, and what is left of older loaders.
_MOST_PLANS = 8

# What an extent is taken to weigh until one was seen.
_FIRST_GUESS = 1 << 20

# How often it is looked for what was overwritten, by those who have no room, and how often a share is halved
# for that: what waits is overwritten together.
_LOOK_SECONDS = 1.0


# Where a block is in transit, and the hash of its version.
Held = tuple[bytes, int]


class _Waiting(NamedTuple):
    location: bytes
    version_hash: int
    length: int


class _Plan:
    """What one plan is ahead by."""

    def __init__(self, number: int) -> None:
        self.number = number  # of its round
        self.waiting: dict[bytes, _Waiting] = {}
        self.bytes = 0  # of what waits, and of what waves have set aside
        self.unmeasured = 0  # extents on their way, for which nothing was set aside
        self.share = SHARE
        self.typical = float(_FIRST_GUESS)  # bytes of an extent
        self.looked = self.halved = 0.0  # monotonic seconds
        self.blocked = False  # a wave could not leave
        self.over = False


class _Session:
    def __init__(self) -> None:
        self.plans: OrderedDict[str, _Plan] = OrderedDict()
        self.given: OrderedDict[bytes, float] = OrderedDict()  # monotonic seconds
        self.held: OrderedDict[bytes, Held] = OrderedDict()


class Ahead:
    """One wave of a plan, on its way: what may be fetched ahead of the cache. Made and ended by `Passing`."""

    __slots__ = (
        "asked", "before", "brought", "extents", "kept", "over", "plan", "promised", "refused", "reserved",
        "session", "unmeasured",
    )  # fmt: skip

    def __init__(self, session: _Session, plan: _Plan, asked: float, extents: int, reserved: int) -> None:
        self.session = session
        self.plan = plan
        self.asked = asked  # when it was asked for (monotonic)
        self.extents = extents  # that are in it
        self.reserved = reserved  # bytes of the share that were set aside, and not used yet
        # Extents that the job reads before these, and that may come to pass by the cache, too, though nothing
        # is set aside for them: too many would overwrite these.
        self.before = 0 if reserved else plan.unmeasured
        self.unmeasured = 0 if reserved else extents
        plan.unmeasured += self.unmeasured
        self.promised = 0  # bytes of blocks that were admitted, and are not there yet
        self.brought = self.kept = 0  # bytes: past the cache, and into it
        self.refused: dict[bytes, int] = {}  # blocks that there was no room for, and what they likely weigh
        self.over = False  # it has landed, or given up

    @property
    def current(self) -> bool:
        """Whether the plan is still in the round that it is of."""
        return not self.plan.over


class Passing:
    """What all plans are ahead by. Any thread.

    ``live`` names the sessions whose clients are there; ``freed``, which whoever sends waves may set, is
    called by any thread and without a lock of this, when a plan may go on.
    """

    def __init__(self, transit: Transit, live: Callable[[], frozenset[str]]) -> None:
        self._transit = transit
        self._live = live
        self.freed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    @property
    def total_bytes(self) -> int:
        """Of what waits, and of what was set aside."""
        with self._lock:
            return sum(plan.bytes for plan in self._plans())

    def _plans(self) -> list[_Plan]:
        return [plan for session in self._sessions.values() for plan in session.plans.values()]

    # ---- fetching -------------------------------------------------------------------------------

    def turn(self, session: str, plan: str, number: int) -> int:
        """A message of a plan's round has come: -1 if one of a later round has, 1 if it is the first of its.

        What waits for earlier rounds is forgotten.
        """
        with self._lock:
            known = self._session(session)
            before = known.plans.get(plan)
            if before is not None and before.number >= number:
                known.plans.move_to_end(plan)
                return 0 if before.number == number else -1
            new = known.plans[plan] = _Plan(number)
            known.plans.move_to_end(plan)
            if before is not None:
                before.over = True
                new.typical = before.typical
            if len(known.plans) > _MOST_PLANS:
                known.plans.popitem(last=False)[1].over = True
            return 1

    def _session(self, name: str) -> _Session:
        known = self._sessions.get(name)
        if known is None:
            self._forget_those_that_left()
            known = self._sessions[name] = _Session()
        return known

    def leave(self, session: str, plan: str, asked: float, most: int, *, full: bool) -> Ahead | None:
        """A wave of a plan leaves, of ``most`` extents or as many as its share has room for; None if it has
        none. If the cache is not ``full`` nothing is set aside, and all may leave."""
        with self._lock:
            known = self._sessions.get(session)
            one = known.plans.get(plan) if known is not None else None
            if known is None or one is None:
                known, one = _Session(), _Plan(0)  # forgotten meanwhile: nothing of it is kept
                one.over = True
            if not full:
                return Ahead(known, one, asked, most, 0)
            room = self._room(one)
            if room < one.typical and one.bytes:
                self._forget_overwritten(one)
                room = self._room(one)
            count = min(most, int(room / max(one.typical, 1.0)))
            if count < 1:
                if one.bytes or one.unmeasured:
                    one.blocked = True
                    return None
                count = 1  # larger than the share: one at a time
            reserved = int(count * one.typical)
            one.bytes += reserved
            return Ahead(known, one, asked, count, reserved)

    def _share(self, plan: _Plan) -> int:
        active = sum(each.bytes > 0 for each in self._plans() if each is not plan) + 1
        return min(plan.share, BUDGET // max(2, active))

    def _room(self, plan: _Plan) -> int:
        return self._share(plan) - plan.bytes - int(plan.unmeasured * plan.typical)

    def _forget_overwritten(self, plan: _Plan) -> None:
        """Those of a job that has paused, above all."""
        now = time.monotonic()
        if now - plan.looked < _LOOK_SECONDS:
            return
        plan.looked = now
        self._forget_those_that_left()
        lost = [key for key, each in plan.waiting.items() if not self._transit.holds(each.location)]
        for key in lost:
            plan.bytes -= plan.waiting.pop(key).length
        if lost:
            self._halve(plan)

    def _halve(self, plan: _Plan) -> None:
        now = time.monotonic()
        if now - plan.halved >= _LOOK_SECONDS:
            plan.halved = now
            plan.share //= 2

    def _forget_those_that_left(self) -> None:
        live = self._live()
        for name in [name for name in self._sessions if name not in live]:
            del self._sessions[name]

    def admit(self, ahead: Ahead, key: bytes, likely: int) -> bool:
        """Whether a block is to be fetched ahead: not if there is no room, or a reader has got it since, nor
        after the wave has given up, when nobody would give back what is set aside for it."""
        with self._lock:
            plan = ahead.plan
            if ahead.over or self._is_late(ahead, key):
                return False
            lacking = ahead.promised + likely - ahead.reserved
            if lacking > 0:
                # One extent may be larger than the share, if it is alone.
                alone = plan.bytes == ahead.reserved and (ahead.extents == 1 or not ahead.promised)
                share = self._share(plan)
                too_much = lacking > share - plan.bytes + share * _SLACK and not alone
                before = (ahead.before + len(ahead.refused)) * max(likely, plan.typical)
                if too_much or before > share:
                    ahead.refused[key] = likely
                    return False
                plan.bytes += lacking
                ahead.reserved += lacking
            ahead.promised += likely
            self._weighed(ahead)
            return True

    def kept(self, ahead: Ahead, length: int) -> None:
        """A block of a wave is in the cache."""
        with self._lock:
            ahead.kept += length
            if not ahead.over:
                self._weighed(ahead)

    @staticmethod
    def _weighed(ahead: Ahead) -> None:
        """It is known what has come of one of a wave's extents."""
        if ahead.unmeasured:
            ahead.unmeasured -= 1
            ahead.plan.unmeasured -= 1

    def wants(self, ahead: Ahead, keys: list[bytes]) -> bool:
        """Whether a wave's plan still waits for any of these blocks."""
        with self._lock:
            return not all(self._is_late(ahead, key) for key in keys)

    def _is_late(self, ahead: Ahead, key: bytes) -> bool:
        """Whether nobody will ask for a block any more, or it is there."""
        plan, session = ahead.plan, ahead.session
        if plan.over or key in plan.waiting or ahead.asked <= session.given.get(key, 0.0):
            return True
        return key in session.held and self._transit.holds(session.held[key][0])

    def bring(self, ahead: Ahead, key: bytes, location: bytes, version_hash: int, length: int) -> None:
        """The block is in transit; it waits there, unless a reader has got it meanwhile."""
        with self._lock:
            plan = ahead.plan
            if self._is_late(ahead, key):
                return
            used = min(length, ahead.reserved)
            ahead.reserved -= used
            ahead.promised = max(0, ahead.promised - length)
            ahead.brought += length
            plan.bytes += length - used
            plan.waiting[key] = _Waiting(location, version_hash, length)

    def end(self, ahead: Ahead) -> None:
        """The wave has landed: what it has set aside and not used is free."""
        with self._lock:
            plan = ahead.plan
            plan.bytes -= ahead.reserved
            plan.unmeasured -= ahead.unmeasured
            ahead.reserved = ahead.unmeasured = 0
            ahead.over = True
            weight = ahead.brought + ahead.kept + sum(ahead.refused.values())
            if weight:
                plan.typical += (weight / ahead.extents - plan.typical) / 4

    # ---- reading --------------------------------------------------------------------------------

    def take(self, session: str, key: bytes, version_hash: int, *, whole: bool) -> bytes | None:
        """The location of a block that a reader wants, if it waits here. If he reads the ``whole`` of it, it
        is his from now on, else it also waits for who reads on."""
        with self._lock:
            known = self._sessions.get(session)
            if known is None:
                return None  # nothing has passed by for it
            location, held = known.held.get(key, (b"", 0))
            if held != version_hash or not self._transit.holds(location):
                location = b""
            waiting, goes_on = self._given(known, key)
            for plan, each in waiting:
                if not self._transit.holds(each.location):
                    self._halve(plan)
                elif each.version_hash == version_hash:
                    plan.share = min(SHARE, plan.share + each.length)
                    location = each.location
            if whole:
                known.held.pop(key, None)
            elif location:
                self._hold(known, key, (location, version_hash))
        if goes_on:
            self.freed()
        return location or None

    def given(self, session: str, key: bytes, held: Held | None = None) -> None:
        """A reader was given a block in another way: he has fetched it, or joined a flight. If he reads only
        a part of it, it is ``held`` for who reads on."""
        with self._lock:
            known = self._session(session) if held else self._sessions.get(session)
            goes_on = known is not None and self._given(known, key)[1]
            if known is not None and held:
                self._hold(known, key, held)
        if goes_on:
            self.freed()

    def hold(self, session: str, key: bytes, held: Held) -> None:
        """A block that a reader was to be given, had the answer had room for it, waits for him."""
        with self._lock:
            self._hold(self._session(session), key, held)

    def _hold(self, known: _Session, key: bytes, held: Held) -> None:
        """Remembers a block that is in transit, until it is overwritten."""
        while known.held and (
            len(known.held) >= _MOST_HELD or not self._transit.holds(next(iter(known.held.values()))[0])
        ):
            known.held.popitem(last=False)
        if self._transit.holds(held[0]):
            known.held[key] = held

    def _given(self, known: _Session, key: bytes) -> tuple[list[tuple[_Plan, _Waiting]], bool]:
        """What waited of a block that a reader is given now, and whether a plan has room again."""
        known.given[key] = time.monotonic()
        known.given.move_to_end(key)
        if len(known.given) > _MOST_GIVEN:
            known.given.popitem(last=False)
        found = []
        goes_on = False
        for plan in known.plans.values():
            if (waiting := plan.waiting.pop(key, None)) is not None:
                plan.bytes -= waiting.length
                goes_on = self._goes_on(plan) or goes_on
                found.append((plan, waiting))
        return found, goes_on

    def _goes_on(self, plan: _Plan) -> bool:
        """Whether a plan that was blocked has room for some waves; it is told once."""
        if not plan.blocked or (plan.bytes and self._room(plan) < self._share(plan) // 4):
            return False
        plan.blocked = False
        return True
