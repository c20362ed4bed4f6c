"""Every parser that faces a topic, under a fuzzer that sees which branches an input took: ``make fuzz``.

``tests/property/test_parsers.py`` asks the same of drawn inputs in every run; what is found here is kept there as an
example. The first byte chooses the parser. Anything but an answer or the documented error ends it, with the input in
a file.
"""

import logging
import sys
import zlib
from collections.abc import Callable
from typing import Any

import atheris

with atheris.instrument_imports(include=["operators", "streams.catalog", "streams.clients.watch"]):
    from operators import state
    from operators.candidates import covisitation_parts
    from operators.candidates.popularity import Popularity, PopularityError
    from operators.columns import decode_columns
    from operators.erasure import decode_erasure
    from operators.events import Event, Rejected, decode
    from operators.records import Records
    from streams.catalog import Catalog
    from streams.clients import watch
    from streams.clients.errors import ClientError

from tests.fakes import NOW_MS, FakeRecord

MSGPACK = [("content-type", b"application/msgpack")]
_RECORDS_MAX = 24


class _List:
    topic, partition, offset, timestamp, headers, key = "recommendations", 0, 1, 2, (), b"u"

    def __init__(self, value: bytes) -> None:
        self.value = value


def _event(value: bytes) -> None:
    for headers in ([], MSGPACK):
        decode(value, b"u", headers, 0, 1, NOW_MS)
        decode_erasure(value, b"u", headers, 1, NOW_MS)


def _events(value: bytes) -> None:
    parts = value.split(b"\x00\xff") * 3
    records = [FakeRecord(n, b"u", part or None, [] if n % 3 else MSGPACK) for n, part in enumerate(parts)][
        :_RECORDS_MAX
    ]
    event_type = len(parts) // 3 % 3
    alone = [decode(one.value, one.key, one.headers, event_type, one.offset, NOW_MS) for one in records]
    columns, rejected = decode_columns([(Records.of(records), event_type)], NOW_MS)
    assert [columns.event(n) for n in range(len(columns.keys))] == [one for one in alone if isinstance(one, Event)]
    assert rejected == [(n, one) for n, one in enumerate(alone) if isinstance(one, Rejected)]


def _state(value: bytes) -> None:
    for whole in (value, value + zlib.crc32(value).to_bytes(4, "little")):
        try:
            state.encode(state.decode(whole))
        except state.StateError:
            continue


def _popularity(value: bytes) -> None:
    try:
        shares = [share for _, share in Popularity.restore(value).top(3)]
    except PopularityError:
        return
    assert all(0 <= share <= 1 for share in shares)


def _covisitation(value: bytes) -> None:
    head, _, part = value.partition(b"\x00\xff")
    try:
        covisitation_parts.restore({"": head, "0": part}.get)
    except covisitation_parts.CoVisitationError:
        return


def _catalog(value: bytes) -> None:
    Catalog().note(b"item", value)


def _list(value: bytes) -> None:
    record: Any = _List(value)
    try:
        watch._watched(record)
    except ClientError:
        return


PARSERS: tuple[Callable[[bytes], None], ...] = (_event, _events, _state, _popularity, _covisitation, _catalog, _list)


def parse(data: bytes) -> None:
    """One input."""
    if data:
        PARSERS[data[0] % len(PARSERS)](bytes(data[1:]))


if __name__ == "__main__":
    logging.disable()
    atheris.Setup(sys.argv, parse)
    atheris.Fuzz()
