"""JSON lines to the event topics, keyed by user id."""

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

import msgspec
import orjson

from operators.interest import EVENT_TYPES
from streams.clients.acls import require
from streams.clients.delivery import Delivery
from streams.clients.errors import InputError
from streams.clients.kafka import describe_cluster, partition_count, producer
from streams.settings import Settings

__all__ = ["CONTENT_TYPE", "Produced", "produce"]

CONTENT_TYPE: Final = {"json": b"application/json", "msgpack": b"application/msgpack"}


class Produced(NamedTuple):
    """What became of the lines."""

    delivered: int
    rejected: int
    """Lines that were no event."""
    undelivered: int
    """Events that the broker did not acknowledge."""


class _Outgoing(NamedTuple):
    topic: str
    key: bytes | None
    value: bytes


def produce(
    settings: Settings,
    lines: Iterable[bytes],
    *,
    event_type: str | None,
    encoding: str,
    raw: bool,
    report: Callable[[str], None],
) -> Produced:
    """Send every line; ``report`` gets one message for each line that was refused or not delivered.

    Args:
        event_type: of every line; None takes each line's ``type`` field.
        encoding: "json" or "msgpack".
        raw: send the bytes of a line as they are, whatever they are.

    Raises:
        ClientError: the broker does not answer, or an event topic is missing.
    """
    topics: dict[str, str] = dict(zip(EVENT_TYPES, settings.topics.events, strict=True))
    require(settings, "producer")
    cluster = describe_cluster(settings.broker)
    counts = {topic: partition_count(cluster, topic) for topic in topics.values()}
    headers = [("content-type", CONTENT_TYPE[encoding])]
    rejected = 0

    def undelivered(number: int, error: BaseException) -> None:
        report(f"line {number}: not delivered ({error})")

    with producer(settings.broker, cluster) as client:
        delivery = Delivery(client, undelivered)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                outgoing = _outgoing(line.rstrip(b"\r\n"), topics, event_type, encoding, raw)
            except InputError as error:
                rejected += 1
                report(f"line {number}: {error}")
                continue
            delivery.send(*outgoing, headers, counts[outgoing.topic], number)
        delivery.flush()
    return Produced(delivery.acknowledged, rejected, delivery.failed)


def _outgoing(line: bytes, topics: dict[str, str], event_type: str | None, encoding: str, raw: bool) -> _Outgoing:
    event = _event(line, raw)
    chosen = event_type or event.pop("type", None)
    if not isinstance(chosen, str) or chosen not in topics:
        raise InputError(f"type {chosen!r} is none of {', '.join(topics)}; add a `type` field or --type")
    user_id = event.get("user_id")
    key = user_id.encode() if isinstance(user_id, str) and user_id else None
    if raw:
        return _Outgoing(topics[chosen], key, line)
    if key is None:
        raise InputError("user_id is missing or no text; every event needs one, it is the key")
    value = orjson.dumps(event) if encoding == "json" else msgspec.msgpack.encode(event)
    return _Outgoing(topics[chosen], key, value)


def _event(line: bytes, raw: bool) -> dict[str, Any]:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        if raw:
            return {}
        raise InputError(f"not JSON ({error}); one event per line") from error
    if isinstance(event, dict):
        return cast(dict[str, Any], event)
    if raw:
        return {}
    raise InputError("not a JSON object; one event per line")
