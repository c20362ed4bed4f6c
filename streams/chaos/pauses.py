"""How long each partition stood still: computed from the append times of its lists, by the broker's clock."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from streams.chaos.schedule import Fault

__all__ = ["Answer", "Occurrence", "longest_gaps_s", "percentile", "resumed_s"]


class Occurrence(NamedTuple):
    """A fault as it happened, by the clock of this machine."""

    fault: Fault
    began_ms: int
    undone_ms: int


class Answer(NamedTuple):
    """A list, as far as time goes."""

    time_ms: int
    """When the broker appended it."""
    newest_ms: int
    """Record time of the newest event that caused it."""


def longest_gaps_s(answers: Mapping[int, Sequence[Answer]], occurrences: Sequence[Occurrence]) -> list[list[float]]:
    """Of every fault and partition, the longest time without a list, in seconds.

    A time without a list is laid to every fault that began in it; where none did, to the last one before it.

    Args:
        answers: by partition, in order of their times.
        occurrences: in order.
    """
    begins = [occurrence.began_ms for occurrence in occurrences]
    by_partition = [_longest_ms([answer.time_ms for answer in each], begins) for each in answers.values()]
    return [[of_partition[n] / 1000 for of_partition in by_partition] for n in range(len(begins))]


def resumed_s(answers: Mapping[int, Sequence[Answer]], occurrence: Occurrence, until_ms: float) -> float | None:
    """Seconds from the end of the fault until every partition had a list about an event produced after it.

    None where the next fault came first, at ``until_ms``.
    """
    latest_ms = 0
    for of_partition in answers.values():
        first = next((a.time_ms for a in of_partition if a.newest_ms >= occurrence.undone_ms), None)
        if first is None or first > until_ms:
            return None
        latest_ms = max(latest_ms, first)
    return max(latest_ms - occurrence.undone_ms, 0) / 1000


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank; None of nothing."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def _longest_ms(times_ms: Sequence[int], begins_ms: Sequence[int]) -> list[int]:
    longest_ms = [0] * len(begins_ms)
    for before_ms, after_ms in pairwise(times_ms):
        end = bisect_right(begins_ms, after_ms)
        start = min(bisect_right(begins_ms, before_ms), max(end - 1, 0))
        for n in range(start, end):
            longest_ms[n] = max(longest_ms[n], after_ms - before_ms)
    return longest_ms
