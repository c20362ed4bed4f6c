"""How long each partition stood still: computed from the append times of its lists, by the broker's clock."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
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
    """Of every fault and partition, the longest time without a list that touches the fault, in seconds.

    A fault reaches from its beginning to the beginning of the next one.

    Args:
        answers: by partition, in order of their times.
        occurrences: in order.
    """
    end_ms = max((of_partition[-1].time_ms for of_partition in answers.values()), default=0)
    begins = [occurrence.began_ms for occurrence in occurrences]
    gaps: list[list[float]] = []
    for began_ms, next_ms in zip(begins, [*begins[1:], end_ms], strict=True):
        gaps.append([_longest_s([a.time_ms for a in each], began_ms, next_ms) for each in answers.values()])
    return gaps


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


def _longest_s(times_ms: Sequence[int], began_ms: int, end_ms: int) -> float:
    first = max(bisect_right(times_ms, began_ms) - 1, 0)
    longest = 0
    for before, after in zip(times_ms[first:], times_ms[first + 1 :], strict=False):
        if before > end_ms:
            break
        longest = max(longest, after - before)
    return longest / 1000
