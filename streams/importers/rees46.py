"""REES46 multi-category store (``2019-Oct.csv`` and its kin): one event per line, times in UTC.

``view`` is a view, ``cart`` a click, ``purchase`` a purchase; ``remove_from_cart`` is left out.
"""

from typing import Final

from streams.importers.base import Layout, Row, fields, iso_ms, make_event, number

__all__ = ["layout"]

_TYPES: Final = {"view": "view", "cart": "click", "purchase": "purchase"}
_LEFT_OUT: Final = "remove_from_cart"
_HEADER: Final = "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session"


def layout(first: str) -> Layout | None:
    """By the header."""
    return Layout(_parse, header_lines=1) if first == _HEADER else None


def _parse(line: str) -> list[Row]:
    when, kind, item, _, category, brand, price, user, session = fields(line, ",", 9)
    if kind == _LEFT_OUT:
        return []
    event_type = _TYPES.get(kind)
    if event_type is None:
        raise ValueError(f"event_type {kind!r} is none of {', '.join(_TYPES)}")
    context = {name: text for name, text in (("category", category), ("brand", brand)) if text}
    value = number(price) if price else None
    event = make_event(user, item, iso_ms(when), session_id=session, value=value, context=context)
    return [(event_type, event)]
