"""The queue between Faust and the engine: oldest first, bounded, and a moment's patience for a lagging topic."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest

from operators import limits
from operators.batches import Chunk
from streams.intake import Intake, IntakeQueue

TOPICS = ("view", "click")
BOUND = limits.partition_queue_events_max


class TP(NamedTuple):
    topic: str
    partition: int


class Stamped(NamedTuple):
    """A record of which the queue looks at the place and the time."""

    offset: int
    timestamp: int
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class FakeSource:
    """A consumer that knows the end of every source partition and notes what is asked of it."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], int] = {}
        self.calls: list[tuple[str, TP]] = []

    def has_more(self, tp: TP, received_offset: int) -> bool:
        return self.ends.get((tp.topic, tp.partition), 0) > received_offset + 1

    def pause(self, tp: TP) -> None:
        self.calls.append(("pause", tp))

    def resume(self, tp: TP) -> None:
        self.calls.append(("resume", tp))


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def intake(topic: str, partition: int, timestamp: int, records: int = 1, offset: int = 0) -> Intake:
    """A chunk of records that follow each other by a millisecond."""
    stamped = [Stamped(offset + n, timestamp + n) for n in range(records)]
    return Intake(TP(topic, partition), Chunk.of(topic, TOPICS.index(topic), partition, stamped), 1)


def order(taken: list[Intake]) -> list[tuple[str, int, int]]:
    return [(one.tp.topic, one.tp.partition, one.chunk.records.record(0).timestamp) for one in taken]


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(source: FakeSource, clock: Clock) -> IntakeQueue:
    return IntakeQueue(source, clock)


def test_the_oldest_goes_first_over_topics_and_partitions(queue: IntakeQueue) -> None:
    for one in (
        intake("click", 0, 500),
        intake("click", 0, 900, offset=1),
        intake("view", 0, 100),
        intake("view", 0, 700, offset=1),
        intake("view", 1, 300),
    ):
        queue.put(one)
    assert len(queue) == 5
    assert order(queue.take(1_000, TOPICS)) == [
        ("view", 0, 100),
        ("view", 1, 300),
        ("click", 0, 500),
        ("view", 0, 700),
        ("click", 0, 900),
    ]
    assert len(queue) == 0
    assert queue.take(1_000, TOPICS) == []


def test_records_of_one_source_partition_keep_their_order_whatever_their_times(queue: IntakeQueue) -> None:
    queue.put(intake("view", 0, 900))
    queue.put(intake("view", 0, 100, offset=1))
    queue.put(intake("click", 0, 500))
    assert order(queue.take(1_000, TOPICS)) == [("click", 0, 500), ("view", 0, 900), ("view", 0, 100)]


def test_a_take_holds_its_bound_of_events(queue: IntakeQueue) -> None:
    for n in range(4):
        queue.put(intake("view", 0, 100 * n, records=10, offset=10 * n))
    assert [one.chunk.records.record(0).offset for one in queue.take(29, TOPICS)] == [0, 10]
    assert len(queue) == 20
    assert [one.chunk.records.record(0).offset for one in queue.take(20, TOPICS)] == [20, 30]


def test_a_take_is_one_chunk_at_least(queue: IntakeQueue) -> None:
    queue.put(intake("view", 0, 100, records=50))
    queue.put(intake("view", 0, 200, offset=50))
    assert [len(one.chunk.records) for one in queue.take(10, TOPICS)] == [50]
    assert len(queue) == 1


def test_a_large_chunk_is_taken_in_parts_between_which_older_records_of_others_go(queue: IntakeQueue) -> None:
    grain = limits.chunk_records_max
    queue.put(intake("view", 0, 0, records=2 * grain + 1, offset=7))
    queue.put(intake("click", 0, grain // 2, records=grain + 1))
    queue.put(intake("view", 0, 9_000, offset=8 + 2 * grain))
    assert len(queue) == 3 * grain + 3
    taken = queue.take(10_000, TOPICS)
    spans = [(one.tp.topic, one.chunk.records.record(0).offset, one.chunk.records.last_offset) for one in taken]
    assert spans == [
        ("view", 7, grain + 6),
        ("click", 0, grain - 1),
        ("view", grain + 7, 2 * grain + 6),
        ("click", grain, grain),
        ("view", 2 * grain + 7, 2 * grain + 7),
        ("view", 2 * grain + 8, 2 * grain + 8),
    ]
    assert [(one.chunk.topic, one.chunk.event_type, one.generation) for one in taken[:2]] == [
        ("view", 0, 1),
        ("click", 1, 1),
    ]


def test_waits_for_a_topic_that_has_more_but_not_for_ever(queue: IntakeQueue, source: FakeSource, clock: Clock) -> None:
    source.ends["click", 0] = 5
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == []
    clock.now_s += (limits.align_wait_ms - 1) / 1000
    assert queue.take(10, TOPICS) == []
    assert queue.unaligned == 0
    clock.now_s += 0.002
    assert order(queue.take(10, TOPICS)) == [("view", 0, 100)]
    queue.put(intake("view", 0, 200, offset=1))
    assert order(queue.take(10, TOPICS)) == [("view", 0, 200)]
    assert queue.unaligned == 1  # it is the same topic that it goes on without


def test_patience_begins_when_a_chunk_waits_not_before(queue: IntakeQueue, source: FakeSource, clock: Clock) -> None:
    source.ends["click", 0] = 5
    queue.put(intake("click", 0, 10))
    queue.put(intake("view", 1, 20))
    assert len(queue.take(10, TOPICS)) == 2  # partition 0 is empty now, and click/0 is known to have more
    clock.now_s += 5
    queue.put(intake("view", 1, 30, offset=1))
    assert len(queue.take(10, TOPICS)) == 1
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == []


def test_what_was_waited_for_ends_the_wait_and_goes_first_if_it_is_older(
    queue: IntakeQueue, source: FakeSource
) -> None:
    source.ends["click", 0] = 1
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == []
    queue.put(intake("click", 0, 50))
    assert order(queue.take(10, TOPICS)) == [("click", 0, 50), ("view", 0, 100)]


def test_a_wait_that_ended_starts_anew_with_the_next_lack(queue: IntakeQueue, source: FakeSource, clock: Clock) -> None:
    source.ends["click", 0] = 1
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == []
    clock.now_s += limits.align_wait_ms / 1000 - 0.001
    queue.put(intake("click", 0, 50))
    assert len(queue.take(10, TOPICS)) == 2
    source.ends["click", 0] = 2
    queue.put(intake("view", 0, 200, offset=1))
    clock.now_s += 0.002
    assert queue.take(10, TOPICS) == []


def test_does_not_wait_for_a_topic_that_has_nothing_more(queue: IntakeQueue, source: FakeSource) -> None:
    source.ends["click", 0] = 3
    queue.put(intake("click", 0, 10, records=3))
    assert order(queue.take(10, TOPICS)) == [("click", 0, 10)]
    queue.put(intake("view", 0, 100))
    assert order(queue.take(10, TOPICS)) == [("view", 0, 100)]


def test_a_waiting_partition_does_not_hold_up_the_others(queue: IntakeQueue, source: FakeSource) -> None:
    source.ends["click", 0] = 5
    queue.put(intake("view", 0, 100))
    queue.put(intake("view", 1, 300))
    assert order(queue.take(10, TOPICS)) == [("view", 1, 300)]
    assert len(queue) == 1


def test_a_topic_that_runs_dry_during_the_take_stops_its_partition(queue: IntakeQueue, source: FakeSource) -> None:
    source.ends["click", 0] = 2
    queue.put(intake("click", 0, 50))
    queue.put(intake("view", 0, 100))
    queue.put(intake("view", 1, 300))
    assert order(queue.take(10, TOPICS)) == [("click", 0, 50), ("view", 1, 300)]


def test_pauses_at_the_bound_and_resumes_below_half(queue: IntakeQueue, source: FakeSource) -> None:
    tp, quarter = TP("view", 0), BOUND // 4
    for n in range(3):
        queue.put(intake("view", 0, n, records=quarter, offset=n * quarter))
    queue.put(intake("click", 0, 10**6, records=quarter))
    assert source.calls == []
    queue.put(intake("view", 0, 4, records=quarter, offset=3 * quarter))
    assert source.calls == [("pause", tp)]
    queue.take(quarter, TOPICS)
    queue.take(quarter, TOPICS)
    assert source.calls == [("pause", tp)]
    queue.take(quarter, TOPICS)
    assert source.calls == [("pause", tp), ("resume", tp)]
    queue.take(quarter, TOPICS)
    assert len(source.calls) == 2


def test_clear_forgets_chunks_waits_and_what_was_received(queue: IntakeQueue, source: FakeSource, clock: Clock) -> None:
    source.ends["click", 0] = 3
    queue.put(intake("click", 0, 10, records=3))
    queue.take(10, TOPICS)
    queue.put(intake("view", 0, 100))
    queue.clear()
    assert len(queue) == 0
    assert queue.take(10, TOPICS) == []
    # The other topic is read again from the start, so it has more once more.
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == []
    clock.now_s += 1
    queue.clear()
    queue.put(intake("view", 0, 100))
    assert queue.take(10, TOPICS) == [], "a wait from before the clear went on"


def test_clear_starts_the_count_of_a_partition_anew(queue: IntakeQueue, source: FakeSource) -> None:
    queue.put(intake("view", 0, 1, records=BOUND - 1))
    queue.clear()
    queue.put(intake("view", 0, 1))
    assert source.calls == []
