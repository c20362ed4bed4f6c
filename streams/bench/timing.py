"""Contenders that take turns, so that a machine that slows down slows all of them.

Work on the processor is timed by the processor time of this process: what other processes take is not counted, and
what runs on two threads counts twice.
"""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Final, TypeVar

from streams.bench.summary import spread_of

__all__ = ["interleaved_us", "medians_us", "timed_us"]

_SECONDS: Final = 0.1
Clock = Callable[[], float]
Key = TypeVar("Key")


def timed_us(
    work: Callable[[], object], units: int, seconds: float = _SECONDS, clock: Clock = time.process_time
) -> float:
    """Microseconds a unit of ``work``, which does ``units`` of them in a call; called until ``seconds`` are over."""
    calls, began = 0, clock()
    while not calls or clock() - began < seconds:
        work()
        calls += 1
    return (clock() - began) / calls / units * 1e6


def interleaved_us(
    contenders: Mapping[Key, tuple[Callable[[], object], int]],
    rounds: int,
    seconds: float = _SECONDS,
    clock: Clock = time.process_time,
) -> dict[Key, list[float]]:
    """Microseconds a unit of every contender (its work, the units of a call) in every round; the first call is free."""
    times: dict[Key, list[float]] = {name: [] for name in contenders}
    for work, _ in contenders.values():
        work()
    for _ in range(rounds):
        for name, (work, units) in contenders.items():
            times[name].append(timed_us(work, units, seconds, clock))
    return times


def medians_us(name: str, times: list[float]) -> dict[str, Any]:
    """The median under ``name`` and the least and greatest under ``<name>_spread``."""
    return {name: round(median(times), 2), f"{name}_spread": spread_of(times)}
