"""The catalogue as the worker follows it: which items are withdrawn."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiokafka import TopicPartition

from operators import limits
from operators.interest import Encoder
from operators.records import Records

__all__ = ["Catalog", "CatalogFollower", "CatalogItem"]

log = logging.getLogger(__name__)


class CatalogItem(msgspec.Struct):
    """The value of a record on the ``catalog`` topic; a tombstone withdraws the item."""

    item_id: str
    title: str | None = None
    category: Annotated[str, msgspec.Meta(max_length=limits.id_bytes_max)] | None = None
    brand: str | None = None
    available: bool = True
    boost: Annotated[float, msgspec.Meta(ge=-limits.boost_max, le=limits.boost_max)] = 0.0
    """Added to the item's score, whoever asks."""


_decode = msgspec.json.Decoder(CatalogItem).decode


class Catalog:
    """The rules for items. ``note`` runs on the event loop, ``apply`` and the reading in the thread of the lists."""

    def __init__(self) -> None:
        self.withdrawn: set[str] = set()
        self.categories: dict[str, str] = {}
        """Of the items that have one."""
        self.malformed_count = 0
        self.over_count = 0
        """Categories and withdrawals that were not kept because ``catalog_items_max`` others are."""
        self._noted: deque[CatalogItem] = deque()

    def note(self, key: bytes | None, value: bytes | None) -> None:
        """Take one record of the topic; a malformed one is counted and changes nothing."""
        try:
            if key is None:
                raise ValueError("the record has no key")
            item_id = key.decode()
            item = CatalogItem(item_id, available=False) if value is None else _decode(value)
        except (ValueError, RecursionError) as error:  # DecodeError is a ValueError
            self.malformed_count += 1
            log.warning("catalog record with key %r is ignored: %s", key, error)
            return
        item.item_id = item_id
        self._noted.append(item)

    def apply(self, encoder: Encoder) -> None:
        """Bring what was noted since the last call to ``withdrawn``, to ``categories`` and to the encoder."""
        while self._noted:
            item = self._noted.popleft()
            self._keep_withdrawn(item)
            self._keep_category(item)
            encoder.set_rule(item.item_id, item.available, item.boost)

    def _keep_withdrawn(self, item: CatalogItem) -> None:
        if item.available:
            self.withdrawn.discard(item.item_id)
        elif item.item_id in self.withdrawn or len(self.withdrawn) < limits.catalog_items_max:
            self.withdrawn.add(item.item_id)
        else:
            self._count_over(item, "withdrawals: it may stand among popular items")

    def _keep_category(self, item: CatalogItem) -> None:
        if not item.category:
            self.categories.pop(item.item_id, None)
        elif item.item_id in self.categories or len(self.categories) < limits.catalog_items_max:
            self.categories[item.item_id] = item.category
        else:
            self._count_over(item, "categories: no cap counts it")

    def _count_over(self, item: CatalogItem, kept: str) -> None:
        if self.over_count == 0:
            log.warning("item %r is over the limit of %d %s", item.item_id, limits.catalog_items_max, kept)
        self.over_count += 1


class CatalogFollower:
    """Reads every partition of the topic from its beginning, and goes on; belongs to no group."""

    def __init__(self, catalog: Catalog, consumer: Any, topic: str, partitions: int) -> None:
        """``consumer`` is an AIOKafkaConsumer of no topic and no group, not yet started."""
        self.catalog = catalog
        self._consumer = consumer
        self._partitions = [TopicPartition(topic, partition) for partition in range(partitions)]
        self._task: asyncio.Task[None] | None = None

    async def start(self, on_end: Callable[[asyncio.Task[None]], None]) -> None:
        """Return when everything that the topic held has been read; ``on_end`` is told when the following ends."""
        await self._consumer.start()
        self._consumer.assign(self._partitions)
        await self._consumer.seek_to_beginning(*self._partitions)
        ends = await self._consumer.end_offsets(self._partitions)
        while any([await self._consumer.position(tp) < ends[tp] for tp in self._partitions]):
            await self._read(timeout_ms=1000)
        self._task = asyncio.create_task(self._follow(), name="headwater-catalog")
        self._task.add_done_callback(on_end)

    async def stop(self) -> None:
        """Leave the topic."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._consumer.stop()

    async def _follow(self) -> None:
        while True:
            await self._read(timeout_ms=1000)

    async def _read(self, timeout_ms: int) -> None:
        read: dict[Any, Records] = await self._consumer.getmany(timeout_ms=timeout_ms)
        for records in read.values():
            for record in records:
                self.catalog.note(record.key, record.value)
