"""fold(state, events): the only way a user's state changes."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.columns import Columns
from operators.events import Event
from operators.histories import any_known, extend_histories
from operators.interest import NO_GAP_MS, OUT_OF_VOCABULARY, Encoder, Job, PackedJobs, gap_buckets, stacked
from operators.state import SOURCE_SLOTS, Past, UserState

__all__ = ["Folded", "FoldedBatch", "fold", "fold_all", "fresh_events"]


class Folded(NamedTuple):
    """What one user's events of one batch did."""

    job: Job | None
    """Steps the encoder owes this user; None where the interest vector stands."""
    is_fresh: list[bool]
    """Of each event in event-time order: whether it entered the history."""
    duplicates: int
    late: int
    unknown: int
    """Fresh events whose item the model does not know."""
    erased: int
    """Events refused because the user was erased after them."""


class FoldedBatch(NamedTuple):
    """What the events of a batch did."""

    owed: list[int]
    """Places of the users to whom the encoder owes steps."""
    steps: PackedJobs
    """Those steps."""
    is_fresh: NDArray[np.bool_]
    """(E,) whether the event entered a history."""
    duplicates: int
    late: int
    unknown: int
    erased: int
    """As in ``Folded``."""


def fold_all(states: Sequence[UserState], events: Columns, bounds: Sequence[int], encoder: Encoder) -> FoldedBatch:
    """``fold`` of every user of a batch.

    Users whose events are all new and newer than their history, nearly all, are folded by whole columns.

    Args:
        events: user by user, each user's in event-time order.
        bounds: the events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``; users without any are last.
    """
    users = bisect_left(bounds, events.size)
    in_order = _InOrder(list(states[:users]), events, bounds[: users + 1], encoder)
    holds = in_order.holds()
    in_order.fold(holds)
    others = {
        n: fold(states[n], [events.event(at) for at in range(*bounds[n : n + 2])], encoder)
        for n in (*np.flatnonzero(~holds).tolist(), *range(users, len(states)))
    }
    is_fresh = np.ones(events.size, np.bool_)
    for n, outcome in others.items():
        is_fresh[bounds[n] : bounds[n + 1]] = outcome.is_fresh
    outcomes = others.values()
    return FoldedBatch(
        *_owed_steps(states, in_order.inputs, bounds, others, encoder.hidden_width),
        is_fresh,
        sum(outcome.duplicates for outcome in outcomes),
        sum(outcome.late for outcome in outcomes),
        int(in_order.unknown[holds].sum()) + sum(outcome.unknown for outcome in outcomes),
        sum(outcome.erased for outcome in outcomes),
    )


def _owed_steps(
    states: Sequence[UserState],
    inputs: Sequence[NDArray[np.int64]],
    bounds: Sequence[int],
    others: Mapping[int, Folded],
    hidden_width: int,
) -> tuple[list[int], PackedJobs]:
    """Who is owed steps, and those: the batch's inputs, with the job of each of the others in the place of its part."""
    lengths = np.diff(bounds)
    hidden, kept = [state.hidden for state in states], [state.kept for state in states]
    pieces: list[Sequence[NDArray[np.int64]]] = []
    at = 0
    for n, (job, *_) in others.items():
        pieces.append([column[at : bounds[n]] for column in inputs])
        at = bounds[n + 1]
        lengths[n] = 0 if job is None else len(job.rows)
        if job is not None:
            hidden[n] = job.hidden
            kept[n] = 0 if job.hidden is None else kept[n]
            pieces.append(job[1:])
    pieces.append([column[at:] for column in inputs])
    rows, types, gaps = (np.concatenate(column) for column in zip(*pieces, strict=True))
    owed: list[int] = np.flatnonzero(lengths).tolist()
    before = stacked([hidden[n] for n in owed], hidden_width)
    kept_of_owed = np.array([kept[n] for n in owed], np.int64)
    return owed, PackedJobs(before, rows, types, gaps, np.cumsum(lengths[owed]), kept_of_owed)


def fresh_events(folded: FoldedBatch, events: Columns, bounds: Sequence[int]) -> tuple[Columns, NDArray[np.int64]]:
    """The events that entered the histories, user by user, and how many of each user."""
    if folded.is_fresh.all():
        return events, np.diff(bounds)
    before = np.concatenate([[0], np.cumsum(folded.is_fresh)])
    return events.in_order(np.flatnonzero(folded.is_fresh)), np.diff(before[bounds])


class _InOrder:
    """A batch as columns of what ``fold`` would come to if every event were new and newer than its history."""

    def __init__(self, states: list[UserState], events: Columns, bounds: Sequence[int], encoder: Encoder) -> None:
        self._states, self._events, self._version = states, events, encoder.version
        self._bounds = np.array(bounds, np.int64)
        self._starts = self._bounds[:-1]
        self._user_of = np.repeat(np.arange(len(states)), np.diff(bounds))
        self._newest_ms = np.array([state.times_ms[-1] if state.types else -1 for state in states], np.int64)
        self._fences = np.array([state.fences for state in states], np.int64).reshape(-1, SOURCE_SLOTS)
        rows = encoder.rows_of(events.item_ids)
        self._past = Past.of(events, rows)
        self.unknown = np.add.reduceat(rows == OUT_OF_VOCABULARY, self._starts, dtype=np.int64)
        """(U,) events of each user whose item the model does not know."""
        self.inputs = rows, events.types, self._gap_buckets()
        """(E,) the encoder's of each event, in the order of ``Job``."""

    def _gap_buckets(self) -> NDArray[np.int64]:
        times_ms = self._events.times_ms
        gaps_ms = np.empty_like(times_ms)
        gaps_ms[1:] = times_ms[1:] - times_ms[:-1]
        gaps_ms[self._starts] = np.where(self._newest_ms < 0, NO_GAP_MS, times_ms[self._starts] - self._newest_ms)
        return gap_buckets(gaps_ms)

    def holds(self) -> NDArray[np.bool_]:
        """(U,) whether every event is indeed new, newer than the history, and of the history's model."""
        known = np.logical_or.reduceat(
            self._events.offsets < self._fences[self._user_of, self._events.types], self._starts
        )
        oldest_ms = self._events.times_ms[self._starts]
        erased_ms = np.array([state.erased_until_ms for state in self._states], np.int64)
        older = (oldest_ms < self._newest_ms) | (oldest_ms <= erased_ms)
        version = self._version
        same_model = np.array([state.model_version == version or not state.types for state in self._states], np.bool_)
        return ~known & ~older & ~_ids_recur(self._states, self._events.fingerprints, self._bounds) & same_model

    def fold(self, wanted: NDArray[np.bool_]) -> None:
        """Apply the events of the users (U,) that are wanted to their states."""
        extend_histories(self._states, self._past, self._bounds, wanted.astype(np.uint8), limits.history_events_max)
        following = self._fences.copy()
        np.maximum.at(following, (self._user_of, self._events.types), self._events.offsets + 1)
        counts = np.diff(self._bounds)
        changes = zip(
            self._states,
            following.tolist(),
            counts.tolist(),
            (counts - self.unknown).tolist(),
            self.unknown.tolist(),
            wanted.tolist(),
            strict=True,
        )
        for state, fences, events, known, unknown, is_wanted in changes:
            if is_wanted:
                state.fences = fences
                state.events_count += events
                state.known_count += known
                state.unknown_count += unknown
                state.model_version = self._version


def fold(state: UserState, events: Sequence[Event], encoder: Encoder) -> Folded:
    """Apply one user's events of a batch to the user's state, in event-time order.

    An event below the fence of its source, or with the event id of one in the history, is a duplicate. One
    that is older than the newest in the history goes to its place there and the history is encoded anew; one
    that is older than a full history is late: counted, not folded; one that an erasure covers is refused.
    Fences move past every event. A state of another model version is encoded anew from its history.

    The recurrent state is then that of a pass over the whole history since the last such encoding.
    """
    if len(events) > 1:
        events = sorted(events, key=_event_time_order)
    stored = _Steps.of(state) if state.model_version != encoder.version else None
    if stored is not None:
        state.rows = None
    newest_ms = state.times_ms[-1] if state.times_ms else None
    is_fresh, inserted, duplicates, late, erased = _sift(state, events, newest_ms)
    new = Columns.of([event for event, is_new in zip(events, is_fresh, strict=True) if is_new])
    in_order = new.part(inserted, new.size)
    state.extend(Past.of(in_order))
    state.events_count += new.size
    state.late_count += late
    anew = bool(inserted) or stored is not None
    steps = _Steps.of(state) if inserted else (stored or _Steps([], [], [])).followed_by(in_order)
    job = steps.job(encoder, None if anew else state.hidden, None if anew else newest_ms)
    if job is not None:
        _note_steps(state, job, anew=anew)
        state.model_version = encoder.version
    unknown = int(np.count_nonzero(encoder.rows_of(new.item_ids) == OUT_OF_VOCABULARY))
    return Folded(job, is_fresh, duplicates, late, unknown, erased)


def _sift(state: UserState, events: Sequence[Event], newest_ms: int | None) -> tuple[list[bool], int, int, int, int]:
    """Moves the fences, puts what is older than ``newest_ms`` in its place, and leaves the rest to be appended.

    Returns which events are fresh, how many of those (the first ones) were inserted, and the numbers of duplicates,
    of late ones and of those that an erasure covers.
    """
    fences, known = state.fences, tuple(state.fences)
    fingerprints = np.array([event.fingerprint for event in events], np.uint64)
    places = _Places(state) if _ids_recur([state], fingerprints, np.array([0, len(events)]))[0] else None
    is_fresh: list[bool] = []
    inserted = duplicates = late = erased = 0
    for event in events:
        source, offset, fingerprint = event.type, event.offset, event.fingerprint
        if offset >= fences[source]:
            fences[source] = offset + 1
        is_fresh.append(False)
        if offset < known[source] or (places is not None and places.has(fingerprint)):
            duplicates += 1
        elif event.timestamp_ms <= state.erased_until_ms:
            erased += 1
        elif newest_ms is None or event.timestamp_ms >= newest_ms:
            is_fresh[-1] = True
            if places is not None:
                places.add(fingerprint)
        elif event.timestamp_ms < state.times_ms[0] and len(state.types) >= limits.history_events_max:
            late += 1
        else:
            place = bisect_right(state.times_ms, event.timestamp_ms)
            state.insert(place, event)
            places = _Places(state) if places is not None else None
            is_fresh[-1] = True
            inserted += 1
    return is_fresh, inserted, duplicates, late, erased


def _ids_recur(
    states: Sequence[UserState], fingerprints: NDArray[np.uint64], bounds: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """For each user, whether an event id stands twice in history and batch; nearly always not."""
    known = np.empty(len(states), np.uint8)
    any_known(fingerprints, bounds, [state.fingerprints for state in states], known)
    return known.astype(np.bool_)


class _Places:
    """Where each event id stands in the history, those of the batch counted behind it.

    An event that leaves a full history is forgotten, whether the others came in one batch or in many.
    """

    def __init__(self, state: UserState) -> None:
        self._place_of = {fingerprint: place for place, fingerprint in enumerate(state.fingerprints)}
        self._count = len(state.fingerprints)

    def has(self, fingerprint: int) -> bool:
        place = self._place_of.get(fingerprint) if fingerprint else None
        return place is not None and place >= self._count - limits.history_events_max

    def add(self, fingerprint: int) -> None:
        self._place_of[fingerprint] = self._count
        self._count += 1


class _Steps(NamedTuple):
    """Parallel lists of items, types and times, in event-time order."""

    items: list[str]
    types: list[int]
    times_ms: list[int]

    @classmethod
    def of(cls, state: UserState) -> "_Steps":
        return cls(state.history_items, state.history_types, state.history_times_ms)

    def followed_by(self, events: Columns) -> "_Steps":
        return _Steps(
            [*self.items, *events.item_ids],
            [*self.types, *events.types.tolist()],
            [*self.times_ms, *events.times_ms.tolist()],
        )

    def job(self, encoder: Encoder, hidden: NDArray[np.float32] | None, previous_ms: int | None) -> Job | None:
        """The steps on from ``hidden``, whose last event was at ``previous_ms``; None where there are no steps."""
        if not self.items:
            return None
        gaps_ms = np.diff(np.array(self.times_ms, np.int64), prepend=previous_ms or 0)
        if previous_ms is None:
            gaps_ms[0] = NO_GAP_MS
        rows = encoder.rows_of(self.items)
        return Job(hidden, rows, np.array(self.types, np.int64), gap_buckets(gaps_ms))


def _event_time_order(event: Event) -> tuple[int, int, int]:
    return event.timestamp_ms, event.type, event.offset


def _note_steps(state: UserState, job: Job, *, anew: bool) -> None:
    unknown = int(np.count_nonzero(job.rows == OUT_OF_VOCABULARY))
    known = len(job.rows) - unknown
    state.known_count = known if anew else state.known_count + known
    state.unknown_count = unknown if anew else state.unknown_count + unknown
