"""YooChoose (RecSys Challenge 2015): anonymous sessions, so that the session is the user.

``yoochoose-clicks.dat`` (session, ISO time, item, category) gives clicks, ``yoochoose-buys.dat`` (session,
ISO time, item, price, quantity) purchases; neither has a header. The tab-separated re-cut of the GRU4Rec
papers (``SessionId ItemId Time`` in seconds, with or without that header) gives clicks.
"""

from typing import Final

from streams.importers.base import Layout, Row, fields, iso_ms, make_event, number, seconds_ms

__all__ = ["layout"]

_TSV_HEADER: Final = ["SessionId", "ItemId", "Time"]


def layout(first: str) -> Layout | None:
    """By the header of the re-cut, else by the number of fields and the form of the time."""
    tabbed, commas = first.split("\t"), first.split(",")
    if tabbed == _TSV_HEADER:
        return Layout(_parse_tsv, header_lines=1)
    if len(tabbed) == 3 and all(part.replace(".", "", 1).isdecimal() for part in tabbed):
        return Layout(_parse_tsv)
    if len(commas) in (4, 5) and commas[0].isdecimal() and commas[1].endswith("Z") and "T" in commas[1]:
        return Layout(_parse_clicks if len(commas) == 4 else _parse_buys)
    return None


def _parse_tsv(line: str) -> list[Row]:
    session, item, when = fields(line, "\t", 3)
    return [("click", make_event(session, item, seconds_ms(when), session_id=session))]


def _parse_clicks(line: str) -> list[Row]:
    session, when, item, category = fields(line, ",", 4)
    context = {"category": category}
    return [("click", make_event(session, item, iso_ms(when), session_id=session, context=context))]


def _parse_buys(line: str) -> list[Row]:
    session, when, item, price, quantity = fields(line, ",", 5)
    context = {"quantity": int(quantity)}
    event = make_event(session, item, iso_ms(when), session_id=session, value=number(price), context=context)
    return [("purchase", event)]
