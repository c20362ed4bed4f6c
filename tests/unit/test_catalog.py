"""The catalogue: tombstones withdraw, a record brings back, and malformed ones change nothing."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from streams.catalog import Catalog, CatalogFollower
from tests.fakes import FakeEncoder, items

WAIT_S = 5.0


def value(item_id: str, available: bool | None = None) -> bytes:
    stated = "" if available is None else f',"available":{str(available).lower()}'
    return f'{{"item_id":"{item_id}","title":"Tea","price":1.5{stated}}}'.encode()


def available(encoder: FakeEncoder, item_id: str) -> bool:
    return bool(encoder.available[encoder.row_of(item_id)])


def test_a_tombstone_withdraws_and_a_record_brings_back() -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(3))
    catalog.note(b"item-1", None)
    catalog.note(b"item-2", value("item-2", available=False))
    catalog.note(b"item-0", value("item-0"))
    catalog.apply(encoder)
    assert catalog.withdrawn == {"item-1", "item-2"}
    assert [available(encoder, item) for item in items(3)] == [True, False, False]
    catalog.note(b"item-1", value("item-1"))
    catalog.note(b"item-2", value("item-2", available=True))
    catalog.apply(encoder)
    assert catalog.withdrawn == set()
    assert all(available(encoder, item) for item in items(3))
    assert catalog.malformed_count == 0


def test_the_last_record_of_an_item_decides() -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(1))
    catalog.note(b"item-0", None)
    catalog.note(b"item-0", value("item-0"))
    catalog.note(b"item-0", None)
    catalog.apply(encoder)
    assert catalog.withdrawn == {"item-0"}
    assert not available(encoder, "item-0")


def test_nothing_changes_before_apply_and_nothing_is_applied_twice() -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(1))
    catalog.note(b"item-0", None)
    assert catalog.withdrawn == set()
    assert available(encoder, "item-0")
    catalog.apply(encoder)
    encoder.set_rule("item-0", True, 0.0)
    catalog.apply(encoder)
    assert available(encoder, "item-0")


def test_an_item_the_model_does_not_know_is_withdrawn_too() -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(1))
    catalog.note("läuft".encode(), None)
    catalog.apply(encoder)
    assert catalog.withdrawn == {"läuft"}


def test_categories_and_withdrawals_are_bounded_and_counted_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.catalog.limits.catalog_items_max", 2)
    catalog, encoder = Catalog(), FakeEncoder(items(5))
    for n in range(4):
        catalog.note(f"item-{n}".encode(), f'{{"item_id":"item-{n}","category":"tea","available":false}}'.encode())
    catalog.apply(encoder)
    assert catalog.categories == {"item-0": "tea", "item-1": "tea"}
    assert catalog.withdrawn == {"item-0", "item-1"}
    assert catalog.over_count == 4
    assert not available(encoder, "item-3")  # the model's own rows have room for a rule each
    catalog.note(b"item-0", b'{"item_id":"item-0","category":"milk"}')  # known: may change, and then go
    catalog.note(b"item-1", None)
    catalog.note(b"item-3", b'{"item_id":"item-3","category":"tea"}')
    catalog.apply(encoder)
    assert catalog.categories == {"item-0": "milk", "item-3": "tea"}
    assert catalog.withdrawn == {"item-1"}
    assert catalog.over_count == 4
    catalog.note(b"item-2", b'{"item_id":"item-2","category":"%s"}' % (b"x" * 129))
    assert catalog.malformed_count == 1


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        (None, value("item-0", available=False)),
        (b"\xff\xfe", None),
        (b"item-0", b""),
        (b"item-0", b"not json"),
        (b"item-0", b"[]"),
        (b"item-0", b"{}"),
        (b"item-0", b'{"item_id":"item-0","available":"no"}'),
        (b"item-0", b'{"item_id":"item-0","x":' + b"[" * 100_000),
        (b"item-0", b'{"item_id":"item-0","available":false,"title":"\xff"}'),
    ],
)
def test_a_malformed_record_is_counted_and_changes_nothing(
    key: bytes | None, bad: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(1))
    catalog.note(key, bad)
    catalog.apply(encoder)
    assert catalog.malformed_count == 1
    assert catalog.withdrawn == set()
    assert available(encoder, "item-0")
    assert repr(key) in caplog.text


class FakeConsumer:
    """A topic of two partitions that are read one record at a time."""

    def __init__(self, *logs: list[tuple[bytes, bytes | None]]) -> None:
        self.logs: dict[Any, list[tuple[bytes, bytes | None]]] = {
            TopicPartition("catalog", n): log for n, log in enumerate(logs)
        }
        self.positions: dict[Any, int] = {}
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")

    def assign(self, partitions: list[Any]) -> None:
        self.positions = {tp: len(self.logs[tp]) for tp in partitions}

    async def seek_to_beginning(self, *partitions: Any) -> None:
        self.positions.update(dict.fromkeys(partitions, 0))

    async def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return {tp: len(self.logs[tp]) for tp in partitions}

    async def position(self, tp: Any) -> int:
        return self.positions[tp]

    async def getmany(self, *, timeout_ms: int) -> dict[Any, list[Any]]:
        await asyncio.sleep(0.001)
        for tp, at in self.positions.items():
            if at < len(self.logs[tp]):
                key, value = self.logs[tp][at]
                self.positions[tp] += 1
                return {tp: [SimpleNamespace(key=key, value=value)]}
        return {}


def _unwatched(task: "asyncio.Task[None]") -> None:
    """Nobody waits for the end of the following."""


def test_the_follower_has_read_everything_when_it_starts_and_goes_on() -> None:
    async def scenario() -> None:
        catalog, encoder = Catalog(), FakeEncoder(items(6))
        consumer = FakeConsumer([(b"item-0", None), (b"item-1", None)], [(b"item-2", None)])
        follower = CatalogFollower(catalog, consumer, "catalog", 2)
        await follower.start(_unwatched)
        catalog.apply(encoder)
        assert catalog.withdrawn == {"item-0", "item-1", "item-2"}
        consumer.logs[TopicPartition("catalog", 1)].append((b"item-1", value("item-1")))
        async with asyncio.timeout(WAIT_S):
            while "item-1" in catalog.withdrawn:
                await asyncio.sleep(0.001)
                catalog.apply(encoder)
        await asyncio.wait_for(follower.stop(), WAIT_S)
        assert consumer.calls == ["start", "stop"]

    asyncio.run(scenario())


def test_the_follower_starts_on_an_empty_topic() -> None:
    async def scenario() -> None:
        follower = CatalogFollower(Catalog(), FakeConsumer([]), "catalog", 1)
        await asyncio.wait_for(follower.start(_unwatched), WAIT_S)
        await follower.stop()

    asyncio.run(scenario())


def test_the_end_of_the_following_is_told_with_its_error() -> None:
    async def scenario() -> None:
        ended: asyncio.Future[asyncio.Task[None]] = asyncio.get_running_loop().create_future()
        follower = CatalogFollower(Catalog(), consumer := FakeConsumer([]), "catalog", 1)
        await follower.start(ended.set_result)
        consumer.logs = None  # what reads it next fails
        task = await asyncio.wait_for(ended, WAIT_S)
        assert task.exception() is not None

    asyncio.run(scenario())


def test_boosts_and_categories_are_rules_of_the_catalogue() -> None:
    catalog, encoder = Catalog(), FakeEncoder(items(3))
    catalog.note(b"item-0", b'{"item_id":"item-0","category":"tea","boost":1.5}')
    catalog.note(b"item-1", b'{"item_id":"item-1","category":"tea"}')
    catalog.note(b"item-1", b'{"item_id":"item-1"}')
    catalog.note(b"item-2", b'{"item_id":"item-2","boost":1e9}')
    catalog.apply(encoder)
    assert catalog.categories == {"item-0": "tea"}
    assert encoder.boosts.tolist() == [0, 1.5, 0, 0]
    assert catalog.malformed_count == 1
