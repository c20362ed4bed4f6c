"""Reading parts of topics: where they really end, everything in them, the last record of one key."""

import time
from collections.abc import Generator, Sequence
from typing import Final

from operators import limits
from streams.clients.errors import ClientError
from streams.clients.kafka import Cluster, Consumer, Partition, Record, partition_count

__all__ = ["end_offsets", "last_of_key", "partitions_of", "read", "settled_ends"]

_POLL_MS: Final = 100
_STALL_TIMEOUT_S: Final = 20.0
_TRANSACTION_S_MAX: Final = limits.transaction_timeout_ms / 1000 + 30.0
"""A worker's longest one, and the time in which a broker sees that it is over (every 10 s)."""
_WINDOW_RECORDS_MIN: Final = 2_000


def partitions_of(cluster: Cluster, topic: str) -> list[Partition]:
    """Every partition of ``topic``.

    Raises:
        ClientError: there is no such topic.
    """
    return [Partition(topic, number) for number in range(partition_count(cluster, topic))]


def end_offsets(consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """Where what is committed ends now; assigns the partitions to the consumer.

    That is before the first record of a transaction which is still open: whoever waited for that one would wait for
    the producer, or for the broker to give it up.

    Raises:
        ClientError: a partition gave no answer in time.
    """
    ends = _high_watermarks(consumer, partitions)
    # The embedded broker has no transactions, and answers with the base offset of its last batch plus one.
    stable = ends if consumer.is_embedded else consumer.end_offsets(partitions)
    return {partition: min(end, stable[partition]) for partition, end in ends.items()}


def settled_ends(
    consumer: Consumer, partitions: Sequence[Partition], timeout_s: float = _TRANSACTION_S_MAX
) -> dict[Partition, int]:
    """Where each partition ends now, once every transaction that is open now is over; for who must miss nothing.

    Raises:
        ClientError: a partition gave no answer, or a transaction is still open after ``timeout_s``.
    """
    ends = _high_watermarks(consumer, partitions)
    deadline = time.monotonic() + timeout_s
    while not consumer.is_embedded:
        stable = consumer.end_offsets(partitions)
        held = sorted(p.partition for p, end in ends.items() if stable[p] < end)
        if not held:
            break
        if time.monotonic() > deadline:
            raise ClientError(
                f"topic {partitions[0].topic!r}: partitions {held} are held by a transaction that is still open after"
                f" {timeout_s:g} s; find its producer with `kafka-transactions.sh find-hanging`"
            )
        time.sleep(_POLL_MS / 1000)
    return ends


def _high_watermarks(consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """The offset that the next record of each partition will get, from fetch responses."""
    consumer.assign(partitions)
    for partition, offset in consumer.end_offsets(partitions).items():
        consumer.seek(partition, offset)
    deadline = time.monotonic() + _STALL_TIMEOUT_S
    while True:
        consumer.poll(_POLL_MS)
        ends = {p: end for p in partitions if (end := consumer.highwater(p)) is not None}
        if len(ends) == len(partitions):
            return ends
        if time.monotonic() > deadline:
            silent = sorted(p.partition for p in partitions if p not in ends)
            raise ClientError(
                f"topic {partitions[0].topic!r}: partitions {silent} silent for {_STALL_TIMEOUT_S:g} s;"
                " check the broker with `headwater doctor`"
            )


def read(consumer: Consumer, starts: dict[Partition, int], ends: dict[Partition, int]) -> Generator[Record, None, None]:
    """The records from ``starts`` (inclusive) to ``ends`` (exclusive), in order within each partition.

    Raises:
        ClientError: nothing arrived for a while although the end was not reached.
    """
    wanted = [p for p in ends if starts[p] < ends[p]]
    if not wanted:
        return
    consumer.assign(wanted)
    for partition in wanted:
        consumer.seek(partition, starts[partition])
    deadline = time.monotonic() + _STALL_TIMEOUT_S
    while any(consumer.position(p) < ends[p] for p in wanted):
        polled = consumer.poll(_POLL_MS)
        for partition, records in polled.items():
            yield from (record for record in records if record.offset < ends[partition])
        if polled:
            deadline = time.monotonic() + _STALL_TIMEOUT_S
        elif time.monotonic() > deadline:
            missing = {p.partition: (consumer.position(p), ends[p]) for p in wanted if consumer.position(p) < ends[p]}
            raise ClientError(
                f"topic {wanted[0].topic!r}: nothing arrived in {_STALL_TIMEOUT_S:g} s, and of these partitions"
                f" something is missing (position, end): {missing}; check the broker with `headwater doctor`"
            )


def last_of_key(consumer: Consumer, partition: Partition, key: bytes) -> Record | None:
    """The newest record with this key in one partition; None where there is none.

    Reads backwards in windows of doubling size, since what was written last is what is asked for most.
    """
    upper = end_offsets(consumer, [partition])[partition]
    first = consumer.beginning_offsets([partition])[partition]
    window = _WINDOW_RECORDS_MIN
    while upper > first:
        lower = max(upper - window, first)
        found: Record | None = None
        for record in read(consumer, {partition: lower}, {partition: upper}):
            if record.key == key:
                found = record
        if found is not None:
            return found
        upper, window = lower, window * 2
    return None
