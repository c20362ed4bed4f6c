"""One bound over what is written and not flushed yet, of all databases together.

RocksDB's own bound (WriteBufferManager) flushes the database that is written to when the sum is over it, be its
memtable ever so small, and a write that RocksDB holds up keeps Python's interpreter lock. Here the largest memtable
is flushed, in a thread, and whoever writes faster than that waits without the lock.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Final

__all__ = ["Memtables"]

_FLUSHED_FROM: Final = 0.75
"""Share of the bound from which memtables are flushed; the rest takes what is written meanwhile."""
_RETRY_S: Final = 0.01


class Memtables:
    """Bytes by partition. Every method may be called by any thread."""

    def __init__(self, bytes_max: int, flush: Callable[[int], bool]) -> None:
        """``flush`` flushes one partition inside ``flushing``, or returns False where that cannot be for now."""
        self._bytes_max = bytes_max
        self._flush = flush
        self._lock = threading.Lock()
        self._written: Counter[int] = Counter()
        self._flushed: Counter[int] = Counter()
        self._bytes = 0
        self._under_way: Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "headwater-flush")

    @property
    def bytes(self) -> int:
        """Written and not flushed yet."""
        with self._lock:
            return self._bytes

    def bytes_of(self, partition: int) -> int:
        """The same of one partition."""
        with self._lock:
            return self._written[partition] - self._flushed[partition]

    def make_room(self) -> None:
        """Call before each write: begins a flush where one is due, and waits for it where the bound is reached.

        Raises:
            Exception: whatever a flush raised.
        """
        while (flush := self._awaited()) is not None:
            wait([flush])

    def add(self, partition: int, size: int) -> None:
        """Call after each write: so many bytes are in a memtable."""
        with self._lock:
            self._written[partition] += size
            self._bytes += size

    @contextmanager
    def flushing(self, partition: int) -> Generator[None]:
        """What was written before is on the disk afterwards, unless an exception leaves this."""
        with self._lock:
            written = self._written[partition]
        yield
        with self._lock:
            # Two flushes at a time may have seen the same bytes.
            self._bytes -= max(0, written - self._flushed[partition])
            self._flushed[partition] = max(written, self._flushed[partition])

    def forget(self, partition: int) -> None:
        """Its database is closed, and nobody is inside ``flushing`` for it."""
        with self._lock:
            self._bytes -= self._written.pop(partition, 0) - self._flushed.pop(partition, 0)

    def close(self) -> None:
        """Wait for the flush under way and give the thread back."""
        self._thread.shutdown(wait=True)

    def _awaited(self) -> Future[None] | None:
        """The flush that must end before more is written; None where there is room."""
        with self._lock:
            if self._under_way is not None and self._under_way.done():
                ended, self._under_way = self._under_way, None
                ended.result()
            if self._bytes < _FLUSHED_FROM * self._bytes_max:
                return None
            if self._under_way is None:
                self._under_way = self._thread.submit(self._flush_largest)
            return self._under_way if self._bytes >= self._bytes_max else None

    def _flush_largest(self) -> None:
        with self._lock:
            sizes = {partition: size - self._flushed[partition] for partition, size in self._written.items()}
        largest_first = sorted(filter(sizes.__getitem__, sizes), key=sizes.__getitem__, reverse=True)
        if not any(map(self._flush, largest_first)):  # up to the first that could be
            time.sleep(_RETRY_S)
