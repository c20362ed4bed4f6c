"""A history to replay: a file of a known format, or the installed Complete Journey data set."""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson

from models.dataset import Purchases, complete_journey, complete_journey_products
from operators import limits
from operators.interest import EVENT_TYPES
from streams.importers import EventFile
from streams.importers.sorting import Sorter, TimedEvent

__all__ = ["COMPLETE_JOURNEY", "Period", "Source", "open_source"]

COMPLETE_JOURNEY: Final = "complete-journey"
_PURCHASE: Final = EVENT_TYPES.index("purchase")
_TYPE_INDEX: Final[dict[str, int]] = {name: index for index, name in enumerate(EVENT_TYPES)}
_SLICE_EVENTS: Final = 10_000
_DIGEST_CHARS: Final = 8


class Period(NamedTuple):
    """Event time in ms: ``start`` inclusive, ``end`` exclusive."""

    start: int = limits.timestamp_ms_min
    end: int = limits.timestamp_ms_max + 1


class Source:
    """Events of a history in event-time order.

    Attributes:
        digest: of the content, in hexadecimal; the same history has the same digest.
        total: events in the period.
        skipped: bad lines left out.
    """

    def __init__(self, digest: str, total: int, skipped: int = 0) -> None:
        self.digest, self.total, self.skipped = digest, total, skipped

    def events(self, start: int) -> Iterator[TimedEvent]:
        """The events from position ``start`` on."""
        raise NotImplementedError

    def catalog(self) -> Iterator[tuple[bytes, bytes]]:
        """Item id and item (JSON) of what the history knows about its items."""
        return iter(())


@contextmanager
def open_source(name: str, format_name: str, period: Period, *, skip_bad: bool) -> Generator[Source]:
    """``name`` is "complete-journey" or the path of a file.

    Raises:
        InputError: no such file, another format, or a bad line.
        ModelError: the Complete Journey data set is not installed.
        ClientError: no room for temporary files.
    """
    if name == COMPLETE_JOURNEY:
        yield _Purchases(complete_journey(), period)
        return
    path = Path(name)
    file = EventFile(path, format_name, skip_bad=skip_bad)
    digest = _file_digest(path)
    with Sorter() as sorter:
        sorter.add(_encoded(file, f"{file.format}-{digest[:_DIGEST_CHARS]}", period))
        yield _File(digest, sorter, file.skipped)


class _File(Source):
    def __init__(self, digest: str, sorter: Sorter, skipped: int) -> None:
        super().__init__(digest, sorter.count, skipped)
        self._sorter = sorter

    def events(self, start: int) -> Iterator[TimedEvent]:
        events = iter(self._sorter)
        for _ in range(start):
            next(events, None)
        return events


class _Purchases(Source):
    def __init__(self, purchases: Purchases, period: Period) -> None:
        self._purchases = purchases
        self._first, end = np.searchsorted(purchases.timestamp_ms, [period.start, period.end]).tolist()
        super().__init__(_purchases_digest(purchases), end - self._first)

    def events(self, start: int) -> Generator[TimedEvent, None, None]:
        end = self._first + self.total
        for at in range(self._first + start, end, _SLICE_EVENTS):
            yield from _purchase_events(self._purchases, at, min(at + _SLICE_EVENTS, end))

    def catalog(self) -> Generator[tuple[bytes, bytes], None, None]:
        products = complete_journey_products()
        for item_id in self._purchases.items:
            product = products.get(item_id)
            if product is not None:
                yield item_id.encode(), orjson.dumps({"item_id": item_id, **product._asdict()})


def _purchase_events(purchases: Purchases, first: int, end: int) -> Generator[TimedEvent, None, None]:
    columns: tuple[list[Any], ...] = (
        purchases.user[first:end].tolist(),
        purchases.item[first:end].tolist(),
        purchases.timestamp_ms[first:end].tolist(),
        purchases.basket[first:end].tolist(),
        purchases.value[first:end].tolist(),
        purchases.quantity[first:end].tolist(),
    )
    for row, (user, item, when, basket, value, quantity) in enumerate(zip(*columns, strict=True), first):
        user_id = purchases.users[int(user)]
        event: dict[str, Any] = {
            "event_id": f"cj-{row}",
            "user_id": user_id,
            "item_id": purchases.items[int(item)],
            "timestamp": when,
            "session_id": str(basket),
            "value": value,
            "context": {"quantity": quantity},
        }
        yield TimedEvent(when, row, _PURCHASE, user_id.encode(), orjson.dumps(event))


def _encoded(file: EventFile, id_prefix: str, period: Period) -> Generator[TimedEvent, None, None]:
    for sequence, (event_type, event) in enumerate(file):
        when: int = event["timestamp"]
        if not period.start <= when < period.end:
            continue
        whole: dict[str, Any] = {"event_id": f"{id_prefix}-{sequence}", **event}
        key: bytes = event["user_id"].encode()
        yield TimedEvent(when, sequence, _TYPE_INDEX[event_type], key, orjson.dumps(whole))


def _purchases_digest(purchases: Purchases) -> str:
    digest = hashlib.sha256()
    for column in (purchases.user, purchases.item, purchases.timestamp_ms, purchases.basket):
        digest.update(column.tobytes())
    return digest.hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
