"""Progress of a restore: a bar on a terminal, lines in the log elsewhere, figures in the metrics."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from streams.clients.render import progress_bar
from streams.metrics import Metrics
from streams.restore import Restored

__all__ = ["RestoreProgress"]

log = logging.getLogger(__name__)

_LINE_EVERY_S: Final = 5.0


class RestoreProgress:
    """Of one worker, whose restores come one after the other."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._bar = ExitStack()
        self._move: Callable[[int, int], object] | None = None
        self._began = self._told_at = 0.0

    def move(self, done: int, total: int) -> None:
        """``done`` of ``total`` offsets are behind."""
        now = time.monotonic()
        if self._move is None:
            self._began = self._told_at = now
            self._move = self._bar.enter_context(progress_bar("restoring", shown=sys.stderr.isatty()))
        self._metrics.gauges["restore_offsets_left"] = total - done
        self._move(done, total)
        if now - self._told_at > _LINE_EVERY_S:
            self._told_at = now
            left_s = (now - self._began) / max(done, 1) * (total - done)
            log.info("restoring: %d of %d offsets, about %.0f s left", done, total, left_s)

    def end(self, restored: Restored | None) -> None:
        """The restore is over, or was broken off."""
        self._bar.close()
        self._move = None
        if restored is None:
            return
        self._metrics.gauges |= {
            "restore_offsets_left": 0,
            "restored_records": restored.records,
            "restore_seconds": restored.seconds,
        }
        per_s = restored.records / max(restored.seconds, 1e-3)
        log.info("restored %d records of %d partitions from the changelog in %.1f s (%.0f/s)", *restored, per_s)
