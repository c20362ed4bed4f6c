"""What a running system knows of one user, read from its topics: no worker is asked, no store is opened."""

from typing import Any

import numpy as np
import orjson

from operators.interest import EVENT_TYPES
from operators.partition import partition_of
from operators.state import StateError, UserState, decode
from streams.clients.errors import ClientError, InputError
from streams.clients.kafka import Consumer, Partition, consumer, describe_cluster, partition_count
from streams.clients.reading import last_of_key
from streams.settings import Settings
from streams.topics import changelog_topic

__all__ = ["inspect"]


def inspect(settings: Settings, user_id: str) -> dict[str, Any]:
    """State and current list of one user, as of the last changelog record and the last published list.

    Raises:
        InputError: nothing is known of the user.
        ClientError: no broker, no topic, or a record that cannot be read.
    """
    cluster = describe_cluster(settings.broker)
    changelog = changelog_topic(settings.worker.app_id)
    key, at = settings.privacy.key_of(user_id), user_id.encode()
    state_at = Partition(changelog, partition_of(at, partition_count(cluster, changelog)))
    lists = settings.topics.recommendations
    list_at = Partition(lists, partition_of(at, partition_count(cluster, lists)))
    with consumer(settings.broker) as client:
        state = _state(client, state_at, key)
        ranked = _list(client, list_at, key)
    if state is None and ranked is None:
        raise InputError(
            f"nothing is known of user {user_id!r} (partition {state_at.partition} of {changelog!r});"
            " check the id, and with `headwater doctor` that the worker runs and producers use murmur2"
        )
    return {"user_id": user_id, "partition": state_at.partition, "state": state, "list": ranked}


def _state(client: Consumer, at: Partition, key: bytes) -> dict[str, Any] | None:
    record = last_of_key(client, at, key)
    if record is None or record.value is None:
        return None
    try:
        state = decode(record.value)
    except StateError as error:
        raise ClientError(
            f"{at.topic}/{at.partition} offset {record.offset}: {error};"
            " read it with the version of headwater that wrote it"
        ) from error
    return {**_described(state), "updated_at_ms": record.timestamp, "changelog_offset": record.offset}


def _described(state: UserState) -> dict[str, Any]:
    history = zip(state.history_items, state.history_types, state.history_times_ms, strict=True)
    return {
        "model_version": state.model_version,
        "events_count": state.events_count,
        "late_count": state.late_count,
        "unknown_count": state.unknown_count,
        "fences": dict(zip(EVENT_TYPES, state.fences, strict=False)),
        "vector_norm": None if state.vector is None else round(float(np.linalg.norm(state.vector)), 6),
        "history": [{"item_id": i, "type": EVENT_TYPES[t], "timestamp": at} for i, t, at in history],
    }


def _list(client: Consumer, at: Partition, key: bytes) -> dict[str, Any] | None:
    record = last_of_key(client, at, key)
    if record is None or record.value is None:
        return None
    try:
        return dict(orjson.loads(record.value))
    except (orjson.JSONDecodeError, TypeError, ValueError) as error:
        raise ClientError(
            f"{at.topic}/{at.partition} offset {record.offset} is no ranked list ({error});"
            " check that nothing else writes to topics.recommendations"
        ) from error
