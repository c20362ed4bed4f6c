"""Co-visitation around one batch: the histories before it, what it teaches, and who is answered what."""

from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.candidates.live_covisitation import NOTHING, WINDOW_EVENTS, Companions, LiveCoVisitation
from operators.fresh import FreshEvents
from operators.fusion import Bonuses, CoVisitationWeights
from operators.interest import OUT_OF_VOCABULARY, Encoder
from operators.state import UserState

__all__ = ["BatchCompanions", "Followed", "Visits"]


class BatchCompanions(NamedTuple):
    """What the users of a batch went on to look at, as ``Companions`` whose slots are places in ``item_ids``."""

    item_ids: list[str]
    """The first is none."""
    found: Companions

    def of(self, users: Sequence[int]) -> "BatchCompanions":
        """Some of the users."""
        return BatchCompanions(self.item_ids, self.found.of(users))

    def of_user(self, user: int) -> list[tuple[str, float, str]]:
        """Item, share, and the item of the event that counts most, best first."""
        slots, shares, _, causes = (column[user].tolist() for column in self.found)
        item_ids = self.item_ids
        return [(item_ids[s], share, item_ids[c]) for s, share, c in zip(slots, shares, causes, strict=True) if s]

    def weighted(self, weights: CoVisitationWeights, encoder: Encoder, withdrawn: Container[str]) -> "Followed":
        """What the weights make of it for users whom the encoder knows."""
        rows = encoder.rows_of(self.item_ids)
        if weights.new_items is not None:
            for place in np.flatnonzero(rows == OUT_OF_VOCABULARY).tolist():
                if self.item_ids[place] not in withdrawn:
                    rows[place] = -place
        of_slot = rows[self.found.slots]
        history = np.zeros(of_slot.shape, np.float32)
        return Followed(*self, weights, Bonuses(of_slot, history, _bonus(weights, self.found.shares)))

    def with_bonuses(self, weights: CoVisitationWeights) -> "BatchCompanions":
        """The same with what the weights make of each share in its place."""
        return self._replace(found=self.found._replace(shares=_bonus(weights, self.found.shares)))


class Followed(NamedTuple):
    """``BatchCompanions`` with their part in the scores."""

    item_ids: list[str]
    found: Companions
    weights: CoVisitationWeights
    bonuses: Bonuses
    """A new item has the row below 0 that is its place in ``item_ids``, below 0."""

    def score_of_new(self, scores: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """(B,) what a new item has without its bonus, beside the encoder's list of ``scores`` (B, k)."""
        return None if self.weights.new_items is None else scores[:, -1] + np.float32(self.weights.new_items)

    def effects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], list[str]]:
        """What one event's co-visits add to each place of the lists (B, k), and the items of those events."""
        _, shares, greatest, causes = self.found
        effects = self.bonuses.covisitation - _bonus(self.weights, np.maximum(shares - greatest, 0))
        same = (rows[:, :, None] == self.bonuses.rows[:, None, :]) & (rows != OUT_OF_VOCABULARY)[:, :, None]
        at, lines = same.argmax(axis=2), np.arange(len(rows))[:, None]
        places: list[int] = causes[lines, at].ravel().tolist()
        here = np.where(same.any(axis=2), effects[lines, at], np.float32(-np.inf))
        return here, [self.item_ids[place] for place in places]


def _bonus(weights: CoVisitationWeights, shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """What co-visitation adds to the score of an item with this share."""
    return np.float32(weights.weight) * np.log1p(np.float32(weights.scale) * shares)


class Visits:
    """Made before a batch is folded; ``learned`` afterwards."""

    def __init__(
        self,
        tables: Mapping[int, LiveCoVisitation],
        states: Sequence[UserState],
        *,
        drop_seen: bool,
    ) -> None:
        """
        Args:
            tables: by partition.
            states: of the users of the batch.
            drop_seen: nobody is answered with an item of the history.
        """
        self._tables = tables
        self._drop_seen = drop_seen
        self._width = limits.history_events_max if drop_seen else WINDOW_EVENTS
        self._before = [state.newest_items(self._width) for state in states]

    def learned(self, fresh: Mapping[int, FreshEvents]) -> BatchCompanions:
        """Teach every partition its new events of the batch, in event-time order, and answer every user."""
        item_ids = [""]
        answer = Companions.none(len(self._before))
        for partition, events in fresh.items():
            table = self._tables[partition]
            names = table.item_ids
            found = self._serve(table, events)
            used, at = np.unique(np.stack([found.slots, found.causes]), return_inverse=True)
            named: list[str] = [names[slot] for slot in used.tolist()]
            places = np.array([len(item_ids) + n if name else 0 for n, name in enumerate(named)], np.int64)
            slots, causes = places[at.reshape(2, *found.slots.shape)]
            item_ids += named
            found = found._replace(slots=slots, causes=causes)
            for column, part in zip(answer, found, strict=True):
                column[events.members] = part
        return BatchCompanions(item_ids, answer)

    def _serve(self, table: LiveCoVisitation, fresh: FreshEvents) -> Companions:
        slots = np.empty(len(fresh.item_ids), np.int64)
        slots[fresh.by_time] = table.admit(fresh.item_ids)
        flat, ends = self._sequences(table, fresh.members, slots, fresh.lengths)
        # Of each event in `flat`:
        place = np.repeat(ends - np.cumsum(fresh.lengths), fresh.lengths) + np.arange(len(slots))
        events = flat[place[fresh.by_time][:, None] - np.arange(1 + WINDOW_EVENTS)]
        recent = flat[ends[:, None] - 1 - np.arange(WINDOW_EVENTS)]
        seen = flat[ends[:, None] - 1 - np.arange(self._width)] if self._drop_seen else recent[:, :0]
        return table.serve(events, fresh.known_to, recent, seen)

    def _sequences(
        self, table: LiveCoVisitation, members: Sequence[int], slots: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Slots of each user's history before the batch, filled up in front, and events in it; where each ends."""
        flat: list[int] = []
        start, listed = 0, slots.tolist()
        for n, length in zip(members, lengths.tolist(), strict=True):
            before = table.slots_of(self._before[n])
            flat += [NOTHING] * (self._width - len(before))
            flat += before
            flat += listed[start : start + length]
            start += length
        return np.array(flat, np.int64), np.cumsum(lengths + self._width)
