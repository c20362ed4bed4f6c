"""What a batch brings that is new, by partition and in event-time order: what is learned is the same in any batches."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    members: defaultdict[int, list[int]] = defaultdict(list)
    for n, (partition, _) in enumerate(users):
        members[partition].append(n)
    return {partition: _of_members(of_partition, fresh, events, bounds) for partition, of_partition in members.items()}


def _of_members(
    members: list[int], fresh: Sequence[Sequence[tuple[str, int]]], columns: Columns, bounds: Sequence[int]
) -> FreshEvents:
    of_members = [fresh[n] for n in members]
    events = [event for of_user in of_members for event in of_user]
    times_ms = np.array([time_ms for _, time_ms in events], np.int64)
    places: list[int] = []
    for n, of_user in zip(members, of_members, strict=True):
        if of_user:  # where some of a user's are not new, which they are is not known: they come first of their time
            whole = bounds[n + 1] - bounds[n] == len(of_user)
            places += range(bounds[n], bounds[n + 1]) if whole else [-1] * len(of_user)
    at = np.array(places, np.int64)
    offsets, types = (np.where(at < 0, 0, column[at]) for column in (columns.offsets, columns.types))
    lengths = np.array([len(of_user) for of_user in of_members], np.int64)
    by_time = np.lexsort((offsets, types, times_ms))
    position = np.empty(len(events), np.int64)
    position[by_time] = np.arange(len(events))
    has, last = lengths > 0, np.cumsum(lengths) - 1
    known_to = np.zeros(len(members), np.int64)
    known_to[has] = position[last[has]] + 1
    return FreshEvents(members, lengths, [events[at] for at in by_time.tolist()], by_time, known_to)


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
