"""Taobao ``UserBehavior.csv``: user, item, category, behaviour, unix seconds; no header.

``pv`` is a view, ``cart`` and ``fav`` are clicks, ``buy`` is a purchase. The published file holds some times
outside its own nine days, a few of them negative: those are bad lines.
"""

from typing import Final

from streams.importers.base import Layout, Row, fields, make_event, seconds_ms

__all__ = ["layout"]

_TYPES: Final = {"pv": "view", "cart": "click", "fav": "click", "buy": "purchase"}


def layout(first: str) -> Layout | None:
    """By the behaviour in the fourth of five fields."""
    parts = first.split(",")
    return Layout(_parse) if len(parts) == 5 and parts[3] in _TYPES else None


def _parse(line: str) -> list[Row]:
    user, item, category, behaviour, when = fields(line, ",", 5)
    event_type = _TYPES.get(behaviour)
    if event_type is None:
        raise ValueError(f"behaviour {behaviour!r} is none of {', '.join(_TYPES)}")
    context = {"category": category, "behaviour": behaviour}
    return [(event_type, make_event(user, item, seconds_ms(when), context=context))]
