"""fold against an oracle in plain Python: any order, any batches, crashes and replays."""

from array import array
from collections.abc import Sequence
from itertools import compress, pairwise
from typing import Any, NamedTuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from operators import limits
from operators.columns import Columns
from operators.events import Event
from operators.fold import FoldedBatch, fold, fold_all, fresh_events
from operators.interest import OUT_OF_VOCABULARY, Job, refresh
from operators.state import UserState, decode, encode
from tests.fakes import FakeEncoder, event, fresh_count, full_pass, items
from tests.oracle import OracleEvent, OracleUser

FIRST = FakeEncoder(items(8))
SECOND = FakeEncoder(items(5), seed=11, version="fake-2")
ITEMS = [*items(8), "unheard-of", "neither"]


class Drawn(NamedTuple):
    """An event before it has an offset."""

    type: int
    item: str
    wait_ms: int
    id: str | None


DRAWN = st.builds(
    Drawn,
    st.integers(0, 2),
    st.sampled_from(ITEMS),
    st.sampled_from([0, 0, 1, 999, 1_000, 40_000, 10**8]),
    st.none() | st.sampled_from([f"e-{n}" for n in range(40)]),
)
ARRIVALS = st.lists(DRAWN, max_size=40) | st.lists(DRAWN, min_size=45, max_size=130)


def stream(drawn: Sequence[Drawn], backwards: Sequence[int] = ()) -> list[OracleEvent]:
    """Events in arrival order; those at ``backwards`` have an event time earlier than their neighbours'.

    Where none is, the order of events of one millisecond is that of their topics, as within a batch: across
    topics, nothing else could tell which was first.
    """
    now_ms, offsets, events = 10**12, [0, 0, 0], list[OracleEvent]()
    for n, one in enumerate(drawn):
        tie_breaker_ms = int(not backwards and n > 0 and one.type < drawn[n - 1].type)
        now_ms += one.wait_ms or tie_breaker_ms
        time_ms = now_ms - 50_000_000 * (n % 5 + 1) if n in backwards else now_ms
        events.append(OracleEvent(one.type, offsets[one.type], one.item, time_ms, one.id))
        offsets[one.type] += 1 + n % 3  # other users' events lie between
    return events


def as_event(one: OracleEvent) -> Event:
    return event(one.offset, one.item, one.time_ms, event_type=one.type, event_id=one.id)


class Worker:
    """Folds batches, with its state through the codec after every one, as the store has it."""

    def __init__(self) -> None:
        self.value = encode(UserState())
        self.folded = self.duplicates = self.late = 0

    @property
    def state(self) -> UserState:
        return decode(self.value)

    def apply(self, batch: Sequence[OracleEvent], encoder: FakeEncoder) -> None:
        state = self.state
        outcome = fold(state, [as_event(one) for one in batch], encoder)
        if outcome.job is not None:
            hidden, vectors = refresh(encoder, [outcome.job])
            state.hidden, state.vector = hidden[0].copy(), vectors[0].copy()
        assert fresh_count(outcome) + outcome.duplicates + outcome.late == len(batch)
        self.folded += fresh_count(outcome)
        self.duplicates += outcome.duplicates
        self.late += outcome.late
        self.value = encode(state)


def assert_equal(worker: Worker, oracle: OracleUser, encoder: FakeEncoder) -> None:
    state = worker.state
    history = list(zip(state.history_items, state.history_types, state.history_times_ms, strict=True))
    assert history == [one.step for one in oracle.history]
    assert state.fences == [oracle.fences.get(kind, 0) for kind in range(4)]
    assert (state.events_count, state.late_count) == (oracle.folded, oracle.late)
    assert (worker.folded, worker.duplicates, worker.late) == (oracle.folded, oracle.duplicates, oracle.late)
    assert state.model_version == oracle.model
    if not oracle.history:
        assert state.hidden is None
        return
    unknown = sum(encoder.row_of(item) == OUT_OF_VOCABULARY for item, _, _ in oracle.steps)
    assert (state.known_count, state.unknown_count) == (len(oracle.steps) - unknown, unknown)
    assert state.hidden is not None
    assert state.vector is not None
    hidden, vector = full_pass(encoder, oracle.steps)
    np.testing.assert_allclose(state.hidden, hidden, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(state.vector, vector, atol=1e-5)


def cut(events: Sequence[OracleEvent], data: st.DataObject) -> list[list[OracleEvent]]:
    """The events in batches of any sizes."""
    places = data.draw(st.lists(st.integers(0, len(events)), max_size=6))
    return [list(events[a:b]) for a, b in pairwise([0, *sorted(places), len(events)]) if a < b]


def drawn_backwards(data: st.DataObject, count: int) -> list[int]:
    return data.draw(st.lists(st.integers(0, max(count - 1, 0)), max_size=6, unique=True))


@given(ARRIVALS, st.data())
def test_equals_the_oracle_in_any_order_and_batches(drawn: list[Drawn], data: st.DataObject) -> None:
    worker, oracle = Worker(), OracleUser()
    for batch in cut(stream(drawn, drawn_backwards(data, len(drawn))), data):
        worker.apply(batch, FIRST)
        oracle.apply(batch, FIRST.version)
        assert_equal(worker, oracle, FIRST)


@given(ARRIVALS, st.data())
def test_crashes_and_replays_equal_the_oracle(drawn: list[Drawn], data: st.DataObject) -> None:
    events = stream(drawn, drawn_backwards(data, len(drawn)))
    worker, oracle = Worker(), OracleUser()
    read = stored = 0
    for _ in range(data.draw(st.integers(1, 8))):
        following = data.draw(st.integers(read, len(events)))
        before, value_before = oracle.copy(), worker.value
        worker.apply(events[read:following], FIRST)
        oracle.apply(events[read:following], FIRST.version)
        read = following
        end = data.draw(st.sampled_from(["settled", "killed before storing", "killed before acknowledging"]))
        if end == "killed before storing":
            worker.value, oracle = value_before, before
            worker.folded, worker.duplicates, worker.late = oracle.folded, oracle.duplicates, oracle.late
            read = data.draw(st.integers(0, stored))
        else:
            stored = read
            if end == "killed before acknowledging":
                read = data.draw(st.integers(0, stored))
        assert_equal(worker, oracle, FIRST)


@settings(max_examples=100)
@given(ARRIVALS, st.data())
def test_an_event_is_folded_once_whatever_is_replayed(drawn: list[Drawn], data: st.DataObject) -> None:
    events = [one._replace(id=None) for one in drawn]
    straight, replayed = Worker(), Worker()
    arrived = stream(events)
    straight.apply(arrived, FIRST)
    for batch in cut(arrived, data):
        end = arrived.index(batch[-1]) + 1
        replayed.apply(batch, FIRST)
        again_from = data.draw(st.integers(0, end))
        replayed.apply(arrived[again_from:end], FIRST)
    assert replayed.folded == len(arrived)
    assert replayed.value == straight.value


@given(ARRIVALS, st.data())
def test_batches_do_not_change_the_state_of_a_stream_in_order(drawn: list[Drawn], data: st.DataObject) -> None:
    arrived = stream(drawn)
    at_once, in_batches, one_by_one = Worker(), Worker(), Worker()
    at_once.apply(arrived, FIRST)
    for batch in cut(arrived, data):
        in_batches.apply(batch, FIRST)
    for one in arrived:
        one_by_one.apply([one], FIRST)
    assert at_once.value == in_batches.value == one_by_one.value


@given(ARRIVALS, st.data())
def test_models_are_never_mixed(drawn: list[Drawn], data: st.DataObject) -> None:
    worker, oracle = Worker(), OracleUser()
    for batch in cut(stream(drawn, drawn_backwards(data, len(drawn))), data):
        encoder = data.draw(st.sampled_from([FIRST, SECOND]))
        worker.apply(batch, encoder)
        oracle.apply(batch, encoder.version)
        assert_equal(worker, oracle, encoder)


def of_job(job: Job | None) -> list[Any]:
    """Recurrent state and steps as lists."""
    if job is None:
        return []
    return [np.zeros(FIRST.hidden_width).tolist() if job.hidden is None else job.hidden.tolist(), *_lists(job[1:])]


def of_steps(folded: FoldedBatch, user: int) -> list[Any]:
    """The same of one user of a batch."""
    if user not in folded.owed:
        return []
    at = folded.owed.index(user)
    hidden, *columns, ends, _ = folded.steps
    part = slice(ends[at - 1] if at else 0, ends[at])
    return [hidden[at].tolist(), *_lists([column[part] for column in columns])]


def _lists(columns: Sequence[NDArray[np.int64]]) -> list[list[int]]:
    return [column.tolist() for column in columns]


def looked_up(state: UserState) -> UserState:
    """The state after a list was made of it: the rows of its items are known."""
    known = {encoder.version: encoder for encoder in (FIRST, SECOND)}.get(state.model_version)
    state.rows = None if known is None else array("q", known.rows_of(state.history_items).tobytes())
    return state


def test_rows_that_were_looked_up_follow_a_history_that_grows_beyond_its_bound() -> None:
    state = UserState()
    for start in (0, 30, 60):
        items = [f"item-{n}" for n in range(start, start + 30)]
        columns = Columns.of([event(n, item, 10**12 + n) for n, item in enumerate(items, start)])
        fold_all([state], columns, [0, 30], FIRST)
        assert state.rows is None or state.rows.tolist() == FIRST.rows_of(state.history_items).tolist()
        if start == 0:
            state = looked_up(state)
    assert state.rows is not None
    assert len(state.rows) == limits.history_events_max


@settings(max_examples=200)
@given(st.lists(ARRIVALS.filter(bool), min_size=1, max_size=5), st.data())
def test_a_batch_of_users_is_folded_as_its_users_one_by_one(drawn: list[list[Drawn]], data: st.DataObject) -> None:
    arrived = [stream(of_user, drawn_backwards(data, len(of_user))) for of_user in drawn]
    rounds = [cut(of_user, data) for of_user in arrived]
    alone, together = [Worker() for _ in drawn], [Worker() for _ in drawn]
    for n in range(max(map(len, rounds))):
        encoder = data.draw(st.sampled_from([FIRST, FIRST, FIRST, SECOND]))
        present = [user for user, batches in enumerate(rounds) if n < len(batches)]
        replays = data.draw(st.sampled_from([False, False, True]))
        batches = [rounds[user][n] + (rounds[user][n - 1] if replays else []) for user in present]
        events = [sorted(map(as_event, batch), key=lambda e: (e.timestamp_ms, e.type, e.offset)) for batch in batches]
        # Users without events come last: whom an erasure leaves some, or another model.
        users = [
            *present,
            *data.draw(st.sampled_from([[], [user for user in range(len(drawn)) if user not in present]])),
        ]
        events += [[]] * (len(users) - len(present))
        bounds = np.cumsum([0, *map(len, events)]).tolist()
        states = [looked_up(together[user].state) for user in users]
        for user, state in zip(users, states, strict=True):
            state.kept = 0 if state.hidden is None else 1 + user
        came = [one for of_user in events for one in of_user]
        columns = Columns.of(came)
        folded = fold_all(states, columns, bounds, encoder)
        fresh, lengths = fresh_events(folded, columns, bounds)
        one_by_one = [alone[user].state for user in users]
        outcomes = [fold(expected, of_user, encoder) for expected, of_user in zip(one_by_one, events, strict=True)]
        assert lengths.tolist() == [fresh_count(outcome) for outcome in outcomes]
        assert folded.is_fresh.tolist() == [is_fresh for outcome in outcomes for is_fresh in outcome.is_fresh]
        assert [fresh.event(at) for at in range(fresh.size)] == list(compress(came, folded.is_fresh.tolist()))
        assert folded[3:] == tuple(sum(outcome[at] for outcome in outcomes) for at in range(2, 6))
        assert [of_steps(folded, place) for place in range(len(users))] == [of_job(outcome.job) for outcome in outcomes]
        jobs = [outcomes[place].job for place in folded.owed]
        assert folded.steps.kept is not None
        assert folded.steps.kept.tolist() == [
            0 if job is None or job.hidden is None else 1 + users[place]
            for place, job in zip(folded.owed, jobs, strict=True)
        ]
        if folded.owed:
            hidden, vectors = encoder.advance(folded.steps)
            for at, place in enumerate(folded.owed):
                states[place].hidden, states[place].vector = hidden[at].copy(), vectors[at].copy()
        for user, expected, state in zip(users, one_by_one, states, strict=True):
            assert state.rows is None or state.rows.tolist() == encoder.rows_of(state.history_items).tolist()
            expected.hidden, expected.vector = state.hidden, state.vector
            alone[user].value, together[user].value = encode(expected), encode(state)
            assert together[user].value == alone[user].value
