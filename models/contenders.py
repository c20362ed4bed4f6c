"""Other ways to make lists of the states of a replay, judged beside the one that is published."""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.content_rows import content_rows
from models.event_histories import TimedRecord, item_of
from models.live_items import NEIGHBOURS, LiveItems
from models.runtime import OnnxEncoder
from operators.batches import Batch, UserKey
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.companions import Visits
from operators.fresh import fresh_by_partition, popular_items
from operators.interest import OUT_OF_VOCABULARY, Encoder
from operators.ranking import Policy, rank
from operators.state import UserState
from operators.tastes import Tastes

__all__ = ["LIVE_ITEMS", "Contender", "Contenders", "NewItems", "with_live_items"]

LIVE_ITEMS: Final = "headwater, items learn"
NewItems = Literal["none", "neighbours", "content"]


class Contender(NamedTuple):
    """How its lists are made."""

    policy: Policy
    items: LiveItems | None = None
    """What ranks instead of the encoder, learning as it goes; no other contender's."""


class _Snapshot(NamedTuple):
    """What was known of the users of a batch before it."""

    vectors: list[NDArray[np.float32] | None]
    newest: list[list[str]]
    """Of the items that learn; nothing where none do."""
    visits: Visits | None
    """None where no policy has co-visitation."""


class Contenders:
    """One for each policy and kind of items; the states are the replay's own."""

    def __init__(
        self, contenders: Mapping[str, Contender], encoder: Encoder, partitions: int, learn_from_ms: int
    ) -> None:
        """
        Args:
            learn_from_ms: event time from which ``LiveItems`` learn: what came before, the model was fitted to.
        """
        self._contenders, self._encoder, self._learn_from_ms = contenders, encoder, learn_from_ms
        policies = [contender.policy for contender in contenders.values()]
        self._follows = any(policy.covisitation is not None for policy in policies)
        self._drop_seen = any(policy.seen_items == "drop" for policy in policies)
        self._followed = {partition: LiveCoVisitation() for partition in range(partitions)}
        self._learning = [contender.items for contender in contenders.values() if contender.items is not None]
        self.lists: Final[dict[str, dict[UserKey, list[str]]]] = {name: {} for name in contenders}
        """Item ids of each user's list, by the name of the contender."""

    def snapshot(self, batch: Batch, states: Sequence[UserState]) -> _Snapshot:
        """To be called before the batch is folded into the ``states`` of its users."""
        return _Snapshot(
            [state.vector for state in states],
            [state.newest_items(NEIGHBOURS) for state in states] if self._learning else [],
            Visits(self._followed, states, drop_seen=self._drop_seen) if self._follows else None,
        )

    def learn_and_rank(
        self, batch: Batch, states: Sequence[UserState], popularity: Mapping[int, Popularity], before: _Snapshot
    ) -> None:
        """Learn a batch that was folded, and make everybody's lists."""
        if not self._contenders:
            return
        by_partition = fresh_by_partition(batch.users, batch.events, np.diff(batch.bounds))
        companions = before.visits.learned(by_partition) if before.visits is not None else None
        for items in self._learning:
            _teach(items, batch, before, self._learn_from_ms)
        unranked = [copy.copy(state) for state in states] if self._learning else []
        for state in unranked:
            state.rows = None  # those of the encoder: it has none for new items
            state.kept = 0
        popular = popular_items(popularity, by_partition)
        for name, (policy, items) in self._contenders.items():
            beside = companions if policy.covisitation else None
            encoder = items or self._encoder
            tastes = Tastes.of(states if items is None else unranked, encoder)
            ranked = rank(tastes, popular, encoder, policy, frozenset[str](), companions=beside)
            lists = [[item.item_id for item in of_user] for of_user in ranked]
            self.lists[name].update(zip(batch.users, lists, strict=True))


def with_live_items(
    encoder: OnnxEncoder,
    policy: Policy,
    records: Sequence[TimedRecord],
    attributes: Mapping[str, frozenset[str]],
    rate: float,
    new_items: NewItems,
) -> dict[str, Contender]:
    """The policy with ``LiveItems``: a row for every item of the records that the model lacks, or for none.

    Args:
        new_items: where those rows start: at the neighbourhood of their first event, or at what their attributes
            foretell (at the neighbourhood where they have none).
    """
    lacking = {item_id for item_id in map(item_of, records) if encoder.row_of(item_id) == OUT_OF_VOCABULARY}
    content = content_rows(encoder, attributes, sorted(lacking)) if new_items == "content" else {}
    new_items_max = 0 if new_items == "none" else len(lacking)
    items = LiveItems(encoder, encoder.manifest.items, rate=rate, new_items_max=new_items_max, content=content)
    return {LIVE_ITEMS: Contender(policy, items)}


def _teach(items: LiveItems, batch: Batch, before: _Snapshot, from_ms: int) -> None:
    item_ids: list[str] = []
    vectors: list[NDArray[np.float32]] = []
    near: list[NDArray[np.float32]] = []
    for vector, newest, bounds in zip(before.vectors, before.newest, pairwise(batch.bounds), strict=True):
        if vector is None:  # nothing is known of the user that an item could be near to
            continue
        history, events = list(newest), batch.events.part(*bounds)
        for item_id, time_ms in zip(events.item_ids, events.times_ms.tolist(), strict=True):
            if time_ms >= from_ms:
                item_ids.append(item_id)
                vectors.append(vector)
                near.append(items.neighbourhood(history))
            history.append(item_id)
    if item_ids:
        items.learn(item_ids, np.stack(vectors), np.stack(near))
