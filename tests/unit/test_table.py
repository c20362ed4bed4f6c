"""The table's store in a rebalance: partitions are closed and opened beside the event loop."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams.store import StoreError
from streams.table import UserStore

WAIT_S = 5.0


class FakeStore:
    """Partitions of which closing one takes as long as a compaction."""

    def __init__(self) -> None:
        self.partitions = frozenset({0, 1})
        self.calls: list[tuple[str, int]] = []
        self.compacted = threading.Event()
        self.error: Exception | None = None

    def close(self, partition: int) -> None:
        assert self.compacted.wait(WAIT_S), "the event loop stood still until the partition was closed"
        self.calls.append(("close", partition))

    def open(self, partition: int) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("open", partition))


def user_store(store: FakeStore, failed: list[BaseException]) -> Any:
    async def cancel() -> None:
        pass

    made: Any = UserStore.__new__(UserStore)
    made.store, made._restorer, made._on_error = store, SimpleNamespace(cancel=cancel), failed.append
    made.table = SimpleNamespace(changelog_topic=SimpleNamespace(get_topic_name=lambda: "changelog"))
    return made


def test_the_loop_goes_on_while_a_partition_is_closed() -> None:
    store = FakeStore()

    async def rebalance() -> None:
        assigned = {TP("changelog", 1), TP("changelog", 4), TP("view", 7)}
        moving = asyncio.create_task(user_store(store, []).on_rebalance(assigned, set(), set()))
        await asyncio.sleep(0.05)
        store.compacted.set()
        await asyncio.wait_for(moving, WAIT_S)

    asyncio.run(rebalance())
    assert store.calls == [("close", 0), ("open", 1), ("open", 4)]


def test_a_partition_that_cannot_be_opened_ends_the_worker() -> None:
    store, failed = FakeStore(), list[BaseException]()
    store.compacted.set()
    store.error = StoreError("damaged")
    with pytest.raises(StoreError, match="damaged"):
        asyncio.run(user_store(store, failed).on_rebalance({TP("changelog", 1)}, set(), set()))
    assert failed == [store.error]
