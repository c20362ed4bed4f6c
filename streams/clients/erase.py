"""Asking for the erasure of users, and waiting for the receipts."""

import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import orjson

from operators.events import JSON_HEADERS, id_problem
from streams.clients.acls import require
from streams.clients.delivery import Delivery
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import Cluster, Consumer, consumer, describe_cluster, partition_count, producer
from streams.clients.reading import end_offsets, partitions_of
from streams.clock import now_ms
from streams.settings import Settings

__all__ = ["Erased", "erase"]

_POLL_MS: Final = 100


class Erased(NamedTuple):
    """One request; ``receipt`` is None while there is none."""

    request_id: str
    receipt: dict[str, Any] | None


def erase(settings: Settings, user_ids: Sequence[str], *, until_ms: int | None, timeout_s: float) -> list[Erased]:
    """Ask for the erasure of each user, and wait up to ``timeout_s`` for the receipts; 0 does not wait.

    Args:
        until_ms: event time up to which events are refused from then on; None is now.

    Raises:
        InputError: an id that no user can have.
        ClientError: no broker, no topic, or a request that was not delivered.
    """
    for user_id in user_ids:
        problem = id_problem(user_id)
        if problem is not None:
            raise InputError(f"user id {user_id!r} {problem}; no user can have it")
    require(settings, "eraser")
    cluster = describe_cluster(settings.broker)
    requests = {uuid.uuid4().hex: user_id for user_id in user_ids}
    with consumer(settings.broker) as client:
        _stand_at_the_end(settings, cluster, client)
        _send(settings, cluster, requests, until_ms if until_ms is not None else now_ms())
        receipts = _receipts(client, requests.keys().__contains__, len(requests), timeout_s)
    return [Erased(request_id, receipts.get(request_id)) for request_id in requests]


def _stand_at_the_end(settings: Settings, cluster: Cluster, client: Consumer) -> None:
    for partition, offset in end_offsets(client, partitions_of(cluster, settings.topics.receipts)).items():
        client.seek(partition, offset)


def _send(settings: Settings, cluster: Cluster, requests: dict[str, str], until_ms: int) -> None:
    topic = settings.topics.erase
    partitions = partition_count(cluster, topic)
    failures: list[BaseException] = []
    with producer(settings.broker, cluster) as client:
        delivery = Delivery(client, lambda _, error: failures.append(error))
        for request_id, user_id in requests.items():
            value = orjson.dumps({"user_id": user_id, "timestamp": until_ms, "request_id": request_id})
            delivery.send(topic, user_id.encode(), value, JSON_HEADERS, partitions)
        delivery.flush()
    if failures:
        raise ClientError(f"{len(failures)} of {len(requests)} requests were not delivered ({failures[0]}); ask again")


def _receipts(
    client: Consumer, is_ours: Callable[[str], bool], count: int, timeout_s: float
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_s
    while len(found) < count and time.monotonic() < deadline:
        for records in client.poll(_POLL_MS).values():
            for record in records:
                request_id = (record.key or b"").decode(errors="replace")
                if record.value is not None and is_ours(request_id):
                    found[request_id] = orjson.loads(record.value)
    return found
