"""Counters and histograms of one worker and their Prometheus text."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from operators.effects import Counts

__all__ = ["Metrics"]

_HELP: Final = {
    "records_total": "records read from the event topics",
    "folded_total": "events folded into a user's state",
    "duplicates_total": "events that were known already",
    "late_total": "events older than the user's whole history",
    "rejected_total": "records sent to the dead-letter topic",
    "erased_total": "events refused because their user was erased after them",
    "erasures_total": "erasure requests carried out",
    "unknown_items_total": "events whose item the model does not know",
    "lists_total": "lists published",
    "popularity_lists_total": "lists published for users the model knows nothing of",
    "degraded_lists_total": "lists made without the encoder: it failed or had to yield",
    "yielded_lists_total": "of those, lists of batches that had waited longer than worker.yield_after_s",
    "batches_total": "batches settled",
    "unaligned_total": "times that a partition went on without a topic that had more, so events may be out of order",
}

_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histograms' buckets."""
_EDGES_S: Final = np.array(_BOUNDS_S)


class _Histogram:
    def __init__(self) -> None:
        self._counts = np.zeros(len(_BOUNDS_S) + 1, np.int64)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self.sum += seconds

    def add_all(self, seconds: NDArray[np.float64]) -> None:
        self._counts += np.bincount(_EDGES_S.searchsorted(seconds), minlength=len(self._counts))
        self.sum += float(seconds.sum())

    def lines(self, name: str, label: str = "") -> list[str]:
        inside, alone = (f"{label},", f"{{{label}}}") if label else ("", "")
        up_to: list[int] = np.cumsum(self._counts).tolist()
        bounds = [*map("{:g}".format, _BOUNDS_S), "+Inf"]
        buckets = [f'{name}_bucket{{{inside}le="{bound}"}} {count}' for bound, count in zip(bounds, up_to, strict=True)]
        return [*buckets, f"{name}_sum{alone} {self.sum:.6f}", f"{name}_count{alone} {up_to[-1]}"]


class Metrics:
    """What a worker has done. The event loop writes and reads."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}
        self.watched: dict[str, Callable[[], float]] = {}
        """Gauges that are asked for when they are read."""
        self.processor: Callable[[], Mapping[str, float]] = dict
        """Seconds of processor time by thread, asked for when they are read."""
        self._stages: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._queue = _Histogram()
        self._freshness = _Histogram()

    def batch(self, counts: Counts, lists: int, seconds: Mapping[str, float]) -> None:
        """Add one settled batch, with what it spent in each stage."""
        self.totals.update({f"{name}_total": value for name, value in counts._asdict().items()})
        self.totals.update({"lists_total": lists, "batches_total": 1})
        for stage, value in seconds.items():
            self._stages[stage].add(value)

    def ages(self, appended_ms: NDArray[np.int64], begun_ms: int, settled_ms: int) -> None:
        """Add the records of a settled batch.

        Args:
            appended_ms: (E,) their record times. Another machine's clock may be ahead: an age is never below 0.
            begun_ms: when the batch was taken.
            settled_ms: when its lists were delivered and its states stored.
        """
        self._queue.add_all(np.maximum(begun_ms - appended_ms, 0) / 1000)
        self._freshness.add_all(np.maximum(settled_ms - appended_ms, 0) / 1000)

    def prometheus(self) -> str:
        """The exposition format of Prometheus."""
        lines: list[str] = []
        for name in _HELP:
            lines += [*_head(name, _HELP[name], "counter"), f"headwater_{name} {self.totals[name]}"]
        lines += _head("freshness_seconds", "from an event's record time to its list delivered and its state stored")
        lines += self._freshness.lines("headwater_freshness_seconds")
        lines += _head("queue_seconds", "from an event's record time to the batch that took it")
        lines += self._queue.lines("headwater_queue_seconds")
        lines += _head("stage_seconds", "a batch's time in each stage")
        for stage, of_stage in sorted(self._stages.items()):
            lines += of_stage.lines("headwater_stage_seconds", f'stage="{stage}"')
        lines += _head("processor_seconds_total", "processor time by thread", "counter")
        for thread, seconds in self.processor().items():
            lines.append(f'headwater_processor_seconds_total{{thread="{thread}"}} {seconds:.6f}')
        watched = {name: read() for name, read in self.watched.items()}
        for name, value in sorted((self.gauges | watched).items()):
            lines += [f"# TYPE headwater_{name} gauge", f"headwater_{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, help_text: str, kind: str = "histogram") -> list[str]:
    return [f"# HELP headwater_{name} {help_text}", f"# TYPE headwater_{name} {kind}"]
