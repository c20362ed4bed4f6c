"""Events at the door: bytes in, an ``Event`` or a ``Rejected`` with a reason out. Nothing here raises on bad input."""

import math
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from operators import limits
from operators.interest import EVENT_TYPES
from operators.wire import CONTENT_TYPES, CONTROL, JSON_HEADERS, Format, Wire, decoders, is_too_deep

__all__ = [
    "CONTENT_TYPES",
    "JSON_HEADERS",
    "Envelope",
    "Event",
    "RejectCode",
    "Rejected",
    "checked_time",
    "decode",
    "fingerprint_of",
    "id_problem",
    "read_headers",
]

RejectCode = Literal[
    "malformed",
    "too_large",
    "schema",
    "key_mismatch",
    "future",
    "bad_timestamp",
    "non_finite",
    "unknown_content_type",
    "unknown_type",
    "bad_id",
    "too_deep",
]

_ID_NAMES: Final = ("user_id", "item_id", "event_id", "session_id")
_CONTROL: Final = re.compile(CONTROL)


class Event(msgspec.Struct, gc=False):
    """One accepted event; ``type`` indexes ``EVENT_TYPES``, ``key`` is the user id in UTF-8."""

    key: bytes
    item_id: str
    type: int
    timestamp_ms: int
    offset: int
    fingerprint: int
    """64-bit digest of the event id; 0 where the event has none."""


class Rejected(NamedTuple):
    """Why a record is no event."""

    code: RejectCode
    reason: str


class Envelope(NamedTuple):
    """What the record's headers say."""

    format: Format = "json"
    event_id: str | None = None
    timestamp_ms: int | None = None


_PLAIN: Final = Envelope()


def fingerprint_of(event_id: str) -> int:
    """A 64-bit digest by which an event that was produced twice is known again; never 0."""
    return xxh3_64_intdigest(event_id.encode()) or 1


def decode(
    value: bytes | None,
    key: bytes | None,
    headers: Sequence[tuple[str, bytes]],
    event_type: int,
    offset: int,
    now_ms: int,
) -> Event | Rejected:
    """Check one record of an event topic.

    Args:
        value: JSON or msgpack, by the ``content-type`` header; JSON where there is none.
        headers: CloudEvents binary headers fill in what the value lacks (``ce_id``, ``ce_time``);
            ``ce_type`` must end in the topic's type.
        event_type: index into ``EVENT_TYPES``; the topic gives it.
        offset: of the record in its partition.
        now_ms: the worker's clock, against which future event times are judged.
    """
    if value is None:
        return Rejected("malformed", "the record has no value")
    if len(value) > limits.event_bytes_max:
        return Rejected("too_large", f"{len(value)} bytes, at most {limits.event_bytes_max} are taken")
    envelope = read_headers(headers, EVENT_TYPES[event_type]) if headers else _PLAIN
    if isinstance(envelope, Rejected):
        return envelope
    try:
        wire = decoders[envelope.format](value)
        if is_too_deep(value, envelope.format):
            return Rejected("too_deep", f"nested deeper than {limits.context_depth_max}")
    except msgspec.ValidationError as error:
        return Rejected("schema", str(error))
    except RecursionError:
        return Rejected("too_deep", f"nested deeper than {limits.context_depth_max}")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, OverflowError) as error:
        return Rejected("malformed", f"not {envelope.format}: {error}")
    return _check(wire, envelope, key, event_type, offset, now_ms)


def read_headers(headers: Iterable[tuple[str, bytes]], type_name: str) -> Envelope | Rejected:
    """What the headers of a record on the topic of ``type_name`` say, or why they cannot be."""
    fmt: Format = "json"
    event_id, timestamp_ms = None, None
    try:
        for name, raw in headers:
            lowered = name.lower()
            if lowered == "content-type":
                media = raw.partition(b";")[0].strip().lower()
                if media not in CONTENT_TYPES:
                    return Rejected("unknown_content_type", f"content-type {raw[:80]!r} is neither JSON nor msgpack")
                fmt = CONTENT_TYPES[media]
            elif lowered == "ce_id":
                event_id = raw.decode()
            elif lowered == "ce_time":
                timestamp_ms = _rfc3339_ms(raw.decode())
            elif lowered == "ce_type" and raw.decode().rpartition(".")[2] != type_name:
                return Rejected("unknown_type", f"ce_type {raw[:80]!r} on the topic of {type_name!r}")
    except (UnicodeDecodeError, ValueError, AttributeError, OverflowError) as error:
        return Rejected("malformed", f"unreadable header: {error}")
    return Envelope(fmt, event_id, timestamp_ms)


def _rfc3339_ms(text: str) -> int:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"ce_time {text[:40]!r} has no time zone")
    return int(moment.timestamp() * 1000)


def _check(
    wire: Wire, envelope: Envelope, key: bytes | None, event_type: int, offset: int, now_ms: int
) -> Event | Rejected:
    event_id = wire.event_id if wire.event_id is not None else envelope.event_id
    given_ms = wire.timestamp if wire.timestamp is not None else envelope.timestamp_ms
    timestamp_ms = checked_time(given_ms, now_ms)
    if isinstance(timestamp_ms, Rejected):
        return timestamp_ms
    if wire.value is not None and not (math.isfinite(wire.value) and abs(wire.value) <= limits.value_max):
        return Rejected("non_finite", f"value {wire.value} is not a finite number within {limits.value_max:g}")
    ids = (wire.user_id, wire.item_id, event_id, wire.session_id)
    for name, text in zip(_ID_NAMES, ids, strict=True):
        problem = None if text is None else id_problem(text)
        if problem is not None:
            return Rejected("bad_id", f"{name} {problem}")
    if key is None:
        return Rejected("key_mismatch", "the record has no key; key it by user_id")
    if key != wire.user_id.encode():
        return Rejected("key_mismatch", "the record's key is not its user_id")
    fingerprint = 0 if event_id is None else fingerprint_of(event_id)
    return Event(key, wire.item_id, event_type, timestamp_ms, offset, fingerprint)


def checked_time(timestamp_ms: int | None, now_ms: int) -> int | Rejected:
    """An event time in ms, or why it is none; ``now_ms`` is the worker's clock."""
    if timestamp_ms is None:
        return Rejected("schema", "neither a `timestamp` field nor a ce_time header")
    if not limits.timestamp_ms_min <= timestamp_ms <= limits.timestamp_ms_max:
        return Rejected("bad_timestamp", f"timestamp {timestamp_ms} is not milliseconds since 1970")
    if timestamp_ms > now_ms + limits.future_skew_ms:
        return Rejected("future", f"timestamp {timestamp_ms} is {timestamp_ms - now_ms} ms ahead of the worker's clock")
    return timestamp_ms


def id_problem(text: str) -> str | None:
    """What is wrong with an id, or None."""
    if not text:
        return "is empty"
    if len(text) > limits.id_bytes_max or (not text.isascii() and _utf8_bytes(text) > limits.id_bytes_max):
        return f"is longer than {limits.id_bytes_max} bytes of UTF-8"
    if _CONTROL.search(text):
        return "holds a control character"
    return None


def _utf8_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return limits.id_bytes_max + 1
