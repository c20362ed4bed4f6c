"""Processor time of a worker by thread: what each does for an event, whoever holds the interpreter meanwhile."""

import threading
import time
from collections.abc import Mapping
from typing import Final

__all__ = ["ProcessorTime"]

_THREADS: Final = {
    "MainThread": "loop",
    "headwater-core_0": "core",
    "headwater-lists_0": "lists",
    "headwater-store_0": "store",
}
"""The threads that live as long as the worker does: the clock of one that has ended must not be asked for."""


class ProcessorTime:
    """Seconds of this process; no figure of it ever falls. One thread uses it."""

    def __init__(self) -> None:
        self._others = 0.0

    def seconds(self) -> Mapping[str, float]:
        """By thread, since each began: the event loop, the engine's threads, and ``others``, which are of libraries.

        Everything is ``others`` where the system has no clock of a thread.
        """
        seconds = dict.fromkeys(_THREADS.values(), 0.0)
        if hasattr(time, "pthread_getcpuclockid"):
            for thread in threading.enumerate():
                if thread.name in _THREADS and thread.ident is not None:
                    seconds[_THREADS[thread.name]] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        # The clocks are read one after the other, so that a difference of them may be a moment behind the last one.
        self._others = max(time.process_time() - sum(seconds.values()), self._others)
        return {**seconds, "others": self._others}
