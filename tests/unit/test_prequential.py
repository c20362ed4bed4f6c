"""models.prequential against a plain loop that takes one moment of one user after the other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from xml.etree import ElementTree

import msgspec
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

from models import prequential as module
from models.contenders import Contender
from models.curve import draw_freshness
from models.list_quality import Occasion, judge_lists
from models.live_items import LiveItems
from models.prequential import DAY_MS, Judgement, fused, prequential
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.component import Histories
from operators.candidates.covisitation import CoVisitation
from operators.candidates.popularity import Popularity
from operators.interest import EVENT_TYPES
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from tests.fakes import FakeEncoder, FakeRecord, full_pass, items

START_MS = 1_600_000_000_000
POLICY = Policy(explain=False)


class Shown(NamedTuple):
    timestamp_ms: int
    event_type: int
    key: bytes
    value: bytes


def stream(seed: int = 0, moments: int = 150) -> list[Shown]:
    """Ten users; moments hours apart, of one to three items each."""
    rng = np.random.default_rng(seed)
    events: list[Shown] = []
    time_ms = START_MS
    for _ in range(moments):
        time_ms += int(rng.integers(1, 9)) * 3_600_000
        user = f"u{rng.integers(10)}"
        for item in rng.integers(0, 14, rng.integers(1, 4)):
            value = orjson.dumps({"user_id": user, "item_id": f"item-{item}", "timestamp": time_ms})
            events.append(Shown(time_ms, int(rng.integers(3)), user.encode(), value))
    return events


def judged(
    events: list[Shown],
    test_start_ms: int,
    end_ms: int | None = None,
    *,
    encoder: FakeEncoder | None = None,
    fresh_bias: float = 0.0,
    contenders: Mapping[str, Contender] = MappingProxyType({}),
    learn_from_ms: int = 0,
) -> Judgement:
    return prequential(
        events,
        encoder or FakeEncoder(items(12)),  # two items are outside the vocabulary
        POLICY,
        test_start_ms=test_start_ms,
        test_end_ms=end_ms or events[-1].timestamp_ms + 1,
        attributes={"item-1": frozenset("ab"), "item-2": frozenset("b")},
        fresh_bias=fresh_bias,
        contenders=contenders,
        learn_from_ms=learn_from_ms,
    )


def plain_lists(events: list[Shown]) -> dict[str, list[tuple[int, list[str]]]]:
    """Every published list of each user with its time, one moment after the other through the core."""
    encoder, popularity = FakeEncoder(items(12)), {0: Popularity()}
    states: dict[UserKey, UserState] = {}
    lists: dict[str, list[tuple[int, list[str]]]] = {}
    offset = 0
    for time_ms, user in sorted({(e.timestamp_ms, e.key) for e in events}):
        of_moment = [e for e in events if (e.timestamp_ms, e.key) == (time_ms, user)]
        chunks = []
        for e in of_moment:
            chunks.append(Chunk.of(EVENT_TYPES[e.event_type], e.event_type, 0, [FakeRecord(offset, e.key, e.value)]))
            offset += 1
        batch = decode_chunks(chunks, time_ms)
        states.setdefault(batch.users[0], UserState())
        effects = process_batch(
            batch, states, popularity, encoder, POLICY, topics=EVENT_TYPES, withdrawn=frozenset(), now_ms=time_ms
        )
        names = [item["item_id"] for item in orjson.loads(effects.lists[0].value)["items"]]
        lists.setdefault(user.decode(), []).append((time_ms, names))
    return lists


def item_of(event: Shown) -> str:
    return str(orjson.loads(event.value)["item_id"])


def own_counts(events: list[Shown], key: bytes, time_ms: int) -> list[str]:
    """The user's items by count, then by recency."""
    history = [item_of(e) for e in events if e.key == key and e.timestamp_ms < time_ms]
    newest_first = list(dict.fromkeys(reversed(history)))
    return sorted(newest_first, key=lambda item: -history.count(item))


def covisited(events: list[Shown], key: bytes, time_ms: int) -> list[str]:
    """A component of its own that learns the events before, one at a time."""
    names = list(dict.fromkeys(item_of(e) for e in events))
    component = CoVisitation(len(names) + 1)
    histories: dict[bytes, list[int]] = {}
    for event in events:
        if event.timestamp_ms < time_ms:
            row = 1 + names.index(item_of(event))
            component.update(histories.setdefault(event.key, []), row, event.timestamp_ms)
            histories[event.key].append(row)
    scores = component.scores(Histories.of([histories.get(key, [])]))[0]
    return [names[row - 1] for row in np.argsort(-scores, kind="stable").tolist() if row and scores[row] > 0]


def filled(chosen: list[str], popular: list[str]) -> list[str]:
    return [*chosen[:10], *(item for item in popular if item not in chosen[:10])][:10]


def hit_rates(events: list[Shown], test_start_ms: int) -> dict[str, float]:
    """HR@10 of the list shown, of lagged ones, and of the week's most popular items, by brute force."""
    lists = plain_lists(events)
    hits: dict[str, list[bool]] = {}
    for time_ms, key in sorted({(e.timestamp_ms, e.key) for e in events if e.timestamp_ms >= test_start_ms}):
        user = key.decode()
        targets = {orjson.loads(e.value)["item_id"] for e in events if (e.timestamp_ms, e.key) == (time_ms, key)}
        week = [e for e in events if time_ms - 7 * DAY_MS <= e.timestamp_ms < time_ms]
        counts = Counter(orjson.loads(e.value)["item_id"] for e in week)
        first_seen = list(dict.fromkeys(orjson.loads(e.value)["item_id"] for e in events))
        popular = sorted(counts, key=lambda item: (-counts[item], first_seen.index(item)))
        before = [(t, names) for t, names in lists.get(user, []) if t < time_ms]
        asked = {
            "headwater": before[-1][1] if before else popular[:10],
            "1 event": before[-2][1] if len(before) > 1 else popular[:10],
            "popular-7-days": popular[:10],
            "own counts": filled(own_counts(events, key, time_ms), popular),
            "co-visitation": filled(covisited(events, key, time_ms), popular),
        }
        midnight = time_ms // DAY_MS * DAY_MS
        for name, limit in (("1 day", time_ms - DAY_MS), ("never", test_start_ms - 1), ("nightly", midnight)):
            old = [names for t, names in before if t <= limit]
            asked[name] = old[-1] if old else popular[:10]
        for name, listed in asked.items():
            hits.setdefault(name, []).append(bool(targets & {*listed}))
    return {name: float(np.mean(found)) for name, found in hits.items()}


def test_every_list_is_from_before_the_event_it_is_judged_on() -> None:
    events = stream()
    test_start_ms = events[len(events) // 2].timestamp_ms
    found, expected = judged(events, test_start_ms), hit_rates(events, test_start_ms)
    actual = {row.ranker: row.hr10 for row in [*found.results, *found.freshness]}
    assert {name: actual[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    assert actual["0"] == actual["headwater"]


def test_no_moment_of_the_judged_period_is_cut_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list made of a basket's first half, judged by the second, would be one from after the event."""
    events = stream()
    start = events[len(events) // 2].timestamp_ms
    assert max(Counter((e.timestamp_ms, e.key) for e in events if e.timestamp_ms >= start).values()) > 1
    # The batches before the period end with every moment, however many events they may have.
    early = {(e.timestamp_ms, e.key): e for e in events if e.timestamp_ms < start}
    events = [*early.values(), *(e for e in events if e.timestamp_ms >= start)]
    whole = judged(events, start)
    monkeypatch.setattr(module, "BATCH_EVENTS", 1)
    assert judged(events, start) == whole


def test_items_that_do_not_learn_rank_as_the_encoder_does() -> None:
    events = stream()
    encoder = FakeEncoder(items(12))
    still = LiveItems(encoder, 13, rate=0.0, new_items_max=0)
    contenders = {"same": Contender(POLICY), "still": Contender(POLICY, still)}
    found = {row.ranker: row for row in judged(events, events[200].timestamp_ms, contenders=contenders).results}
    assert found["headwater"].hr10 > 0
    for name in contenders:
        assert msgspec.structs.replace(found[name], ranker="headwater") == found["headwater"]


def test_items_learn_from_the_vector_and_the_history_before_each_event() -> None:
    class Told(LiveItems):
        """Keeps what it is to learn."""

        def learn(self, item_ids: Sequence[str], vectors: NDArray[np.float32], neighbours: NDArray[np.float32]) -> None:
            super().learn(item_ids, vectors, neighbours)
            told.extend(zip(item_ids, vectors.tolist(), neighbours.tolist(), strict=True))

    told: list[tuple[str, list[float], list[float]]] = []
    events = stream()
    encoder, from_ms = FakeEncoder(items(12)), events[60].timestamp_ms
    learning = Told(encoder, 13, rate=0.5, new_items_max=2)
    found = judged(
        events, events[200].timestamp_ms, contenders={"live": Contender(POLICY, learning)}, learn_from_ms=from_ms
    )
    expected: list[tuple[str, list[float], list[float]]] = []
    histories: dict[bytes, list[Shown]] = {}
    for time_ms, key in sorted({(e.timestamp_ms, e.key) for e in events}):
        history = histories.setdefault(key, [])
        vector = (
            full_pass(encoder, [(item_of(e), e.event_type, e.timestamp_ms) for e in history])[1] if history else None
        )
        of_moment = [e for e in events if (e.timestamp_ms, e.key) == (time_ms, key)]
        for event in sorted(of_moment, key=lambda e: e.event_type):  # as those of one moment are folded
            if time_ms >= from_ms and vector is not None:
                near = learning.neighbourhood([item_of(e) for e in history])
                expected.append((item_of(event), vector.tolist(), near.tolist()))
            history.append(event)
    assert [item for item, *_ in sorted(told)] == [item for item, *_ in sorted(expected)]
    for (_, *given), (_, *wanted) in zip(sorted(told), sorted(expected), strict=True):
        np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)
    scores = {row.ranker: row.mrr10 for row in found.results}
    assert scores["live"] != scores["headwater"]


def test_a_new_item_counts_among_the_users_own() -> None:
    """Somebody who takes a thing that the model does not know, again and again, and something else twice."""
    events = [
        Shown(time_ms, 2, b"u", orjson.dumps({"user_id": "u", "item_id": item, "timestamp": time_ms}))
        for n, item in enumerate(["item-1", "item-1", *["item-13"] * 9])
        for time_ms in [START_MS + n * DAY_MS]
    ]
    contenders = {
        name: Contender(Policy(explain=False, repeat_weight=100.0), learned)
        for name, learned in (
            ("encoder", None),
            ("live", LiveItems(FakeEncoder(items(12)), 13, rate=0, new_items_max=1)),
        )
    }
    found = judged(events, events[5].timestamp_ms, contenders=contenders).results
    assert {row.ranker: row.mrr10 for row in found if row.ranker in contenders} == {"encoder": 0.0, "live": 1.0}


def test_reciprocal_ranks_are_added_up() -> None:
    """The list beside co-visitation's, from the two lists of each occasion by hand."""
    first, second = [5, 6, 7, 0, 0, 0, 0, 0, 0, 0], [7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
    by_hand = {5: 1 / 61, 6: 1 / 62, 7: 1 / 63 + 1 / 61, 8: 1 / 62}
    assert fused(first, second) == sorted(by_hand, key=lambda row: -by_hand[row])


def test_a_fresh_bias_is_the_log_of_the_weeks_share_over_that_of_all_before() -> None:
    class Told(FakeEncoder):
        """Keeps what it is told of item-3."""

        def set_rule(self, item_id: str, available: bool, boost: float) -> None:
            super().set_rule(item_id, available, boost)
            if item_id == "item-3":
                rules.append((available, boost))

    rules: list[tuple[bool, float]] = []
    events = stream()
    start = events[len(events) // 2].timestamp_ms
    found = judged(events, start, encoder=Told(items(12)), fresh_bias=0.5)
    names = list(dict.fromkeys(map(item_of, events)))

    def share(of: list[Shown]) -> float:
        counts = Counter(map(item_of, of))
        return (counts["item-3"] + 1) / (len(of) + len(names) + 1)  # one added to every row, row 0 among them

    expected: list[float] = []
    days: set[int] = set()
    for time_ms in sorted({event.timestamp_ms for event in events if event.timestamp_ms >= start}):
        if time_ms // DAY_MS not in days:
            days.add(time_ms // DAY_MS)
            week = [e for e in events if time_ms - 7 * DAY_MS <= e.timestamp_ms < time_ms]
            expected.append(0.5 * np.log(share(week) / share([e for e in events if e.timestamp_ms < start])))
    assert [available for available, _ in rules] == [True] * len(expected)
    assert [boost for _, boost in rules] == pytest.approx(expected)
    assert np.ptp(expected) > 0.1
    still = {row.ranker: row.mrr10 for row in judged(events, start).results}
    moved = {row.ranker: row.mrr10 for row in found.results}
    assert moved["headwater"] != still["headwater"]
    assert moved["own counts"] == still["own counts"]


def test_what_comes_after_the_period_changes_nothing() -> None:
    events = stream()
    start, end = events[120].timestamp_ms, events[-80].timestamp_ms
    short = [event for event in events if event.timestamp_ms < end]
    whole, cut = judged(events, start, end), judged(short, start, end)
    assert [row.hr10 for row in whole.results] == [row.hr10 for row in cut.results]
    with pytest.raises(ValueError, match="no event in the test period"):
        judged(events, events[-1].timestamp_ms + 1)


def test_measures_of_lists_by_hand() -> None:
    lists = np.array([[1, 2, 0, 0], [3, 1, 2, 4]])
    occasions = [
        Occasion(7, np.array([2]), [1, 1], 2, np.array([30])),
        Occasion(8, np.array([3, 5]), [3], 9, np.array([3, 50])),
    ]
    kinds = {1: frozenset("a"), 2: frozenset("ab"), 3: frozenset("b"), 4: frozenset("b")}
    found = judge_lists("x", lists, occasions, np.array([0, 3, 1, 0, 0, 0]), kinds)
    assert found.mrr10 == pytest.approx((1 / 2 + 1) / 2)
    assert found.hr10 == 1.0
    assert found.ndcg10 == pytest.approx((1 / np.log2(3) + 1 / (1 + 1 / np.log2(3))) / 2, abs=1e-4)
    assert found.coverage == pytest.approx(4 / 5)
    shares = np.array([4, 2, 1, 4, 2, 1]) / 10
    assert found.novelty_bits == pytest.approx(-np.log2(shares).mean(), abs=0.01)
    second = np.mean([1, 1 / 2, 0, 1 / 2, 1, 1 / 2])  # 31, 32, 34, 12, 14, 24
    assert found.diversity == pytest.approx((1 / 2 + second) / 2, abs=1e-4)
    first_kl = np.log2(1 / (0.99 * 0.75 + 0.01))
    second_kl = np.log2(1 / (0.99 * 2.5 / 4 + 0.01))
    assert found.miscalibration == pytest.approx((first_kl + second_kl) / 2, abs=1e-4)
    assert found.cold_item_recall10 == 1.0
    assert found.cold_user_ndcg10 == pytest.approx(1 / np.log2(3), abs=1e-4)


def test_the_curve_is_a_picture_with_every_lag(tmp_path: Path) -> None:
    path = tmp_path / "curve.svg"
    draw_freshness([("never", 0.1, 0.08, 0.12), ("0", 0.2, 0.18, 0.22)], path)
    text = " ".join(ElementTree.parse(path).getroot().itertext())  # noqa: S314 (our own file)
    assert text.index(" 0 ") < text.index("never")
    assert "0.200" in text
