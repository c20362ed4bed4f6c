"""OTTO (RecSys 2022): a JSON object per line, ``{"session", "events": [{"aid", "ts" (ms), "type"}]}``.

The session is the user. ``clicks`` are page views of products, so ``view``; ``carts`` are clicks, ``orders``
purchases, as in the other shops' formats.
"""

from typing import Any, Final

import orjson

from streams.importers.base import Layout, Row, make_event

__all__ = ["layout"]

_TYPES: Final = {"clicks": "view", "carts": "click", "orders": "purchase"}


def layout(first: str) -> Layout | None:
    """By the two fields of the first session."""
    try:
        session = orjson.loads(first)
    except orjson.JSONDecodeError:
        return None
    return Layout(_parse) if isinstance(session, dict) and {"session", "events"} <= session.keys() else None


def _parse(line: str) -> list[Row]:
    try:
        session: dict[str, Any] = orjson.loads(line)
        user = str(session["session"])
        return [_row(user, event) for event in session["events"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a session with events ({error!r})") from error


def _row(user: str, event: dict[str, Any]) -> Row:
    event_type = _TYPES.get(event["type"])
    if event_type is None:
        raise ValueError(f"type {event['type']!r} is none of {', '.join(_TYPES)}")
    return event_type, make_event(user, str(event["aid"]), int(event["ts"]), session_id=user)
