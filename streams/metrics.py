"""Counters of one worker and their Prometheus text."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from operators.process import Counts

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
    "degraded_lists_total": "lists made without the encoder, which failed",
    "batches_total": "batches settled",
    "unaligned_total": "times that a partition went on without a topic that had more, so events may be out of order",
}


class Metrics:
    """What a worker has done. The event loop writes and reads."""

    def __init__(self) -> None:
        self.totals: Counter[str] = Counter()
        self.stage_seconds: Counter[str] = Counter()
        self.gauges: dict[str, float] = {}

    def batch(self, counts: Counts, lists: int, seconds: Mapping[str, float]) -> None:
        """Add one settled batch."""
        self.totals.update({f"{name}_total": value for name, value in counts._asdict().items()})
        self.totals.update({"lists_total": lists, "batches_total": 1})
        self.stage_seconds.update(seconds)

    def as_dict(self) -> dict[str, float]:
        """Everything, flat."""
        stages = {f"stage_{name}_seconds_total": value for name, value in self.stage_seconds.items()}
        return {**dict.fromkeys(_HELP, 0), **self.totals, **stages, **self.gauges}

    def prometheus(self) -> str:
        """The exposition format of Prometheus."""
        lines: list[str] = []
        for name in _HELP:
            lines += [f"# HELP headwater_{name} {_HELP[name]}", f"# TYPE headwater_{name} counter"]
            lines.append(f"headwater_{name} {self.totals[name]}")
        lines += ["# HELP headwater_stage_seconds_total time spent", "# TYPE headwater_stage_seconds_total counter"]
        for stage, value in sorted(self.stage_seconds.items()):
            lines.append(f'headwater_stage_seconds_total{{stage="{stage}"}} {value:.6f}')
        for name, value in sorted(self.gauges.items()):
            lines += [f"# TYPE headwater_{name} gauge", f"headwater_{name} {value:g}"]
        return "\n".join(lines) + "\n"
