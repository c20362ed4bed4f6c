"""What a batch brings that is new, by partition and in event-time order: what is learned is the same in any batches."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.candidates.popularity import PopularItems, Popularity
from operators.columns import Columns, taken

__all__ = ["FreshEvents", "fresh_by_partition", "learn_popularity", "popular_items"]


class FreshEvents(NamedTuple):
    """The new events of U users of one partition, P in all."""

    members: list[int]
    """Places of the users in the batch."""
    lengths: NDArray[np.int64]
    """(U,) events of each user."""
    item_ids: list[str]
    times_ms: NDArray[np.int64]
    """(P) of the events, in event-time order."""
    by_time: NDArray[np.int64]
    """(P,) the place of each of them among the events user by user."""
    known_to: NDArray[np.int64]
    """(U,) how many events in event-time order there are up to each user's last one; 0 for a user without any."""


def fresh_by_partition(
    users: Sequence[tuple[int, bytes]], fresh: Columns, lengths: NDArray[np.int64]
) -> dict[int, FreshEvents]:
    """The new events of a batch.

    Args:
        users: partition and key of each.
        fresh: the events that are new, user by user, each user's in event-time order.
        lengths: (users,) how many of them are each user's.
    """
    by_partition: defaultdict[int, list[int]] = defaultdict(list)
    for n, (partition, _) in enumerate(users):
        by_partition[partition].append(n)
    # All at once, partition by partition: under little load a batch has few events of each.
    members = np.array([n for of_partition in by_partition.values() for n in of_partition], np.int64)
    user_starts = np.cumsum([0, *map(len, by_partition.values())])
    number = np.empty(len(users), np.int64)
    number[members] = np.repeat(np.arange(len(by_partition)), np.diff(user_starts))
    partitions = np.repeat(number, lengths)
    position, order = np.empty((2, len(partitions)), np.int64)
    position[np.argsort(partitions, kind="stable")] = np.arange(len(partitions))
    by_time = fresh.grouped(partitions)
    order[by_time] = np.arange(len(partitions))
    starts = np.concatenate([[0], np.cumsum(lengths[members])])[user_starts]
    known_to = np.zeros(len(users), np.int64)
    some = lengths > 0
    known_to[some] = order[np.cumsum(lengths)[some] - 1] + 1 - starts[number[some]]
    places, times_ms, item_ids = position[by_time], fresh.times_ms[by_time], taken(fresh.item_ids, by_time)
    parts: dict[int, FreshEvents] = {}
    for (partition, of_users), start, end in zip(by_partition.items(), starts, starts[1:], strict=False):
        own = slice(start, end)
        parts[partition] = FreshEvents(
            of_users, lengths[of_users], item_ids[own], times_ms[own], places[own] - start, known_to[of_users]
        )
    return parts


def learn_popularity(popularity: Mapping[int, Popularity], fresh: Mapping[int, FreshEvents]) -> None:
    """Count the new events of every partition."""
    for partition, events in fresh.items():
        popularity[partition].extend(events.item_ids, events.times_ms)


def popular_items(popularity: Mapping[int, Popularity], fresh: Mapping[int, FreshEvents]) -> list[PopularItems]:
    """What is popular for each user of the batch as of its last event, where ``popularity`` has learned the batch."""
    answers: dict[int, PopularItems] = {}
    for partition, events in fresh.items():
        table = popularity[partition]
        before = table.events - len(events.item_ids)
        for n, known in zip(events.members, events.known_to.tolist(), strict=True):
            answers[n] = table.as_of(before + known)
    return [answers[n] for n in range(len(answers))]
