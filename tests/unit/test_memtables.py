"""The bound over all memtables: what is flushed, who waits, and what the bytes add up to."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.memtables import Memtables

WAIT_S = 10.0


class Disk:
    """Flushes that are noted, held up and failed as a test wants."""

    def __init__(self) -> None:
        self.flushed: list[int] = []
        self.full: set[int] = set()
        self.error: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.begun = threading.Event()
        self.calls = 0
        self.memtables = Memtables(100, self._flush)

    def _flush(self, partition: int) -> bool:
        self.calls += 1
        if partition in self.full:
            return False
        with self.memtables.flushing(partition):
            self.begun.set()
            assert self.may_go_on.wait(WAIT_S)
            if self.error is not None:
                raise self.error
        self.flushed.append(partition)
        return True

    def write(self, partition: int, size: int) -> None:
        self.memtables.make_room()
        self.memtables.add(partition, size)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    yield made
    made.may_go_on.set()
    made.memtables.close()


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_the_largest_is_flushed_although_another_is_written(disk: Disk) -> None:
    disk.write(0, 50)
    disk.write(1, 30)
    for _ in range(20):  # RocksDB's own bound would flush partition 2 each time
        disk.write(2, 1)
    disk.memtables.close()
    assert disk.flushed == [0]


def test_nothing_is_flushed_below_the_bound(disk: Disk) -> None:
    for partition in range(7):
        disk.write(partition, 10)
    disk.memtables.make_room()
    disk.memtables.close()
    assert disk.flushed == []


def test_a_writer_goes_on_beside_a_flush_and_waits_at_the_bound(disk: Disk) -> None:
    disk.may_go_on.clear()
    disk.write(0, 80)
    disk.write(1, 10)
    assert disk.begun.wait(WAIT_S)
    disk.write(1, 10)  # 100 in all; nobody had to wait so far
    waiting = in_thread(lambda: disk.write(1, 1))
    waiting.join(0.2)
    assert waiting.is_alive()
    disk.may_go_on.set()
    waiting.join(WAIT_S)
    assert not waiting.is_alive()
    assert disk.flushed[0] == 0


def test_what_a_flush_raises_reaches_the_next_writer_once(disk: Disk) -> None:
    disk.error = OSError(28, "No space left on device")
    disk.write(0, 100)
    with pytest.raises(OSError, match="No space"):
        disk.write(0, 1)
    disk.error = None
    disk.write(0, 1)
    assert disk.flushed == [0]


def test_a_partition_that_takes_no_more_files_is_passed_over(disk: Disk) -> None:
    disk.full.add(0)
    disk.write(0, 60)
    disk.write(1, 45)
    disk.write(2, 1)
    assert disk.flushed == [1]


def test_where_none_takes_more_files_a_writer_waits_until_one_does(disk: Disk) -> None:
    disk.write(1, 5)
    with disk.memtables.flushing(1):  # which leaves nothing to flush in it
        pass
    disk.full.add(0)
    disk.write(0, 100)
    waiting = in_thread(lambda: disk.write(0, 1))
    waiting.join(0.3)
    assert waiting.is_alive()
    assert disk.calls < 60, "a writer that waits takes no processor"
    disk.full.clear()
    waiting.join(WAIT_S)
    assert not waiting.is_alive()
    assert disk.flushed == [0]


def test_a_closed_partition_takes_no_room(disk: Disk) -> None:
    disk.write(0, 100)
    disk.memtables.forget(0)
    disk.write(1, 70)
    disk.memtables.make_room()
    disk.memtables.close()
    assert disk.flushed == []


Step = tuple[str, int, int]
KINDS = st.sampled_from(["add", "add", "begin", "begin", "end", "end", "forget"])
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 1), st.integers(0, 9)), min_size=8)


@given(STEPS)
def test_the_bytes_are_those_since_the_last_flush_began(steps: list[Step]) -> None:
    memtables = Memtables(10**9, lambda _: True)
    written: dict[int, int] = {}
    on_disk: dict[int, int] = {}
    under_way: list[tuple[int, int, AbstractContextManager[None]]] = []
    for step, partition, size in steps:
        if step == "add":
            memtables.add(partition, size)
            written[partition] = written.get(partition, 0) + size
        elif step == "begin":
            flush = memtables.flushing(partition)
            flush.__enter__()
            under_way.append((partition, written.get(partition, 0), flush))
        elif step == "end" and under_way:
            of, seen, flush = under_way.pop(size % len(under_way))
            flush.__exit__(None, None, None)
            on_disk[of] = max(seen, on_disk.get(of, 0))
        elif step == "forget" and partition not in {of for of, *_ in under_way}:
            memtables.forget(partition)
            written.pop(partition, None)
            on_disk.pop(partition, None)
    assert memtables.bytes == sum(written.values()) - sum(on_disk.values())
    assert [memtables.bytes_of(n) for n in (0, 1)] == [written.get(n, 0) - on_disk.get(n, 0) for n in (0, 1)]
    memtables.close()
