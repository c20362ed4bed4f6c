"""What the file formats share: an event as a dictionary, and checked conversions from text.

Every format is one module with a ``layout`` function; see ``Layout``.
"""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from operators import limits

__all__ = ["Layout", "Parser", "Row", "fields", "iso_ms", "make_event", "number", "seconds_ms"]

Row = tuple[str, dict[str, Any]]
"""Event type and event (``user_id``, ``item_id``, ``timestamp`` in ms, and what the format knows besides)."""

Parser = Callable[[str], Iterable[Row]]
"""One line to its events; raises ValueError for a line that is not of the format."""


class Layout(NamedTuple):
    """How to read one file; a format's ``layout(first_line)`` gives it, or None for another format."""

    parse: Parser
    header_lines: int = 0


def make_event(
    user_id: str,
    item_id: str,
    timestamp_ms: int,
    *,
    session_id: str | None = None,
    value: float | None = None,
    context: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An event as the topics hold it.

    Raises:
        ValueError: an empty or too long id, or a time before 1970 or after 2100.
    """
    for name, text in (("user", user_id), ("item", item_id)):
        if not 1 <= len(text.encode()) <= limits.id_bytes_max:
            raise ValueError(f"the {name} id has {len(text.encode())} bytes, not 1 to {limits.id_bytes_max}")
    if not limits.timestamp_ms_min <= timestamp_ms <= limits.timestamp_ms_max:
        raise ValueError(f"the time {timestamp_ms} ms is not between 1970 and 2100")
    event: dict[str, Any] = {"user_id": user_id, "item_id": item_id, "timestamp": timestamp_ms}
    if session_id:
        event["session_id"] = session_id
    if value is not None:
        event["value"] = value
    if context:
        event["context"] = context
    return event


def fields(line: str, separator: str, count: int) -> list[str]:
    """The ``count`` fields of a line; raises ValueError for any other number."""
    parts = line.split(separator)
    if len(parts) != count:
        raise ValueError(f"{len(parts)} fields where {count} are expected")
    return parts


def number(text: str) -> float:
    """A finite number; raises ValueError otherwise."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def seconds_ms(text: str) -> int:
    """Seconds since 1970, whole or fractional, as ms."""
    return round(number(text) * 1000)


def iso_ms(text: str) -> int:
    """An ISO 8601 time as ms since 1970; UTC where it names no zone."""
    moment = datetime.fromisoformat(text.strip().removesuffix(" UTC"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1000)
