"""fold(state, events): the only way a user's state changes."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.columns import Columns
from operators.events import Event
from operators.interest import NO_GAP_MS, OUT_OF_VOCABULARY, Encoder, Job, gap_buckets
from operators.kernels import any_known
from operators.state import Past, UserState

__all__ = ["Folded", "fold", "fold_all", "fresh_events"]


class Folded(NamedTuple):
    """What one user's events of one batch did."""

    job: Job | None
    """Steps the encoder owes this user; None where the interest vector stands."""
    fresh: Columns | None
    """The events that entered the history, in event-time order; None where all did."""
    duplicates: int
    late: int
    unknown: int
    """Fresh events whose item the model does not know."""
    erased: int = 0
    """Events refused because the user was erased after them."""


def fold_all(states: Sequence[UserState], events: Columns, bounds: Sequence[int], encoder: Encoder) -> list[Folded]:
    """``fold`` of every user of a batch.

    Users whose events are all new and newer than their history, nearly all, are folded by whole columns.

    Args:
        events: user by user, each user's in event-time order.
        bounds: the events of user n are those from ``bounds[n]`` up to ``bounds[n + 1]``; each user has some.
    """
    if not states:
        return []
    in_order = _InOrder(states, events, bounds, encoder)
    return [
        in_order.fold(n) if plain else fold(state, [events.event(at) for at in range(*bounds[n : n + 2])], encoder)
        for n, (state, plain) in enumerate(zip(states, in_order.holds(), strict=True))
    ]


def fresh_events(folded: Sequence[Folded], events: Columns, bounds: Sequence[int]) -> tuple[Columns, NDArray[np.int64]]:
    """The events that entered the histories, user by user, and how many of each user.

    Args:
        events, bounds: as of ``fold_all``; of users beyond them no event came.
    """
    if len(folded) < len(bounds) and all(outcome.fresh is None for outcome in folded):
        return events, np.diff(bounds)
    parts = [
        events.part(*bounds[n : n + 2]) if outcome.fresh is None else outcome.fresh for n, outcome in enumerate(folded)
    ]
    return Columns.joined(parts), np.array([part.size for part in parts], np.int64)


class _InOrder:
    """A batch as columns of what ``fold`` would come to if every event were new and newer than its history."""

    def __init__(self, states: Sequence[UserState], events: Columns, bounds: Sequence[int], encoder: Encoder) -> None:
        self._states, self._events, self._bounds, self._version = states, events, bounds, encoder.version
        self._starts = np.array(bounds[:-1], np.int64)
        self._user_of = np.repeat(np.arange(len(states)), np.diff(bounds))
        self._newest_ms = np.array([state.times_ms[-1] if state.types else -1 for state in states], np.int64)
        self._fences = np.array([state.fences for state in states], np.int64)
        following = self._fences.copy()
        np.maximum.at(following, (self._user_of, events.types), events.offsets + 1)
        self._following: list[list[int]] = following.tolist()
        self._rows = encoder.rows_of(events.item_ids)
        self._past = Past.of(events, self._rows)
        self._unknown: list[int] = np.add.reduceat(self._rows == OUT_OF_VOCABULARY, self._starts, dtype=int).tolist()
        self._gaps = self._gap_buckets()

    def _gap_buckets(self) -> NDArray[np.int64]:
        times_ms = self._events.times_ms
        gaps_ms = np.empty_like(times_ms)
        gaps_ms[1:] = times_ms[1:] - times_ms[:-1]
        gaps_ms[self._starts] = np.where(self._newest_ms < 0, NO_GAP_MS, times_ms[self._starts] - self._newest_ms)
        return gap_buckets(gaps_ms)

    def holds(self) -> list[bool]:
        """For each user, whether every event is indeed new, newer than the history, and of the history's model."""
        known = np.logical_or.reduceat(
            self._events.offsets < self._fences[self._user_of, self._events.types], self._starts
        )
        oldest_ms = self._events.times_ms[self._starts]
        erased_ms = np.array([state.erased_until_ms for state in self._states], np.int64)
        older = (oldest_ms < self._newest_ms) | (oldest_ms <= erased_ms)
        return [
            new and not recurs and (not state.types or state.model_version == self._version)
            for new, recurs, state in zip(
                (~(known | older)).tolist(),
                _ids_recur(self._states, self._events.fingerprints, self._bounds),
                self._states,
                strict=True,
            )
        ]

    def fold(self, n: int) -> Folded:
        """Apply user n's events to the state."""
        state, unknown, start, end = self._states[n], self._unknown[n], self._bounds[n], self._bounds[n + 1]
        state.extend(self._past, start, end)
        state.fences = self._following[n]
        state.events_count += end - start
        state.known_count += end - start - unknown
        state.unknown_count += unknown
        state.model_version = self._version
        part = slice(start, end)
        job = Job(state.hidden, self._rows[part], self._events.types[part], self._gaps[part])
        return Folded(job, None, 0, 0, unknown)


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
    fresh, inserted, duplicates, late, erased = _sift(state, events, newest_ms)
    new = Columns.of(fresh)
    in_order = new.part(inserted, new.size)
    state.extend(Past.of(in_order))
    state.events_count += len(fresh)
    state.late_count += late
    anew = bool(inserted) or stored is not None
    steps = _Steps.of(state) if inserted else (stored or _Steps([], [], [])).followed_by(in_order)
    job = steps.job(encoder, None if anew else state.hidden, None if anew else newest_ms)
    if job is not None:
        _note_steps(state, job, anew=anew)
        state.model_version = encoder.version
    unknown = int(np.count_nonzero(encoder.rows_of(new.item_ids) == OUT_OF_VOCABULARY))
    return Folded(job, new, duplicates, late, unknown, erased)


def _sift(state: UserState, events: Sequence[Event], newest_ms: int | None) -> tuple[list[Event], int, int, int, int]:
    """Moves the fences, puts what is older than ``newest_ms`` in its place, and leaves the rest to be appended.

    Returns the fresh events in event-time order, how many of them (the first ones) were inserted, and the numbers
    of duplicates, of late ones and of those that an erasure covers.
    """
    fences, known = state.fences, tuple(state.fences)
    fingerprints = np.array([event.fingerprint for event in events], np.uint64)
    places = _Places(state) if _ids_recur([state], fingerprints, [0, len(events)])[0] else None
    fresh: list[Event] = []
    inserted = duplicates = late = erased = 0
    for event in events:
        source, offset, fingerprint = event.type, event.offset, event.fingerprint
        if offset >= fences[source]:
            fences[source] = offset + 1
        if offset < known[source] or (places is not None and places.has(fingerprint)):
            duplicates += 1
        elif event.timestamp_ms <= state.erased_until_ms:
            erased += 1
        elif newest_ms is None or event.timestamp_ms >= newest_ms:
            fresh.append(event)
            if places is not None:
                places.add(fingerprint)
        elif event.timestamp_ms < state.times_ms[0] and len(state.types) >= limits.history_events_max:
            late += 1
        else:
            place = bisect_right(state.times_ms, event.timestamp_ms)
            state.insert(place, event)
            places = _Places(state) if places is not None else None
            fresh.append(event)
            inserted += 1
    return fresh, inserted, duplicates, late, erased


def _ids_recur(states: Sequence[UserState], fingerprints: NDArray[np.uint64], bounds: Sequence[int]) -> list[bool]:
    """For each user, whether an event id stands twice in history and batch; nearly always not."""
    known = np.empty(len(states), np.uint8)
    any_known(fingerprints, np.array(bounds, np.int64), [state.fingerprints for state in states], known)
    return known.astype(np.bool_).tolist()


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
