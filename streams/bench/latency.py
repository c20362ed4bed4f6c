"""Arithmetic of an open-loop run: when events are due, and what became of each of them. No clock and no I/O.

Latency is counted from the moment an event was due, not from when it was sent: a generator or a broker that falls
behind makes it longer and hides nothing (no coordinated omission).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NANOSECONDS_PER_MS", "QUANTILES", "STAGES", "Answers", "arrivals_ns", "completed_per_s", "quantiles_ms"]

NANOSECONDS_PER_MS: Final = 1_000_000
QUANTILES: Final[Mapping[str, float]] = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999}
STAGES: Final = ("produce", "queue", "work", "receive")
"""Due to appended by the broker; appended to its batch begun; batch begun to list appended; appended to received."""


def arrivals_ns(count: int, events_per_s: float, seed: int) -> NDArray[np.int64]:
    """Times (count,) of a Poisson process, in ns from its beginning: users act independently of each other."""
    gaps = np.random.default_rng(seed).exponential(1e9 / events_per_s, count)
    return np.cumsum(gaps).astype(np.int64)


def quantiles_ms(latencies_ns: NDArray[np.int64]) -> dict[str, float]:
    """p50, p99 and p99.9 of all values in ms, each a value that occurred or the one above it; NaN where there are none.

    Every latency is kept, so that no bucket of a histogram blurs the tail.
    """
    if not len(latencies_ns):
        return dict.fromkeys(QUANTILES, float("nan"))
    found = np.quantile(latencies_ns, list(QUANTILES.values()), method="inverted_cdf") / NANOSECONDS_PER_MS
    return dict(zip(QUANTILES, found.round(3).tolist(), strict=True))


class Answers(NamedTuple):
    """Of every event of a run, (count,) each; times in ns, 0 where it has not happened."""

    due_ns: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    appended_ns: NDArray[np.int64]
    """By the broker's clock, in whole milliseconds."""
    begun_ns: NDArray[np.int64]
    """When the worker began the batch, in whole milliseconds."""
    listed_ns: NDArray[np.int64]
    """When the broker had the list, in whole milliseconds."""
    received_ns: NDArray[np.int64]

    @classmethod
    def none_yet(cls, due_ns: NDArray[np.int64]) -> "Answers":
        """Before the first event is sent."""
        return cls(due_ns, *(np.zeros(len(due_ns), np.int64) for _ in range(5)))

    def note(self, events: Iterable[int], begun_ms: int, listed_ms: int, received_ns: int) -> int:
        """A list came; returns how many of its events had no list yet. The first list of an event counts."""
        fresh = 0
        for event in events:
            if not self.received_ns[event]:
                self.received_ns[event] = received_ns
                self.begun_ns[event] = begun_ms * NANOSECONDS_PER_MS
                self.listed_ns[event] = listed_ms * NANOSECONDS_PER_MS
                fresh += 1
        return fresh

    def after(self, due_ns: int) -> "Answers":
        """The events due at ``due_ns`` or later."""
        start = int(np.searchsorted(self.due_ns, due_ns))
        return Answers(*(column[start:] for column in self))

    def freshness_ms(self) -> dict[str, float]:
        """Quantiles from due to list received."""
        return quantiles_ms(self.received_ns - self.due_ns)

    def lateness_ms(self) -> dict[str, float]:
        """Quantiles of how late the generator was."""
        return quantiles_ms(self.sent_ns - self.due_ns)

    def stages_ms(self) -> dict[str, dict[str, float]]:
        """Quantiles of each of ``STAGES``."""
        times = (self.due_ns, self.appended_ns, self.begun_ns, self.listed_ns, self.received_ns)
        return {
            stage: quantiles_ms(until - since)
            for stage, since, until in zip(STAGES, times[:-1], times[1:], strict=True)
        }


def completed_per_s(received_ns: Sequence[int] | NDArray[np.int64], start_ns: int, end_ns: int) -> float:
    """Events answered a second between two moments."""
    received = np.asarray(received_ns)
    return int(((received >= start_ns) & (received < end_ns)).sum()) / ((end_ns - start_ns) / 1e9)
