"""What a batch brings that is new, by partition and in event-time order: what is learned is the same in any batches."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from operators.candidates.popularity import PopularItems, Popularity
from operators.columns import Columns

__all__ = ["FreshEvents", "fresh_by_partition", "learn_popularity", "popular_items"]


class FreshEvents(NamedTuple):
    """The new events of U users of one partition, P in all."""

    members: list[int]
    """Places of the users in the batch."""
    lengths: NDArray[np.int64]
    """(U,) events of each user."""
    in_order: list[tuple[str, int]]
    """(P) item and time in ms, in event-time order."""
    by_time: NDArray[np.int64]
    """(P,) the place of each of them among the events user by user."""
    known_to: NDArray[np.int64]
    """(U,) how many events in event-time order there are up to each user's last one; 0 for a user without any."""


def fresh_by_partition(
    users: Sequence[tuple[int, bytes]],
    fresh: Sequence[Sequence[tuple[str, int]]],
    events: Columns,
    bounds: Sequence[int],
) -> dict[int, FreshEvents]:
    """The new events of a batch.

    Args:
        users: partition and key of each.
        fresh: item and time in ms of each user's events that are new, in event-time order.
        events: all of the batch, of which type and offset tell those of one time apart.
        bounds: of the first users' events in them, as in ``operators.batches.Batch``.
    """
    by_partition: defaultdict[int, list[int]] = defaultdict(list)
    for n, (partition, _) in enumerate(users):
        by_partition[partition].append(n)
    # All at once, partition by partition: under little load a batch has few events of each.
    members = [n for of_partition in by_partition.values() for n in of_partition]
    new = [event for n in members for event in fresh[n]]
    user_ends = [0, *accumulate(len(fresh[n]) for n in members)]
    first_users = [0, *accumulate(map(len, by_partition.values()))]
    starts = [user_ends[first] for first in first_users]
    by_time = _by_time(members, new, fresh, starts, events, bounds)
    ordered: list[int] = by_time.tolist()
    in_order = [new[at] for at in ordered]
    position = np.empty(len(new), np.int64)
    position[by_time] = np.arange(len(new))
    ends = np.array(user_ends, np.int64)
    lengths = ends[1:] - ends[:-1]
    known_to = np.zeros(len(members), np.int64)
    known_to[lengths > 0] = position[ends[1:][lengths > 0] - 1] + 1
    parts: dict[int, FreshEvents] = {}
    for number, (partition, of_partition) in enumerate(by_partition.items()):
        own = slice(first_users[number], first_users[number + 1])
        start, end = starts[number : number + 2]
        known = np.maximum(known_to[own] - start, 0)  # of a user without any it is 0 already
        parts[partition] = FreshEvents(
            of_partition, lengths[own], in_order[start:end], by_time[start:end] - start, known
        )
    return parts


def _by_time(
    members: Sequence[int],
    new: Sequence[tuple[str, int]],
    fresh: Sequence[Sequence[tuple[str, int]]],
    starts: Sequence[int],
    events: Columns,
    bounds: Sequence[int],
) -> NDArray[np.int64]:
    """The order of the ``new`` events of the ``members`` by partition, which begin at ``starts``, and event time."""
    places: list[int] = []
    for n in members:
        count = len(fresh[n])
        if count:  # where some of a user's are not new, which they are is not known: they come first of their time
            whole = bounds[n + 1] - bounds[n] == count
            places += range(bounds[n], bounds[n + 1]) if whole else [-1] * count
    at = np.array(places, np.int64)
    offsets, types = (np.where(at < 0, 0, column[at]) for column in (events.offsets, events.types))
    times_ms = np.array([time_ms for _, time_ms in new], np.int64)
    partitions = np.searchsorted(starts, np.arange(len(new)), side="right")
    return np.lexsort((offsets, types, times_ms, partitions))


def learn_popularity(popularity: Mapping[int, Popularity], fresh: Mapping[int, FreshEvents]) -> None:
    """Count the new events of every partition."""
    for partition, events in fresh.items():
        popularity[partition].extend(events.in_order)


def popular_items(popularity: Mapping[int, Popularity], fresh: Mapping[int, FreshEvents]) -> list[PopularItems]:
    """What is popular for each user of the batch as of its last event, where ``popularity`` has learned the batch."""
    answers: dict[int, PopularItems] = {}
    for partition, events in fresh.items():
        table = popularity[partition]
        before = table.events - len(events.in_order)
        for n, known in zip(events.members, events.known_to.tolist(), strict=True):
            answers[n] = table.as_of(before + known)
    return [answers[n] for n in range(len(answers))]
