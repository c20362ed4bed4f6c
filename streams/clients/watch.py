"""Ranked lists as they are published."""

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

import orjson

from models.dataset import complete_journey_products
from operators.partition import partition_of
from streams.clients.errors import ClientError
from streams.clients.kafka import Cluster, Consumer, Partition, Record, consumer, describe_cluster
from streams.clients.reading import end_offsets, partitions_of, read
from streams.clock import now_ms
from streams.settings import Settings

__all__ = ["Watched", "catalog_titles", "product_titles", "summary", "watch"]

_POLL_MS: Final = 100
_LIVE_MS_MAX: Final = 24 * 3600 * 1000
"""An event older than this is replayed history; the age of its list says nothing about speed."""


class Watched(NamedTuple):
    """One record of the recommendations topic; ``ranked`` is None for an erased user's tombstone."""

    user_id: str
    ranked: dict[str, Any] | None
    partition: int
    offset: int
    freshness_ms: int | None
    """From the event time to now; None for a list of replayed history."""
    publish_lag_ms: int
    """From the record's timestamp to now."""


def watch(
    settings: Settings,
    *,
    user_id: str | None,
    from_beginning: bool,
    count: int | None,
    timeout_s: float | None,
) -> Generator[Watched, None, None]:
    """Lists as they arrive, until ``count`` of them or ``timeout_s`` without one; for ever without bounds.

    Raises:
        ClientError: no broker, no topic, or a record that is no list.
    """
    cluster = describe_cluster(settings.broker)
    partitions = partitions_of(cluster, settings.topics.recommendations)
    if user_id is not None:
        partitions = [partitions[partition_of(user_id.encode(), len(partitions))]]
    with consumer(settings.broker) as client:
        _assign(client, partitions, from_beginning)
        key = None if user_id is None else settings.privacy.key_of(user_id).decode()
        yield from _bounded(client, key, count, timeout_s)


def _assign(client: Consumer, partitions: Sequence[Partition], from_beginning: bool) -> None:
    if from_beginning:
        client.assign(partitions)
        starts = client.beginning_offsets(partitions)
    else:
        starts = end_offsets(client, partitions)
    for partition, offset in starts.items():
        client.seek(partition, offset)


def _bounded(
    client: Consumer, user_id: str | None, count: int | None, timeout_s: float | None
) -> Generator[Watched, None, None]:
    seen = 0
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while count is None or seen < count:
        for records in client.poll(_POLL_MS).values():
            for record in records:
                watched = _watched(record)
                if user_id is not None and watched.user_id != user_id:
                    continue
                yield watched
                seen += 1
                if seen == count:
                    return
        if deadline is not None and time.monotonic() > deadline:
            return


def _watched(record: Record) -> Watched:
    seen_ms = now_ms()
    ranked = _ranked(record)
    age_ms = seen_ms - int(ranked["event_time"]) if ranked else None
    return Watched(
        (record.key or b"").decode(errors="replace"),
        ranked,
        record.partition,
        record.offset,
        age_ms if age_ms is not None and age_ms <= _LIVE_MS_MAX else None,
        seen_ms - record.timestamp,
    )


def _ranked(record: Record) -> dict[str, Any] | None:
    if record.value is None:
        return None
    try:
        ranked = orjson.loads(record.value)
        int(ranked["event_time"])
        return {**ranked, "items": [dict(item) for item in ranked["items"]]}
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ClientError(
            f"{record.topic}/{record.partition} offset {record.offset} is no ranked list ({error!r});"
            " check that nothing else writes to topics.recommendations"
        ) from error


def summary(watched: Watched, titles: Mapping[str, str] | None) -> dict[str, Any]:
    """The list as one JSON object: the record, where and when it was read, and the known titles."""
    place = {
        "partition": watched.partition,
        "offset": watched.offset,
        "freshness_ms": watched.freshness_ms,
        "publish_lag_ms": watched.publish_lag_ms,
    }
    if watched.ranked is None:
        return {"user_id": watched.user_id, "erased": True, **place}
    if titles is None:
        return {**watched.ranked, **place}
    items = [{**item, "title": titles.get(item["item_id"])} for item in watched.ranked["items"]]
    return {**watched.ranked, "items": items, **place}


def catalog_titles(settings: Settings) -> dict[str, str]:
    """Item id -> title of the whole catalog topic, withdrawn items left out.

    Raises:
        ClientError: no broker, or no catalog topic.
    """
    cluster: Cluster = describe_cluster(settings.broker)
    partitions = partitions_of(cluster, settings.topics.catalog)
    titles: dict[str, str] = {}
    with consumer(settings.broker) as client:
        ends = end_offsets(client, partitions)
        starts = dict(client.beginning_offsets(partitions))
        for record in read(client, starts, ends):
            item_id = (record.key or b"").decode(errors="replace")
            title = _title(record.value)
            if title is None:
                titles.pop(item_id, None)
            else:
                titles[item_id] = title
    return titles


def _title(value: bytes | None) -> str | None:
    if value is None:
        return None
    try:
        item = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    title = cast(dict[str, Any], item).get("title") if isinstance(item, dict) else None
    return title if isinstance(title, str) else None


def product_titles() -> dict[str, str]:
    """Item id -> title of the installed Complete Journey data set.

    Raises:
        ModelError: the data set is not installed.
    """
    return {item_id: product.title for item_id, product in complete_journey_products().items()}
