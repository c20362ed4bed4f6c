"""fold(state, events): the only way a user's state changes."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.events import Event
from operators.interest import OUT_OF_VOCABULARY, Encoder, Job, gap_bucket
from operators.state import UserState

__all__ = ["Folded", "fold"]


class Folded(NamedTuple):
    """What one user's events of one batch did."""

    job: Job | None
    """Steps the encoder owes this user; None where the interest vector stands."""
    fresh: list[Event]
    """Events that entered the history, in event-time order."""
    duplicates: int
    late: int
    unknown: int
    """Fresh events whose item the model does not know."""


def fold(state: UserState, events: Sequence[Event], encoder: Encoder) -> Folded:
    """Apply one user's events of a batch to the user's state, in event-time order.

    An event below the fence of its source, or with the event id of one in the history, is a duplicate. One
    that is older than the newest in the history goes to its place there and the history is encoded anew; one
    that is older than a full history is late: counted, not folded. Fences move past every event. A state of
    another model version is encoded anew from its history.

    The recurrent state is then that of a pass over the whole history since the last such encoding.
    """
    if len(events) > 1:
        events = sorted(events, key=_event_time_order)
    stored = _Steps.of(state) if state.model_version != encoder.version else None
    newest_ms = state.times_ms[-1] if state.times_ms else None
    fresh, inserted, duplicates, late = _sift(state, events, newest_ms)
    in_order = fresh[inserted:]
    state.extend(in_order)
    state.events_count += len(fresh)
    state.late_count += late
    rows = encoder.rows_of([event.item_id for event in fresh])
    if inserted:
        job = _Steps.of(state).job(None, None, encoder)
    elif stored is not None:
        job = stored.followed_by(in_order).job(None, None, encoder)
    else:
        job = _tail_job(state, fresh, rows, newest_ms)
    if job is not None:
        _note_steps(state, job, anew=bool(inserted) or stored is not None)
        state.model_version = encoder.version
    return Folded(job, fresh, duplicates, late, rows.count(OUT_OF_VOCABULARY))


def _sift(state: UserState, events: Sequence[Event], newest_ms: int | None) -> tuple[list[Event], int, int, int]:
    """Moves the fences, puts what is older than ``newest_ms`` in its place, and leaves the rest to be appended.

    Returns the fresh events in event-time order, how many of them (the first ones) were inserted, and the numbers
    of duplicates and of late ones.
    """
    fences, known = state.fences, tuple(state.fences)
    places = _Places(state) if _ids_recur(state, events) else None
    fresh: list[Event] = []
    inserted = duplicates = late = 0
    for event in events:
        source, offset, fingerprint = event.type, event.offset, event.fingerprint
        if offset >= fences[source]:
            fences[source] = offset + 1
        if offset < known[source] or (places is not None and places.has(fingerprint)):
            duplicates += 1
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
    return fresh, inserted, duplicates, late


def _ids_recur(state: UserState, events: Sequence[Event]) -> bool:
    """Whether an event id stands twice in history and batch; nearly always not, and then none needs a look-up."""
    fingerprints = [event.fingerprint for event in events if event.fingerprint]
    distinct = set(fingerprints)
    return len(distinct) < len(fingerprints) or not distinct.isdisjoint(state.fingerprints)


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

    def followed_by(self, events: Sequence[Event]) -> "_Steps":
        return _Steps(
            [*self.items, *(event.item_id for event in events)],
            [*self.types, *(event.type for event in events)],
            [*self.times_ms, *(event.timestamp_ms for event in events)],
        )

    def job(self, hidden: NDArray[np.float32] | None, previous_ms: int | None, encoder: Encoder) -> Job | None:
        if not self.items:
            return None
        rows = encoder.rows_of(self.items)
        return Job(hidden, rows, self.types, _gaps(previous_ms, self.times_ms))


def _tail_job(state: UserState, fresh: Sequence[Event], rows: list[int], newest_ms: int | None) -> Job | None:
    if not fresh:
        return None
    gaps = _gaps(newest_ms, [event.timestamp_ms for event in fresh])
    return Job(state.hidden, rows, [event.type for event in fresh], gaps)


def _gaps(previous_ms: int | None, times_ms: Sequence[int]) -> list[int]:
    gaps: list[int] = []
    for time_ms in times_ms:
        gaps.append(gap_bucket(None if previous_ms is None else time_ms - previous_ms))
        previous_ms = time_ms
    return gaps


def _event_time_order(event: Event) -> tuple[int, int, int]:
    return event.timestamp_ms, event.type, event.offset


def _note_steps(state: UserState, job: Job, *, anew: bool) -> None:
    unknown = job.rows.count(OUT_OF_VOCABULARY)
    known = len(job.rows) - unknown
    state.known_count = known if anew else state.known_count + known
    state.unknown_count = unknown if anew else state.unknown_count + unknown
