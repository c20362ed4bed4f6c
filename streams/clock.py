"""The wall clock."""

import time

__all__ = ["now_ms"]


def now_ms() -> int:
    """Milliseconds since the epoch, as events and records count time."""
    return time.time_ns() // 1_000_000
