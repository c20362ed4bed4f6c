"""The simulator's worker with the real ``Checkpoint`` in it."""

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from streams.checkpoint import Checkpoint, Settlement
from tests.chaos.worker import TARGETS, Outgoing, Worker

__all__ = ["settle_by_checkpoint"]

_BATCH_RECORDS_MAX = 3


class _Batch:
    """A produce batch of few records, so that a partition gets several."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    def append(self, *, key: bytes | None, value: bytes | None, timestamp: int | None, headers: Any) -> object | None:
        if len(self.records) == _BATCH_RECORDS_MAX:
            return None
        self.records.append(Outgoing(key, value, headers))
        return self

    def close(self) -> None:
        """Nothing is to be sealed in memory."""

    def record_count(self) -> int:
        return len(self.records)


class _Producer:
    """Sends at once and delivers later, record by record, the batches of a partition one after the other."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._in_order: defaultdict[tuple[str, int], asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: list[asyncio.Task[None]] = []

    def create_batch(self) -> _Batch:
        return _Batch()

    async def send_batch(self, batch: _Batch, topic: str, *, partition: int) -> "asyncio.Future[Any]":
        delivered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._tasks.append(asyncio.create_task(self._deliver(batch, topic, partition, delivered)))
        return delivered

    async def _deliver(self, batch: _Batch, topic: str, partition: int, delivered: "asyncio.Future[Any]") -> None:
        offsets: list[int] = []
        try:
            async with self._in_order[topic, partition]:
                for record in batch.records:
                    for _ in range(self._worker.network.randrange(4)):
                        await asyncio.sleep(0)
                    offsets.append(self._worker.deliver(topic, partition, record))
        except Exception as error:
            delivered.set_exception(error)
        else:
            delivered.set_result(SimpleNamespace(offset=offsets[0]))


def settle_by_checkpoint(worker: Worker, settlement: Settlement) -> None:
    """``Checkpoint.settle`` over the ports of the worker; a ``CrashError`` in one ends the event loop as it stands."""
    ports: Any = worker

    async def settle() -> None:
        asyncio.get_running_loop().set_exception_handler(_ignore)
        producer = _Producer(worker)
        with ThreadPoolExecutor(1) as executor:
            await Checkpoint(lambda: producer, ports, worker.settle, TARGETS, executor).settle(settlement)

    asyncio.run(settle())


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A crash leaves deliveries behind that nobody waits for."""
