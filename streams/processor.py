"""Processor time of a worker by thread: what each does for an event, whoever holds the interpreter meanwhile."""

import threading
import time
from collections.abc import Mapping
from typing import Final

__all__ = ["processor_seconds"]

_THREADS: Final = {
    "MainThread": "loop",
    "headwater-decode_0": "decode",
    "headwater-core_0": "core",
    "headwater-store_0": "store",
}


def processor_seconds() -> Mapping[str, float]:
    """Seconds by thread since each began: the event loop, the engine's threads, and ``others``, which are of libraries.

    Everything is ``others`` where the system has no clock of a thread.
    """
    seconds = dict.fromkeys([*_THREADS.values(), "others"], 0.0)
    if hasattr(time, "pthread_getcpuclockid"):
        for thread in threading.enumerate():
            if thread.name in _THREADS and thread.ident is not None:
                seconds[_THREADS[thread.name]] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    seconds["others"] = max(time.process_time() - sum(seconds.values()), 0.0)
    return seconds
