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


def fold(state: UserState, events: Sequence[Event], encoder: Encoder) -> Folded:
    """Apply one user's events of a batch to the user's state, in event-time order.

    An event below the fence of its source, or with the event id of one in the history, is a duplicate. One
    that is older than the newest in the history goes to its place there and the history is encoded anew; one
    that is older than a full history is late: counted, not folded. Fences move past every event. A state of
    another model version is encoded anew from its history.

    The recurrent state is then that of a pass over the whole history since the last such encoding.
    """
    known = tuple(state.fences)
    if len(events) > 1:
        events = sorted(events, key=_event_time_order)
    stored = _History(state) if state.model_version != encoder.version else None
    newest_ms = state.times_ms[-1] if state.times_ms else None
    fresh: list[Event] = []
    duplicates = late = 0
    out_of_order = False
    for event in events:
        if event.offset >= state.fences[event.type]:
            state.fences[event.type] = event.offset + 1
        if event.offset < known[event.type] or (event.fingerprint and event.fingerprint in state.fingerprints):
            duplicates += 1
        elif not state.times_ms or event.timestamp_ms >= state.times_ms[-1]:
            state.append(event.item_id, event.type, event.timestamp_ms, event.fingerprint)
            fresh.append(event)
        elif event.timestamp_ms < state.times_ms[0] and len(state.types) >= limits.history_events_max:
            late += 1
        else:
            place = bisect_right(state.times_ms, event.timestamp_ms)
            state.insert(place, event.item_id, event.type, event.timestamp_ms, event.fingerprint)
            fresh.append(event)
            out_of_order = True
    state.events_count += len(fresh)
    state.late_count += late
    if out_of_order:
        job = _job(None, _History(state), None, encoder)
    elif stored is not None:
        job = _job(None, stored.followed_by(fresh), None, encoder)
    else:
        job = _job(state.hidden, _NOTHING.followed_by(fresh), newest_ms, encoder)
    if job is not None:
        _note_steps(state, job, anew=out_of_order or stored is not None)
        state.model_version = encoder.version
    return Folded(job, fresh, duplicates, late)


class _History:
    """Parallel lists of items, types and times, in event-time order."""

    def __init__(self, state: UserState) -> None:
        self.items, self.types, self.times_ms = state.history_items, state.history_types, state.history_times_ms

    def followed_by(self, events: Sequence[Event]) -> "_History":
        joined = _History.__new__(_History)
        joined.items = [*self.items, *(event.item_id for event in events)]
        joined.types = [*self.types, *(event.type for event in events)]
        joined.times_ms = [*self.times_ms, *(event.timestamp_ms for event in events)]
        return joined


_NOTHING = _History(UserState())


def _event_time_order(event: Event) -> tuple[int, int, int]:
    return event.timestamp_ms, event.type, event.offset


def _note_steps(state: UserState, job: Job, *, anew: bool) -> None:
    unknown = sum(row == OUT_OF_VOCABULARY for row in job.rows)
    known = len(job.rows) - unknown
    state.known_count = known if anew else state.known_count + known
    state.unknown_count = unknown if anew else state.unknown_count + unknown


def _job(
    hidden: NDArray[np.float32] | None, history: _History, previous_ms: int | None, encoder: Encoder
) -> Job | None:
    if not history.items:
        return None
    gaps: list[int] = []
    for time_ms in history.times_ms:
        gaps.append(gap_bucket(None if previous_ms is None else time_ms - previous_ms))
        previous_ms = time_ms
    return Job(hidden, [encoder.row_of(item) for item in history.items], history.types, gaps)
