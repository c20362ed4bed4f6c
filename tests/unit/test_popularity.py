"""Decayed counts against a direct computation, their bound, and their snapshot."""

import random
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from operators import limits
from operators.candidates.popularity import Popularity, PopularityError

HALF_LIFE_MS = 1_000
DAY_MS = 86_400_000


def direct(events: Sequence[tuple[str, int]], half_life_ms: int) -> list[tuple[str, float]]:
    """Items by 2**(-age / half-life) summed over their events, as of the newest one; ties by item id."""
    newest = max(time_ms for _, time_ms in events)
    counts: dict[str, float] = {}
    for item, time_ms in events:
        counts[item] = counts.get(item, 0.0) + 2.0 ** (-(newest - time_ms) / half_life_ms)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(item, count / ranked[0][1]) for item, count in ranked]


def fed(events: Sequence[tuple[str, int]], half_life_ms: int = HALF_LIFE_MS) -> Popularity:
    popularity = Popularity(half_life_ms)
    for item, time_ms in events:
        popularity.add(item, time_ms)
    return popularity


def drawn(count: int, span_ms: int, seed: int = 1) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    return [(f"item-{rng.randrange(30)}", 1_700_000_000_000 + rng.randrange(span_ms)) for _ in range(count)]


@pytest.mark.parametrize("span_ms", [1, 500, 20_000, 60_000])
def test_equals_the_direct_computation(span_ms: int) -> None:
    events = drawn(2_000, span_ms)
    ranked, expected = fed(events).top(30), direct(events, HALF_LIFE_MS)
    assert [item for item, _ in ranked] == [item for item, _ in expected]
    assert [share for _, share in ranked] == pytest.approx([share for _, share in expected])


def test_the_landmark_moves_over_years_of_events() -> None:
    # Five years are 260 half-lives of a week: several moves, and far past what a float's exponent could hold.
    events = sorted(drawn(5_000, 5 * 365 * DAY_MS), key=lambda pair: pair[1])
    popularity = fed(events, limits.popularity_half_life_ms)
    ranked = popularity.top(10)
    expected = direct(events, limits.popularity_half_life_ms)[:10]
    assert [item for item, _ in ranked] == [item for item, _ in expected]
    assert [share for _, share in ranked] == pytest.approx([share for _, share in expected])


def test_a_jump_of_decades_forgets_what_was() -> None:
    popularity = fed([("old", 0)] * 50, limits.popularity_half_life_ms)
    assert popularity.as_of(50).top(5) == [("old", 1.0)]
    popularity.add("new", 1_700_000_000_000)
    assert popularity.as_of(51).top(5) == [("old", 1.0)]  # the edition before it, of 50 events
    popularity.add("new", 1_700_000_000_000)
    assert popularity.as_of(52).top(5) == [("new", 1.0)]
    assert popularity.top(5) == [("new", 1.0)]
    popularity.add("old", 5_000)
    assert popularity.top(1) == [("new", 1.0)]


def test_popularity_moves_with_the_stream() -> None:
    popularity = fed([("yesterday", 0)] * 8 + [("today", 4 * HALF_LIFE_MS)])
    assert popularity.top(2) == [("today", 1.0), ("yesterday", 0.5)]
    popularity.add("yesterday", 4 * HALF_LIFE_MS)
    assert popularity.top(2) == [("yesterday", 1.0), ("today", pytest.approx(1 / 1.5))]


def test_ties_are_broken_by_item_id() -> None:
    assert [item for item, _ in fed([("b", 1), ("c", 1), ("a", 1)]).top(3)] == ["a", "b", "c"]


def test_excluded_items_are_left_out_however_many_they_are() -> None:
    popularity = fed([(f"item-{n:04}", 1_000) for n in range(1_000)])
    excluded = {f"item-{n:04}" for n in range(990)}
    assert [item for item, _ in popularity.top(20, excluded)] == [f"item-{n:04}" for n in range(990, 1_000)]
    assert [item for item, _ in popularity.top(2)] == ["item-0000", "item-0001"]


def test_an_edition_asked_for_few_items_has_the_others_when_they_are_asked_for() -> None:
    events = [(f"item-{n % 40:02}", n // 2) for n in range(100)]  # every weight is a tie of two
    whole = fed(events).as_of(100).top(40)
    edition = fed(events).as_of(100)
    for count in (1, 3, 2, 9, 40, 100, 1):
        assert edition.top(count) == whole[:count]
    best = {item for item, _ in whole[:9]}
    assert fed(events).as_of(100).top(2, best) == whole[9:11]


def test_nothing_is_popular_before_the_first_event() -> None:
    assert Popularity().top(10) == []


def test_items_are_bounded_and_the_popular_ones_stay() -> None:
    popularity = Popularity()
    for n in range(3 * limits.popularity_items_max):
        popularity.add(f"rare-{n}", 1_000)
        if n % 100 == 0:
            popularity.add("often", 1_000)
        assert len(popularity) <= limits.popularity_items_max
    assert popularity.top(1) == [("often", 1.0)]
    assert popularity.events == 3 * limits.popularity_items_max + 600


def test_a_snapshot_goes_on_where_it_was_taken() -> None:
    events = drawn(500, 30_000)
    popularity = fed(events[:300])
    restored = Popularity.restore(popularity.snapshot(), HALF_LIFE_MS)
    assert restored.snapshot() == popularity.snapshot()
    for item, time_ms in events[300:]:
        restored.add(item, time_ms)
        popularity.add(item, time_ms)
    assert restored.top(30) == popularity.top(30)
    assert restored.events == popularity.events == 500


def test_a_snapshot_is_bounded_and_keeps_the_most_popular() -> None:
    count = limits.popularity_snapshot_items_max + 500
    popularity = fed([(f"item-{n:05}", n) for n in range(count)], limits.popularity_half_life_ms)
    restored = Popularity.restore(popularity.snapshot())
    assert len(restored) == limits.popularity_snapshot_items_max
    assert restored.top(300) == popularity.top(300)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x00\x00", msgspec.msgpack.encode([2, 0, 0, {}])])
def test_bytes_that_are_no_snapshot_are_refused(data: bytes) -> None:
    with pytest.raises(PopularityError):
        Popularity.restore(data)


def extend(popularity: Popularity, events: Sequence[tuple[str, int]]) -> None:
    popularity.extend([item for item, _ in events], np.array([time_ms for _, time_ms in events], np.int64))


@pytest.mark.parametrize("cuts", [[], [1], [3, 400, 401], list(range(500))])
def test_editions_are_the_same_however_the_events_come(cuts: list[int]) -> None:
    events = sorted(drawn(500, 30_000), key=lambda pair: pair[1])
    popularity = Popularity(HALF_LIFE_MS)
    editions: dict[int, list[tuple[str, float]]] = {}
    for start, end in pairwise([0, *cuts, len(events)]):
        extend(popularity, events[start:end])
        editions |= {at: popularity.as_of(at).top(30) for at in range(start, end + 1)}
    published: dict[int, list[tuple[str, float]]] = {}
    for at, top in editions.items():
        edition = fed(events[:at])
        published[at] = edition.as_of(at).top(30)
        assert top == published[at]
    assert published[0] == []
    assert published[7] == fed(events[:7]).top(30)  # at first every event makes one
    assert len({tuple(top) for top in published.values()}) > 60


def test_an_edition_stands_while_the_counts_move_on() -> None:
    popularity = fed([("a", 1_000), ("b", 1_000), ("b", 1_000)])
    edition = popularity.as_of(3)
    extend(popularity, [("a", 1_000)] * 5)
    assert edition.top(2) == [("b", 1.0), ("a", 0.5)]
