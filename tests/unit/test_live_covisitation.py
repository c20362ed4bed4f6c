"""The worker's co-visitation against counting one event after the other in plain Python, whatever the batches."""

import random
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from operators import limits
from operators.candidates import covisitation_parts, live_covisitation
from operators.candidates.live_covisitation import ROUND_EVENTS, LiveCoVisitation
from operators.columns import Columns
from operators.companions import BatchCompanions, Visits
from operators.events import Event
from operators.fold import fold, fold_all, fresh_events
from operators.fresh import fresh_by_partition
from operators.state import UserState
from tests.fakes import FakeEncoder, event, items

ITEMS = items(100)
ENCODER = FakeEncoder(ITEMS[:60])
UNIT = 4096
WINDOW = 10
Visit = tuple[int, str, str]
"""Time, user, item."""


def folded(states: list[UserState], events: list[Event], bounds: list[int]) -> tuple[Columns, NDArray[np.int64]]:
    """The events that are new to the states, and how many are of each."""
    columns = Columns.of(events)
    return fresh_events(fold_all(states, columns, bounds, ENCODER), columns, bounds)


@dataclass
class Oracle:
    """Everything anew for each question, from the definition."""

    events: list[tuple[str, list[str]]] = field(default_factory=list[tuple[str, list[str]]])
    """Item, and what the same user had seen before it, newest first."""
    histories: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list[str]))
    first_seen: list[str] = field(default_factory=list[str])

    def see(self, user: str, item: str) -> None:
        if item not in self.first_seen:
            self.first_seen.append(item)
        self.events.append((item, self.histories[user][::-1][:WINDOW]))
        self.histories[user].append(item)

    def answer(self, user: str, *, drop_seen: bool = False) -> list[tuple[str, float, str]]:
        """The best 16 with their shares and causes."""
        learned = len(self.events) // ROUND_EVENTS * ROUND_EVENTS
        rows, counts = self._learned(self.events[:learned])
        pending = self.events[learned:]
        found: dict[str, list[tuple[float, int]]] = defaultdict(list)
        recent = self.histories[user][::-1][:WINDOW]

        def note(age: int, item: str, successor: str, units: int) -> None:
            share = units / UNIT / max(counts[item], 1) / max(counts[successor], 1) ** 0.2
            found[successor].append((0.8**age * share, age))

        for age, item in enumerate(recent):
            best = sorted(rows[item], key=lambda other: (-rows[item][other], self.first_seen.index(other)))[:8]
            for successor in best:
                note(age, item, successor, rows[item][successor])
        matches = [
            (age, item, successor, round(UNIT * 0.8**distance))
            for age, item in enumerate(recent)
            for successor, before in pending
            for distance, other in enumerate(before)
            if other == item
        ]
        for match in matches[:160]:
            note(*match)
        banned = set(self.histories[user][-limits.history_events_max :]) if drop_seen else set[str]()
        sums = {item: sum(share for share, _ in of) for item, of in found.items() if item not in banned}
        ranked = sorted(sums, key=lambda item: (-np.float32(sums[item]), self.first_seen.index(item)))[:16]
        return [(item, sums[item], recent[max(found[item], key=lambda pair: pair[0])[1]]) for item in ranked]

    def _learned(self, events: list[tuple[str, list[str]]]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
        rows: dict[str, dict[str, int]] = defaultdict(dict)
        counts: dict[str, int] = defaultdict(int)
        for item, before in events:
            counts[item] += 1
            for distance, other in enumerate(before):
                row = rows[other]
                if item not in row and len(row) == limits.covisitation_live_successors_max:
                    best = sorted(row, key=lambda one: (-row[one], self.first_seen.index(one)))[: len(row) // 2]
                    rows[other] = row = {one: row[one] for one in best}
                row[item] = row.get(item, 0) + round(UNIT * 0.8**distance)
        return rows, counts


def stream(events: int, seed: int = 0, users: int = 12) -> list[Visit]:
    """Visits in event-time order; several of a user at one time, and of several users."""
    rng = random.Random(seed)
    visits: list[Visit] = []
    time_ms = 1_000
    while len(visits) < events:
        time_ms += rng.choice([0, 1, 1_000])
        user = f"user-{rng.randrange(users)}"
        visits += [(time_ms, user, ITEMS[int(rng.paretovariate(0.7)) % len(ITEMS)]) for _ in range(rng.randint(1, 3))]
    return visits


class Live:
    """One partition, batch by batch."""

    def __init__(self, *, drop_seen: bool = False) -> None:
        self.table = LiveCoVisitation()
        self.states: dict[str, UserState] = defaultdict(UserState)
        self.drop_seen = drop_seen
        self.offset = 0

    def batch(self, visits: list[Visit], also: tuple[str, ...] = ()) -> dict[str, list[tuple[str, float, str]]]:
        """The answer of each user of the batch."""
        users = list(dict.fromkeys([user for _, user, _ in visits][::-1] + list(also)))
        events, bounds = list[Event](), [0]
        states = [self.states[user] for user in users]
        around = Visits({0: self.table}, states, drop_seen=self.drop_seen)
        for user in users:
            own = [
                event(self.offset + n, item, time_ms) for n, (time_ms, who, item) in enumerate(visits) if who == user
            ]
            events += sorted(own, key=lambda one: (one.timestamp_ms, one.offset))
            bounds.append(len(events))
        self.offset += len(visits)
        keys = [(0, user.encode()) for user in users]
        companions = around.learned(fresh_by_partition(keys, *folded(states, events, bounds)))
        return {user: companions.of_user(n) for n, user in enumerate(users)}


def cut(visits: list[Visit], rng: random.Random, longest: int) -> list[list[Visit]]:
    batches: list[list[Visit]] = []
    while visits:
        length = rng.randint(1, longest)
        batches.append(visits[:length])
        visits = visits[length:]
    return batches


def same(found: list[tuple[str, float, str]], expected: list[tuple[str, float, str]]) -> bool:
    ids = [item for item, _, _ in found] == [item for item, _, _ in expected]
    shares = [share for _, share, _ in found] == pytest.approx([share for _, share, _ in expected], rel=1e-5)
    return ids and shares and [cause for _, _, cause in found] == [cause for _, _, cause in expected]


@pytest.mark.parametrize("drop_seen", [False, True], ids=["keep", "drop"])
@pytest.mark.parametrize("longest", [1, 40, 700])
def test_every_answer_is_of_what_came_up_to_the_users_last_event(longest: int, drop_seen: bool) -> None:
    rng = random.Random(longest)
    oracle, live = Oracle(), Live(drop_seen=drop_seen)
    answers = 0
    for batch in cut(stream(900 if longest > 1 else 300), rng, longest):
        expected: dict[str, list[tuple[str, float, str]]] = {}
        last = {user: n for n, (_, user, _) in enumerate(batch)}
        for n, (_, user, item) in enumerate(batch):
            oracle.see(user, item)
            if last[user] == n:
                expected[user] = oracle.answer(user, drop_seen=drop_seen)
        found = live.batch(batch)
        assert found.keys() == expected.keys()
        for user, answer in found.items():
            assert same(answer, expected[user]), (user, answer, expected[user])
            answers += bool(answer)
    assert answers > 30
    if longest == 40 and not drop_seen:
        assert live.table.table.used.max() <= limits.covisitation_live_successors_max


def test_a_user_without_a_new_event_is_answered_from_what_came_before_the_batch() -> None:
    visits = stream(300)
    oracle, live = Oracle(), Live()
    live.batch(visits[:200])
    for _, user, item in visits[:200]:
        oracle.see(user, item)
    idle = next(user for _, user, _ in visits if user not in {who for _, who, _ in visits[200:203]})
    expected = oracle.answer(idle)
    assert expected
    assert same(live.batch(visits[200:203], also=(idle,))[idle], expected)


def test_partitions_know_nothing_of_each_other() -> None:
    tables = {0: LiveCoVisitation(), 1: LiveCoVisitation()}
    states = [UserState() for _ in range(2)]
    around = Visits(tables, states, drop_seen=False)
    events = [event(n, item, n) for n, item in enumerate(("x", "y", "x"))]
    new = folded(states, events * 2, [0, 3, 6])
    found = around.learned(fresh_by_partition([(0, b"a"), (1, b"b")], *new))
    assert isinstance(found, BatchCompanions)
    assert found.of_user(0) == found.of_user(1) != []
    again = Visits({0: tables[0], 1: LiveCoVisitation()}, [UserState(), UserState()], drop_seen=False)
    seen = event(0, "x", 9)
    new = folded([UserState(), UserState()], [seen] * 2, [0, 1, 2])
    answer = again.learned(fresh_by_partition([(0, b"c"), (1, b"d")], *new))
    assert answer.of_user(0)
    assert not answer.of_user(1)


def test_a_partition_that_is_full_of_items_gives_up_those_seen_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "covisitation_items_max", 40)
    live = Live()
    counts: dict[str, int] = defaultdict(int)
    for batch in cut(stream(1_500), random.Random(3), 60):
        live.batch(batch)
        for _, _, item in batch:
            counts[item] += 1
        assert len(live.table.item_ids) <= 1 + 40 + ROUND_EVENTS
    assert live.table.generation > 0
    kept = set(live.table.item_ids) - {""}
    assert set(sorted(counts, key=lambda item: -counts[item])[:10]) <= kept
    table = live.table.table
    in_use = np.arange(table.successors_max) < table.used[:, None]
    assert (table.successors[in_use] > 0).all()
    assert (table.successors[in_use] < len(live.table.item_ids)).all()
    assert (table.weights[in_use] > 0).all()
    assert not table.weights[~in_use].any()
    assert not table.used[len(live.table.item_ids) :].any()


class Parts(dict[str, bytes]):
    """What a changelog would hold."""

    def save(self, live: Live) -> int:
        changed = dict(covisitation_parts.changed_parts(live.table))
        self.update(changed)
        return len(changed)


@pytest.mark.parametrize("items_max", [limits.covisitation_items_max, 40])
def test_a_restored_table_goes_on_as_the_saved_one(items_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "covisitation_items_max", items_max)
    monkeypatch.setattr(covisitation_parts, "_PART_SLOTS", 16)
    visits = stream(1_200)
    live, parts = Live(), Parts()
    for n, batch in enumerate(cut(visits[:800], random.Random(1), 90)):
        live.batch(batch)
        if n % 3 == 0:
            parts.save(live)
    parts.save(live)
    assert parts.save(live) == 1  # the head alone: nothing has changed
    other = Live()
    other.table, other.states = covisitation_parts.restore(parts.get), live.states
    assert other.table.events == live.table.events
    assert other.table.item_ids == live.table.item_ids
    histories = {user: state.newest_items(50) for user, state in live.states.items()}
    found = live.batch(visits[800:])
    other.states = defaultdict(UserState)
    for user, history in histories.items():
        fold(other.states[user], [event(n, item, n) for n, item in enumerate(history)], ENCODER)
    other.offset = 10_000
    assert other.batch(visits[800:]) == found


def test_a_part_of_another_generation_or_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covisitation_parts, "_PART_SLOTS", 16)
    live, parts = Live(), Parts()
    live.batch(stream(400))
    live.table.generation = 1
    live.table.changed[:] = True
    old = Parts(parts)
    parts.save(live)
    live.table.generation = 2
    live.table.changed[:] = True
    old.save(live)
    torn = {**old, "1": parts["1"]}
    del torn["2"]
    restored = covisitation_parts.restore(torn.get)
    assert restored.item_ids[:16] == live.table.item_ids[:16]
    assert restored.item_ids[16:48] == [""] * len(restored.item_ids[16:48])
    assert not restored.table.used[16:48].any()
    other = Live()
    other.table = restored
    for answer in other.batch(stream(100, seed=5)).values():
        assert all(item for item, _, _ in answer)


def test_a_save_that_was_cut_off_anywhere_is_restored_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(covisitation_parts, "_PART_SLOTS", 16)
    for seed in range(6):
        visits = stream(600, seed=seed)
        live, parts = Live(), Parts()
        live.batch(visits[:200])
        parts.save(live)
        live.batch(visits[200:400])
        saved = list(covisitation_parts.changed_parts(live.table))
        for kept in range(len(saved) + 1):
            _goes_on({**parts, **dict(saved[:kept])}, visits[400:])
        _goes_on({**parts, **dict(saved[1:])}, visits[400:])  # the head of before, as it was written last once


def _goes_on(parts: dict[str, bytes], visits: list[Visit]) -> None:
    other = Live()
    other.table = covisitation_parts.restore(parts.get)
    table, slots = other.table.table, len(other.table.item_ids)
    in_use = np.arange(table.successors_max) < table.used[:, None]
    assert (table.successors[in_use] < slots).all()
    assert other.table.pending.max(initial=0) < slots
    for answer in other.batch(visits).values():
        assert all(item for item, _, _ in answer)


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", covisitation_parts.msgspec.msgpack.encode([9, 0, 0, 1, b""])])
def test_what_is_no_snapshot_is_refused(value: bytes) -> None:
    with pytest.raises(covisitation_parts.CoVisitationError, match="snapshot"):
        covisitation_parts.restore({"": value}.get)


HEAD: dict[str, object] = {"schema": 1, "generation": 0, "events": 9, "slots": 3, "pending": b"\x01\x00" * (1 + WINDOW)}
PART: dict[str, object] = {
    "schema": 1,
    "generation": 0,
    "item_ids": ["", "a", "b"],
    "counts": bytes(24),
    "used": b"\x00\x01\x01",
    "successors": b"\x02\x00\x01\x00",
    "weights": bytes(16),
}


@pytest.mark.parametrize(
    ("head", "part"),
    [
        ({"slots": 0}, {}),
        ({"slots": 2**62}, {}),
        ({"pending": b"\x01\x00"}, {}),
        ({"pending": b"\x03\x00" * (1 + WINDOW)}, {}),
        ({}, {"item_ids": ["", "a"]}),
        ({}, {"counts": bytes(23)}),
        ({}, {"counts": b"\xff" * 24}),
        ({}, {"used": b"\x00\x02"}),
        ({}, {"used": b"\x00\x00\x41", "successors": bytes(130), "weights": bytes(8 * 65)}),
        ({}, {"successors": b"\x02\x00"}),
        ({}, {"weights": bytes(8)}),
        ({}, {"weights": b"\xff" * 16}),
    ],
)
def test_a_snapshot_that_does_not_fit_together_is_refused(head: dict[str, object], part: dict[str, object]) -> None:
    encode = covisitation_parts.msgspec.msgpack.encode
    good = {"": encode([*HEAD.values()]), "0": encode([*PART.values()])}
    assert covisitation_parts.restore(good.get).item_ids == ["", "a", "b"]
    forged = {"": encode([*(HEAD | head).values()]), "0": encode([*(PART | part).values()])}
    with pytest.raises(covisitation_parts.CoVisitationError, match="fit together"):
        covisitation_parts.restore(forged.get)


def test_a_part_of_the_longest_ids_fits_a_produce_batch() -> None:
    live = LiveCoVisitation()
    live.admit([f"{n}".rjust(limits.id_bytes_max, "i") for n in range(1_000)])
    live.table.used[:], live.table.weights[:], live.table.successors[:] = live.table.successors_max, 2**60, 65_535
    sizes = [len(value) for _, value in covisitation_parts.changed_parts(live)]
    assert max(sizes) < limits.produce_batch_bytes_max
    assert max(sizes) > 100_000


def test_the_numbers_fit_each_other() -> None:
    slots = limits.covisitation_items_max + ROUND_EVENTS + limits.batch_events_max + limits.chunk_records_max
    assert slots < 2**16
    candidates = live_covisitation.WINDOW_EVENTS * 8 + live_covisitation._PENDING_MAX
    assert candidates <= live_covisitation._PLACES_MAX
