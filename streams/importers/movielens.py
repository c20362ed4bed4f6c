"""MovieLens ratings: ``u.data`` (100k), ``ratings.dat`` (1M, 10M), ``ratings.csv``, RecBole ``.inter``.

A rating becomes a ``click`` whose value is the rating: it says that the film was seen, and a low one is kept
as such rather than dropped.
"""

from streams.importers.base import Layout, Parser, Row, fields, make_event, number, seconds_ms

__all__ = ["layout"]

_CSV_HEADER = ["userId", "movieId", "rating", "timestamp"]
_RECBOLE_HEADER = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]


def layout(first: str) -> Layout | None:
    """The variant by its header, or by its separator where it has none."""
    if first.split(",") == _CSV_HEADER:
        return Layout(_parser(","), header_lines=1)
    if first.split("\t") == _RECBOLE_HEADER:
        return Layout(_parser("\t"), header_lines=1)
    for separator in ("::", "\t"):
        try:
            user, item, _, when = fields(first, separator, 4)
        except ValueError:
            continue
        if user.isdecimal() and item.isdecimal() and when.isdecimal():
            return Layout(_parser(separator))
    return None


def _parser(separator: str) -> Parser:
    def parse(line: str) -> list[Row]:
        user, item, rating, when = fields(line, separator, 4)
        return [("click", make_event(user, item, seconds_ms(when), value=number(rating)))]

    return parse
