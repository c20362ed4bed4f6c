"""Co-visitation as the worker keeps it: of one partition, by item id.

A list is made of what came up to the user's last event and no more, so that the same events in event-time order give
the same lists however they were batched. They are learned in rounds, and the round under way is looked through.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators import limits
from operators.candidates.covisitation import CoVisitation

__all__ = ["COMPANIONS", "NOTHING", "ROUND_EVENTS", "WINDOW_EVENTS", "Companions", "LiveCoVisitation"]

WINDOW_EVENTS: Final = 10
"""Newest events of a history that an event is counted with, and that a list is asked with."""
COMPANIONS: Final = 16
"""Items that a user is answered with."""
ROUND_EVENTS: Final = 128
"""Events of the partition that are learned at once."""
NOTHING: Final = 0
"""Slot of no item."""
_STRONGEST: Final = 8
"""Successors of each item that count in an answer."""
_PENDING_MAX: Final = 160
"""Pairs of the round that is not complete that count in an answer, those with the newest items first."""
_PLACES_MAX: Final = 256
"""No fewer than there are candidates: WINDOW_EVENTS * _STRONGEST + _PENDING_MAX."""
_SLOTS_MIN: Final = 1_024
_KEPT_TENTHS: Final = 9


class Companions(NamedTuple):
    """What came after the newest events of A users: (A, 16) each, best first, ``NOTHING`` where there is no more."""

    slots: NDArray[np.int64]
    shares: NDArray[np.float32]
    """The score of ``operators.candidates.covisitation.CoVisitation``, of each item's strongest successors only."""
    greatest: NDArray[np.float32]
    """What the event that counts most has of it."""
    causes: NDArray[np.int64]
    """Slot of that event's item."""

    @classmethod
    def none(cls, users: int) -> "Companions":
        """Nothing for each user."""
        shape = users, COMPANIONS
        empty, weightless = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        return cls(empty, weightless, weightless.copy(), empty.copy())

    def of(self, users: Sequence[int]) -> "Companions":
        """Some of the users."""
        return Companions(self.slots[users], self.shares[users], self.greatest[users], self.causes[users])


class LiveCoVisitation:
    """``CoVisitation`` over slots that item ids get as they come.

    Bounded: an item that is full of successors gives up its weaker half, and a partition that is full of items the
    tenth that was seen least, after the batch. Until then it is the same whatever the batches.
    """

    def __init__(self) -> None:
        self.item_ids: list[str] = [""]
        """Of each slot."""
        self.table = _new_table(_SLOTS_MIN)
        self.pending = np.zeros((0, 1 + WINDOW_EVENTS), np.int64)
        """(P, 11) events of the round that is not complete, as ``serve`` takes them"""
        self.generation = 0
        """Grows when slots are given to other items."""
        self.changed = np.zeros(_SLOTS_MIN, np.bool_)
        """Slots with other contents than when somebody last cleared this."""
        self.events = 0
        """Events seen so far."""
        self._slot_of: dict[str, int] = {}
        self._learned_slots = 1

    def slots_of(self, item_ids: Sequence[str]) -> list[int]:
        """The slot of each item, or ``NOTHING``."""
        slot_of = self._slot_of.get
        return [slot_of(item_id, NOTHING) for item_id in item_ids]

    def admit(self, item_ids: Sequence[str]) -> list[int]:
        """The slot of each item of the events to come, in their order; new items get the next ones."""
        slot_of = self._slot_of
        slots: list[int] = []
        for item_id in item_ids:
            slot = slot_of.get(item_id)
            if slot is None:
                slot = slot_of[item_id] = len(self.item_ids)
                self.item_ids.append(item_id)
            slots.append(slot)
        self._make_room()
        self.changed[slots] = True
        return slots

    def reserve(self, item_ids: Sequence[str]) -> None:
        """Give the next slots to these items, which are learned already; an empty id takes one for nobody."""
        for slot, item_id in enumerate(item_ids, len(self.item_ids)):
            if item_id:
                self._slot_of[item_id] = slot
        self.item_ids += item_ids
        self._learned_slots = len(self.item_ids)
        self._make_room()

    def _make_room(self) -> None:
        if len(self.item_ids) > self.table.items:
            self.table = self.table.moved(np.arange(self.table.items), 2 * len(self.item_ids))
            self.changed = np.r_[self.changed, np.zeros(self.table.items - len(self.changed), np.bool_)]

    def serve(
        self, events: NDArray[np.int64], asked: NDArray[np.int64], recent: NDArray[np.int64], seen: NDArray[np.int64]
    ) -> Companions:
        """Learn a batch of events and answer A users, each from the events up to the user's last one.

        Args:
            events: (E, 11) slots, in event-time order: the item of each, then the same user's before it, newest first.
            asked: (A,) how many of the events each user's last one ends; 0 for a user without one.
            recent: (A, 10) newest items of each user, newest first.
            seen: (A, H) items that the answer may not hold.

        Returns slots of the ``item_ids`` that there were before the call.
        """
        visible = len(self.pending) + asked
        self.events += len(events)
        events = np.concatenate([self.pending, events])
        rounds = len(events) // ROUND_EVENTS
        answer = Companions.none(len(asked))
        for n in range(rounds + 1):
            of_round = events[n * ROUND_EVENTS : (n + 1) * ROUND_EVENTS]
            here = np.flatnonzero(visible // ROUND_EVENTS == n)
            if len(here):
                found = self._companions(recent[here], seen[here], of_round, visible[here] - n * ROUND_EVENTS)
                for column, part in zip(answer, found, strict=True):
                    column[here] = part
            if n < rounds:
                self._learn(of_round)
        self.pending = events[rounds * ROUND_EVENTS :]
        if self._learned_slots > limits.covisitation_items_max:
            self._forget_items()
        return answer

    def _learn(self, events: NDArray[np.int64]) -> None:
        self.table.extend(events[:, 1:], events[:, 0])
        self.changed[events] = True
        self._learned_slots = max(self._learned_slots, int(events.max()) + 1)

    def _forget_items(self) -> None:
        """Give up the tenth of the learned items with the fewest events; the others close up."""
        learned, kept_count = self._learned_slots, limits.covisitation_items_max * _KEPT_TENTHS // 10
        order = 1 + np.argsort(-self.table.counts[1:learned], kind="stable")
        kept = np.r_[NOTHING, np.sort(order[:kept_count]), np.arange(learned, len(self.item_ids))]
        number = np.zeros(len(self.item_ids), np.int64)
        number[kept] = np.arange(len(kept))
        self.table = self.table.moved(kept, self.table.items)
        self.pending = number[self.pending]
        self.item_ids = [self.item_ids[slot] for slot in kept.tolist()]
        self._slot_of = {item_id: slot for slot, item_id in enumerate(self.item_ids) if slot}
        self._learned_slots = kept_count + 1
        self.generation += 1
        self.changed[:] = True

    def _companions(
        self,
        recent: NDArray[np.int64],
        seen: NDArray[np.int64],
        pending: NDArray[np.int64],
        visible: NDArray[np.int64],
    ) -> Companions:
        """Answer users who see the first ``visible`` (A,) of the pending events (P, 11)."""
        items, at = np.unique(recent, return_inverse=True)
        successors, scores = self.table.strongest(items, _STRONGEST)  # (U, 8)
        at = at.reshape(recent.shape)
        decay = self.table.decay ** np.arange(WINDOW_EVENTS)
        slots = successors[at].reshape(len(recent), -1)  # (A, 80), the newest event's first
        shares = (scores[at] * decay[:, None]).reshape(slots.shape)
        ages = np.broadcast_to(np.arange(WINDOW_EVENTS).repeat(_STRONGEST), slots.shape)
        user, age, slot, share = self._of_pending(recent, pending, visible)
        if len(user):
            place = np.arange(len(user)) - np.searchsorted(user, user)
            kept = place < _PENDING_MAX
            shape, where = (len(recent), min(int(place.max()) + 1, _PENDING_MAX)), (user[kept], place[kept])
            more_slots, more_shares, more_ages = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape, np.int64)
            more_slots[where], more_shares[where], more_ages[where] = (
                slot[kept],
                share[kept] * decay[age[kept]],
                age[kept],
            )
            slots = np.concatenate([slots, more_slots], axis=1)
            shares = np.concatenate([shares, more_shares], axis=1)
            ages = np.concatenate([ages, more_ages], axis=1)
        if seen.shape[1]:
            banned = (slots[:, :, None] == seen[:, None, :]).any(axis=2)
            slots, shares = np.where(banned, NOTHING, slots), np.where(banned, 0.0, shares)
        return _added_up(slots, shares, np.take_along_axis(recent, ages, 1))

    def _of_pending(
        self, recent: NDArray[np.int64], pending: NDArray[np.int64], visible: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Pairs of the pending events that begin with an item of the users' recent ones.

        Returns user, age of that item, successor and what it adds to the score where the item is the newest, (M,) each.
        """
        before = pending[:, 1:].ravel()
        pairs = np.flatnonzero(before != NOTHING)
        pairs = pairs[np.argsort(before[pairs], kind="stable")]
        firsts = before[pairs]
        starts = np.searchsorted(firsts, recent.ravel())
        counts = np.searchsorted(firsts, recent.ravel(), side="right") - starts
        asked = np.repeat(np.arange(recent.size), counts)
        found = pairs[starts[asked] + np.arange(len(asked)) - (np.cumsum(counts) - counts)[asked]]
        seen = found // WINDOW_EVENTS < visible[asked // WINDOW_EVENTS]
        asked, found = asked[seen], found[seen]
        successors = pending[found // WINDOW_EVENTS, 0]
        shares = self.table.shares(recent.ravel()[asked], successors, found % WINDOW_EVENTS)
        return asked // WINDOW_EVENTS, asked % WINDOW_EVENTS, successors, shares


def _added_up(slots: NDArray[np.int64], shares: NDArray[np.float64], items: NDArray[np.int64]) -> Companions:
    """The greatest sums of the shares (A, X) of equal slots; equal sums by slot. ``items`` have the shares, (A, X)."""
    width: int = slots.shape[1]
    order: NDArray[np.int64] = np.arange(width)
    # Equal slots together, and of each the newest event's first.
    packed = np.sort(slots * _PLACES_MAX + order, axis=1)
    slot, place = packed // _PLACES_MAX, packed % _PLACES_MAX
    shares = np.take_along_axis(shares, place, 1).ravel()
    is_first = np.ones(slot.shape, np.bool_)
    is_first[:, 1:] = slot[:, 1:] != slot[:, :-1]
    starts = np.flatnonzero(is_first)
    sums, greatest = np.add.reduceat(shares, starts), np.maximum.reduceat(shares, starts)
    group = np.cumsum(is_first.ravel()) - 1
    of_greatest = np.minimum.reduceat(np.where(shares == greatest[group], place.ravel(), width), starts)
    # A positive float's bits grow with it: one sort by sum and place.
    bits = np.zeros(slot.shape, np.int64)
    bits.ravel()[starts] = sums.astype(np.float32).view(np.int32)
    bits[slot == NOTHING] = 0
    best = np.sort(bits * _PLACES_MAX + width - 1 - order, axis=1)[:, : -COMPANIONS - 1 : -1]
    at, found = width - 1 - best % _PLACES_MAX, best >= _PLACES_MAX
    chosen = np.take_along_axis(group.reshape(slot.shape), at, 1)
    return Companions(
        np.where(found, np.take_along_axis(slot, at, 1), NOTHING),
        np.where(found, sums[chosen], 0).astype(np.float32),
        np.where(found, greatest[chosen], 0).astype(np.float32),
        np.where(found, np.take_along_axis(items, of_greatest[chosen] % width, 1), NOTHING),
    )


def _new_table(slots: int) -> CoVisitation:
    successors_max = limits.covisitation_live_successors_max
    return CoVisitation(slots, window_events=WINDOW_EVENTS, successors_max=successors_max)
