"""An engine with fakes around it, for tests that play scenarios on it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import msgspec

from operators.batches import Chunk
from operators.effects import Effects
from operators.ranking import Policy
from streams.catalog import Catalog
from streams.checkpoint import Settlement
from streams.engine import Engine
from streams.intake import Intake
from streams.metrics import Metrics
from streams.states import States
from tests.fakes import NOW_MS, TOPICS, FakeEncoder, items, record

WAIT_S = 5.0
PATIENCE_S = 0.05
"""Long enough for what must not happen to happen."""
_MANY = 100


class TP(NamedTuple):
    topic: str
    partition: int


class Arrived(NamedTuple):
    """A consumed record with its time of arrival."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    timestamp: int


class FakeStore:
    """Values by partition and key."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, bytes], bytes] = {}

    def load(self, partition: int, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.values.get((partition, key)) for key in keys]

    def get(self, partition: int, key: bytes) -> bytes | None:
        return self.values.get((partition, key))


class FakeCheckpoint:
    """Notes what is settled; after ``hold`` a settlement that has begun ends when ``let`` lets it."""

    def __init__(self) -> None:
        self.begun: list[Settlement] = []
        self.ended: list[Settlement] = []
        self.error: Exception | None = None
        self._permits = asyncio.Semaphore(_MANY)

    def hold(self) -> None:
        self._permits = asyncio.Semaphore(0)

    def let(self, settlements: int = _MANY) -> None:
        for _ in range(settlements):
            self._permits.release()

    async def settle(self, settlement: Settlement, before: Awaitable[None] | None = None) -> None:
        self.begun.append(settlement)
        await self._permits.acquire()
        if self.error is not None:
            raise self.error
        if before is not None:
            await before
        self.ended.append(settlement)


class Bench:
    """An engine with fakes around it; also its source."""

    def __init__(self, batch_events_max: int = 1, yield_after_s: float = 0.0) -> None:
        self.store: Any = FakeStore()
        self.checkpoint: Any = FakeCheckpoint()
        self.encoder = FakeEncoder(items(30))
        self.states = States(self.store, 4, 100)
        self.catalog = Catalog()
        self.metrics = Metrics()
        self.generations = {1}
        self.lagging: set[str] = set()
        self.engine = Engine(
            self.states,
            self.encoder,
            self.catalog,
            self.checkpoint,
            self.metrics,
            Policy(),
            TOPICS,
            source=self,
            accepts=lambda intake: intake.generation in self.generations,
            batch_events_max=batch_events_max,
            yield_after_s=yield_after_s,
        )

    def has_more(self, tp: Any, received_offset: int) -> bool:
        return tp.topic in self.lagging

    def pause(self, tp: Any) -> None: ...

    def resume(self, tp: Any) -> None: ...

    async def submit(self, offset: int, *, topic: str = "view", user: str = "ann", generation: int = 1) -> None:
        made = record(offset, user, f"item-{offset}", NOW_MS + offset)
        await self.submit_records(topic, [Arrived(*made, NOW_MS + offset)], generation)

    async def submit_records(self, topic: str, records: Sequence[Arrived], generation: int = 1) -> None:
        await self.engine.submit([intake_of(topic, records, generation)])

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not what():  # noqa: ASYNC110  # fakes and numbers have no event
                await asyncio.sleep(0.001)

    async def until_ended(self, settlements: int) -> None:
        await self.until(lambda: len(self.checkpoint.ended) >= settlements)


def intake_of(topic: str, records: Sequence[Arrived], generation: int = 1) -> Intake:
    """A chunk of partition 0."""
    return Intake(TP(topic, 0), Chunk.of(topic, TOPICS.index(topic), 0, records), generation)


def run(
    scenario: Callable[[Bench], Coroutine[Any, Any, None]], batch_events_max: int = 1, yield_after_s: float = 0.0
) -> None:
    """Play a scenario on a started engine, and stop it."""

    async def main() -> None:
        bench = Bench(batch_events_max, yield_after_s)
        bench.engine.start()
        try:
            await scenario(bench)
        finally:
            await bench.engine.stop()
            if bench.engine.failed.done():
                bench.engine.failed.exception()

    asyncio.run(main())


def view_offsets(settlements: Sequence[Settlement]) -> list[int]:
    return [settlement.offsets[TP("view", 0)] for settlement in settlements]


def causes(effects: Effects) -> list[tuple[str, int]]:
    return [
        (cause["topic"], cause["offset"])
        for publish in effects.lists
        for cause in msgspec.json.decode(publish.value)["caused_by"]
    ]
