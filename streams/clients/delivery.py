"""Sending with a bound: kafka-python queues any number of unacknowledged records, this a fixed number."""

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from operators import limits
from operators.partition import partition_of
from streams.clients.kafka import KafkaError, Pending, Producer

__all__ = ["Delivery"]

_BLOCK_RECORDS: Final = 500
_WAIT_S: Final = 60.0
_KEYS_CACHED_MAX: Final = 200_000

_partition_of = lru_cache(maxsize=_KEYS_CACHED_MAX)(partition_of)


class Delivery:
    """Sends records in order and settles them in blocks, the oldest first.

    Attributes:
        acknowledged: records that the broker has acknowledged.
        failed: records that were not delivered; ``on_error`` was called for each.
        settled: length of the prefix of all sent records whose fate is known.
    """

    def __init__(self, producer: Producer, on_error: Callable[[int, BaseException], None]) -> None:
        """``on_error(tag, error)`` is called for each record that was not delivered."""
        self.acknowledged = self.failed = self.settled = 0
        self._producer = producer
        self._on_error = on_error
        self._block: list[tuple[Pending, int]] = []
        self._blocks: deque[list[tuple[Pending, int]]] = deque()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes,
        headers: list[tuple[str, bytes]],
        partitions: int,
        tag: int = 0,
    ) -> None:
        """Send to the partition of the key, or to any without one; waits while too many are open."""
        partition = None if key is None else _partition_of(key, partitions)
        try:
            pending = self._producer.send(topic, value, key, headers, partition)
        except KafkaError as error:
            pending = _Refused(error)
        self._block.append((pending, tag))
        if len(self._block) >= _BLOCK_RECORDS:
            self._blocks.append(self._block)
            self._block = []
            while len(self._blocks) * _BLOCK_RECORDS > limits.inflight_records_max:
                self._settle(self._blocks.popleft())

    def settle_done(self) -> None:
        """Take note of deliveries that are over, without waiting."""
        if self._block and not self._blocks:
            self._blocks.append(self._block)
            self._block = []
        while self._blocks and all(pending.is_done for pending, _ in self._blocks[0]):
            self._settle(self._blocks.popleft())

    def flush(self) -> None:
        """Wait until the fate of every record is known."""
        if self._block:
            self._blocks.append(self._block)
            self._block = []
        while self._blocks:
            self._settle(self._blocks.popleft())

    def _settle(self, block: list[tuple[Pending, int]]) -> None:
        for pending, tag in block:
            try:
                pending.get(_WAIT_S)
            except KafkaError as error:
                self.failed += 1
                self._on_error(tag, error)
            else:
                self.acknowledged += 1
            self.settled += 1


class _Refused:
    """A record that the producer did not take (too large, unknown topic)."""

    is_done = True

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.exception: BaseException | None = error

    def failed(self) -> bool:
        return True

    def get(self, timeout: float | None = None) -> None:
        raise self._error
