"""How a directory's listing is read: each page once as far as can be, all of it, and no more than pays."""

from __future__ import annotations

from bisect import bisect_right

from hypothesis import given
from hypothesis import strategies as st

from ioaccel.engine.walk import WAITS, Walk

PAGE = 10  # of the listing here


def keys_of(count: int) -> list[str]:
    return [f"d/{n:05d}" for n in range(count)]


class Listing:
    """A directory, and which of its keys a walk has checked."""

    def __init__(self, count: int) -> None:
        self.keys = keys_of(count)
        self.checked: set[str] = set()
        self.pages = 0

    def read(self, walk: Walk, wanted: list[str]) -> int:
        """All pages that come next, as if asked for at once; how many they are."""
        pages = walk.pages(wanted)
        for front, after in pages:
            first = bisect_right(self.keys, after)
            page = self.keys[first : first + PAGE]
            self.checked |= set(page)
            self.pages += 1
            walk.read(front, after, page[-1] if len(page) == PAGE else None)
        return len(pages)

    def check(self, walk: Walk, wanted: list[str]) -> list[str]:
        """As the engine does it: what it would not wait for comes back."""
        left = sorted(set(wanted) - self.checked)
        walk.ask(len(wanted))
        for _ in range(WAITS):
            if walk.large or not left or not self.read(walk, left):
                break
            before = len(left)
            left = [key for key in left if key not in self.checked]
            if left:
                walk.spread(before - len(left), left)
        return left


@given(count=st.integers(0, 400), data=st.data())
def test_all_that_is_there_is_checked_and_the_listing_ends(count: int, data: st.DataObject) -> None:
    """Whoever asks, and in whatever order; some keys are of objects that are gone."""
    listing, walk = Listing(count), Walk(1)
    known = st.sampled_from([*keys_of(count), "d/00003x", "d/99999", "d/0"])
    for wanted in data.draw(st.lists(st.lists(known, min_size=2, unique=True), max_size=4)):
        left = listing.check(walk, wanted)
        assert not set(left) & listing.checked
    while listing.read(walk, listing.keys):
        pass
    assert listing.checked == set(listing.keys)
    # Each front's last page may reach into what the next one has read.
    assert listing.pages <= count // PAGE + 1 + 8


def test_a_directory_of_few_pages_is_read_from_several_places_at_once() -> None:
    listing, walk = Listing(120), Walk(1)
    assert listing.check(walk, listing.keys[::3]) == []
    assert 12 <= listing.pages <= 12 + 2


def test_nobody_waits_for_a_directory_of_many_pages() -> None:
    listing, walk = Listing(5000), Walk(1)
    wanted = listing.keys[::100]
    assert listing.check(walk, wanted) == wanted[1:]
    assert listing.pages == 1
    assert listing.check(walk, wanted) == wanted[1:]
    assert listing.pages == 1


def test_no_more_pages_are_read_in_the_background_than_objects_were_asked_for() -> None:
    listing, walk = Listing(5000), Walk(1)
    listing.check(walk, listing.keys[::100])
    fronts = walk.begin()
    assert len(fronts) > 1
    assert walk.begin() == []
    while any(walk.pays(front) for front in fronts):
        listing.read(walk, listing.keys)
    assert 50 <= listing.pages < 50 + 8


def test_a_page_that_two_have_read_moves_its_front_once() -> None:
    walk = Walk(1)
    [(front, after)] = walk.pages(["z"])
    walk.read(front, after, "m")
    walk.read(front, after, "k")
    assert walk.pages(["z"]) == [(front, "m")]
    assert walk.pages(["a"]) == []
