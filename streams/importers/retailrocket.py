"""RetailRocket ``events.csv``, and its tab-separated re-cut into sessions (all views, in seconds).

``view`` is a view, ``addtocart`` a click, ``transaction`` a purchase.
"""

from typing import Final

from streams.importers.base import Layout, Row, fields, make_event, seconds_ms

__all__ = ["layout"]

_TYPES: Final = {"view": "view", "addtocart": "click", "transaction": "purchase"}
_HEADER: Final = "timestamp,visitorid,event,itemid,transactionid"
_SESSIONS_HEADER: Final = "timestamp\tuser_id\titem_id\tsession_id"


def layout(first: str) -> Layout | None:
    """By the header."""
    if first == _HEADER:
        return Layout(_parse, header_lines=1)
    return Layout(_parse_session, header_lines=1) if first == _SESSIONS_HEADER else None


def _parse(line: str) -> list[Row]:
    when, user, kind, item, transaction = fields(line, ",", 5)
    event_type = _TYPES.get(kind)
    if event_type is None:
        raise ValueError(f"event {kind!r} is none of {', '.join(_TYPES)}")
    context = {"transaction": transaction} if transaction else None
    return [(event_type, make_event(user, item, int(when), context=context))]


def _parse_session(line: str) -> list[Row]:
    when, user, item, session = fields(line, "\t", 4)
    return [("view", make_event(user, item, seconds_ms(when), session_id=session))]
