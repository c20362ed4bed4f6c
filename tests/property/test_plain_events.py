"""The compiled decoder of plain events takes nothing that ``decode`` refuses, and reads nothing otherwise."""

import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations, product
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import limits
from operators.columns import decode_columns
from operators.events import JSON_HEADERS, decode
from operators.plain import decode_plain
from operators.records import Records
from tests.fakes import NOW_MS, FakeRecord, record
from tests.property.test_events import MSGPACK, check_as_one_by_one
from tests.wall import Wall

Field = tuple[bytes, bytes]
"""Name and value of a field, both as they are written."""

LATEST_MS = NOW_MS + limits.future_skew_ms
ID_FIELDS = (b"user_id", b"item_id", b"event_id", b"session_id")
FIELDS = (*ID_FIELDS, b"timestamp", b"value", b"context")
NOT_UTF8 = [
    b"\xff",
    b"\x80",
    b"\xc0\x80",
    b"\xc1\xbf",
    b"\xc3",
    b"\xe0\x9f\xbf",
    b"\xe2\x82",
    b"\xed\xa0\x80",
    b"\xf0\x8f\xbf\xbf",
    b"\xf0\x9f\x98",
    b"\xf4\x90\x80\x80",
]
CHARACTERS = [b"a", b"1", b" ", b"{", b"]", b",", b":", *map(str.encode, "éÿ߿ࠀ퟿\uffff\U00010000😀\U0010ffff")]
LONG_TEXTS = ["x" * 127, "x" * 128, "x" * 129, "é" * 64, "é" * 64 + "x", "x" * 300]
TIMES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, NOW_MS, LATEST_MS, LATEST_MS + 1]
NO_TIMES = [-1, -32, -33, -128, -129, limits.timestamp_ms_max, limits.timestamp_ms_max + 1, 2**53, 2**63 - 1, -(2**63)]


def _json_record(fields: Sequence[Field], value: bytes) -> FakeRecord:
    return FakeRecord(0, _key_of(fields, json.loads), value)


def _key_of(fields: Sequence[Field], read: Callable[[bytes], Any]) -> bytes:
    written = [value for name, value in fields if name == b"user_id"]
    try:
        return str(read(written[-1])).encode()
    except (IndexError, ValueError, msgspec.MsgspecError):
        return b"u"


# -- JSON, as no library writes it

ESCAPES = [
    *[rb"\"", rb"\\", rb"\/", rb"\b", rb"\f", rb"\n", rb"\r", rb"\t", rb"\u0041", rb"\u00e9", rb"\ud83d\ude00"],
    *[rb"\u0000", rb"\u001f", rb"\u007F", rb"\uD7fF", rb"\uE000", rb"\uffFf", rb"\uAbCd"],
]
BROKEN_TEXT = [
    rb"\ud800",
    rb"\udc00\ud800",
    rb"\u12",
    rb"\uDBff",
    rb"\uDFFF",
    rb"\u00g0",
    rb"\u/000",
    rb"\u000:",
    rb"\u@000",
    rb"\U0041",
    rb"\x41",
    rb"\'",
    b"\\",
    b"\n",
    b"\x00",
    b"\x1f",
    b"\x7f",
    *NOT_UTF8,
]
NUMBERS = [
    *["0", "-0", "0.0", "-0.0", "1", "-1", "00", "01", "-01", "0.1", ".5", "1.", "-.5", "-", "+", "+1", "--1", "1.5.5"],
    *["1_000", "0x10", "NaN", "Infinity", "-Infinity", "1e", "1e+", "1E5", "1e5", "1e-5", "1.5e3", "1e12", "-1E12"],
    *["1e13", "1e400", "1000000000000", "-1000000000000", "1000000000000.0", "1000000000000.1", "-1000000000000.5"],
    *["999999999999.999", "-999999999999.9999", "1000000000001", "10000000000000", "123456789012345"],
    *["1234567890123456", "0.123456789012345", "0.1234567890123456", "9223372036854775807", "9223372036854775808"],
    *["12345678901234567890", "18446744073709551616", "123456789012345678901234567890"],
]
BROKEN_VALUES = [
    b"",
    b"nul",
    b"truex",
    b"True",
    b"'a'",
    b"[1,]",
    b"[,]",
    b"[1 2]",
    b"[}",
    b'{"a":1,}',
    b'{"a"}',
    b"{a:1}",
]
DEEP_VALUES = [b"[" * depth + b"]" * depth for depth in (15, 16, 17, 31, 32, 33)]
SPACES = st.sampled_from([b"", b"", b" ", b"\n", b"\r\t ", b"  "])
TAILS = st.sampled_from([b""] * 30 + [b" \n", b"}", b"\x00", b"1", b",", b"\x0b", b"\xc2\xa0"])


def _quoted(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return texts.map(lambda text: b'"%s"' % text)


PLAIN_TEXTS = st.lists(st.sampled_from(CHARACTERS), max_size=4).map(b"".join)
ESCAPED_TEXTS = st.lists(st.sampled_from(CHARACTERS + ESCAPES), max_size=6).map(b"".join)
BROKEN_TEXTS = st.lists(st.sampled_from(CHARACTERS + ESCAPES + BROKEN_TEXT), max_size=4).map(b"".join)
TEXTS = PLAIN_TEXTS | ESCAPED_TEXTS | BROKEN_TEXTS
JSON_IDS = _quoted(TEXTS | st.sampled_from(LONG_TEXTS).map(str.encode)) | st.just(b"null")
JSON_NUMBERS = st.sampled_from(NUMBERS).map(str.encode) | st.floats().map(lambda drawn: repr(drawn).encode())
JSON_TIMES = st.sampled_from([*TIMES, *NO_TIMES]).flatmap(
    lambda time: st.sampled_from([b"%d", b"%d", b"%d", b"%d.0", b"%d.5", b'"%d"', b"%de0", b"0%d"]).map(
        lambda way: way % time
    )
)
JSON_LEAVES = _quoted(TEXTS) | JSON_NUMBERS | st.sampled_from([b"true", b"false", b"null"])


def _json_array(items: list[bytes], space: bytes) -> bytes:
    return b"[" + space + (space + b"," + space).join(items) + space + b"]"


def _json_object(fields: Sequence[Field], space: bytes) -> bytes:
    written = [b'"%s"%s:%s%s' % (name, space, space, value) for name, value in fields]
    return b"{" + space + (space + b"," + space).join(written) + space + b"}"


JSON_VALUES = st.sampled_from(BROKEN_VALUES + DEEP_VALUES) | st.recursive(
    JSON_LEAVES,
    lambda inner: (
        st.builds(_json_array, st.lists(inner, max_size=3), SPACES)
        | st.builds(_json_object, st.lists(st.tuples(TEXTS, inner), max_size=3), SPACES)
    ),
    max_leaves=6,
)
JSON_FIELDS = (
    st.tuples(st.sampled_from(ID_FIELDS), JSON_IDS)
    | st.tuples(st.just(b"timestamp"), JSON_TIMES)
    | st.tuples(st.just(b"value"), JSON_NUMBERS | st.just(b"null"))
    | st.tuples(st.just(b"context"), JSON_VALUES)
    | st.tuples(st.sampled_from([*FIELDS, rb"\u0075ser_id", b"User_id", b"values", b"", b"\xff"]) | TEXTS, JSON_VALUES)
)
USUAL_JSON: list[Field] = [(b"user_id", b'"u"'), (b"item_id", b'"a"'), (b"timestamp", b"%d" % NOW_MS)]


def _with_odd(usual: Sequence[Field], odd: Sequence[tuple[Field, bool]]) -> list[Field]:
    """The odd fields, each in place of the usual one of its name or beside it."""
    replaced = {name for (name, _), replaces in odd if replaces}
    return [field for field in usual if field[0] not in replaced] + [field for field, _ in odd]


@st.composite
def json_records(draw: st.DrawFn) -> FakeRecord:
    odd = draw(st.lists(st.tuples(JSON_FIELDS, st.sampled_from([True, True, True, False])), max_size=3))
    fields = draw(st.permutations(_with_odd(USUAL_JSON, odd)))
    return _json_record(fields, draw(SPACES) + _json_object(fields, draw(SPACES)) + draw(TAILS))


@settings(max_examples=500)
@given(st.lists(json_records(), max_size=6))
def test_json_is_decoded_alike_however_it_is_written(records: list[FakeRecord]) -> None:
    check_as_one_by_one(records)


@pytest.mark.parametrize("name", ["timestamp", "value", "context", "session_id"])
def test_every_way_to_write_a_number_is_decoded_alike(name: str) -> None:
    for digits in (*NUMBERS, *map(str, (*TIMES, *NO_TIMES)), str(float(NOW_MS)), f"{NOW_MS}.5", f'"{NOW_MS}"'):
        written = b'{"user_id":"u","item_id":"a",%s"%s":%s}'
        time = b"" if name == "timestamp" else b'"timestamp":1,'
        check_as_one_by_one([FakeRecord(0, b"u", written % (time, name.encode(), digits.encode()))])


@pytest.mark.parametrize("place", ["id", "name", "context"])
@pytest.mark.parametrize("text", [*ESCAPES, *BROKEN_TEXT])
def test_every_escape_is_decoded_alike(place: str, text: bytes) -> None:
    check_as_one_by_one([FakeRecord(0, b"u", _json_of(place, text))])


# -- msgpack, in every width that it has


class Kind(NamedTuple):
    """How a length is written: in the first byte where there are few, or in 1, 2 or 4 bytes behind another."""

    fix: int
    fix_below: int
    sized: dict[int, int]

    def head(self, count: int, width: int) -> bytes:
        if count < self.fix_below and width not in self.sized:
            return bytes([self.fix + count])
        if width not in self.sized or count >= 256**width:
            width = max(self.sized)
        return bytes([self.sized[width]]) + count.to_bytes(width, "big")


STRING, BINARY = Kind(0xA0, 32, {1: 0xD9, 2: 0xDA, 4: 0xDB}), Kind(0, 0, {1: 0xC4, 2: 0xC5, 4: 0xC6})
ARRAY, MAP = Kind(0x90, 16, {2: 0xDC, 4: 0xDD}), Kind(0x80, 16, {2: 0xDE, 4: 0xDF})
WIDTHS = st.sampled_from([0, 0, 0, 1, 2, 4])
INTEGER_FORMATS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
VALUES = [
    0.0,
    -0.0,
    1.5,
    1e12,
    -1e12,
    math.nextafter(1e12, 2e12),
    math.nextafter(-1e12, 0),
    1e13,
    math.inf,
    -math.inf,
    math.nan,
]
ODD_PACKED = [
    *[
        b"\xd4\x01\x00",
        b"\xd5\x01\x00\x00",
        b"\xd6\xff\x00\x00\x00\x01",
        b"\xd7\x01" + bytes(8),
        b"\xd8\x01" + bytes(16),
    ],
    *[b"\xc7\x01\x05\x00", b"\xc8\x00\x01\x05\x00", b"\xc9\x00\x00\x00\x01\x05\x00", b"\xc1", b""],
    *[
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xa5ab",
        b"\x92\x01",
    ],
    *[b"\x91" * depth + b"\x90" for depth in (14, 15, 16, 30, 31, 32)],
]


def _packed_text(text: bytes, width: int) -> bytes:
    return STRING.head(len(text), width) + text


def _packed_binary(data: bytes, width: int) -> bytes:
    return BINARY.head(len(data), width) + data


def _packed_integer(value: int, code: int) -> bytes:
    """In the format of that code where it fits, else in the shortest."""
    try:
        return bytes([code]) + struct.pack(INTEGER_FORMATS[code], value)
    except struct.error:
        return msgspec.msgpack.encode(value)


def _packed_real(value: float, single: bool) -> bytes:
    return struct.pack(">Bf", 0xCA, value) if single else struct.pack(">Bd", 0xCB, value)


def _packed_array(items: list[bytes], width: int) -> bytes:
    return ARRAY.head(len(items), width) + b"".join(items)


def _packed_map(items: list[tuple[bytes, bytes]], width: int) -> bytes:
    return MAP.head(len(items), width) + b"".join(key + value for key, value in items)


RAW_TEXTS = st.lists(st.sampled_from(CHARACTERS + NOT_UTF8 + [b"\x00", b"\x7f", b"\n"]), max_size=4).map(b"".join)
PACKED_TEXTS = st.builds(_packed_text, PLAIN_TEXTS | RAW_TEXTS | st.sampled_from(LONG_TEXTS).map(str.encode), WIDTHS)
PACKED_INTEGERS = st.builds(
    _packed_integer, st.sampled_from([*TIMES, *NO_TIMES, 2**64 - 1]), st.sampled_from([*INTEGER_FORMATS])
)
PACKED_REALS = st.builds(_packed_real, st.sampled_from(VALUES), st.booleans())
PACKED_LEAVES = (
    PACKED_TEXTS
    | PACKED_INTEGERS
    | PACKED_REALS
    | st.sampled_from([b"\xc0", b"\xc2", b"\xc3"])
    | st.builds(_packed_binary, st.binary(max_size=3), WIDTHS)
)
PACKED_VALUES = st.sampled_from(ODD_PACKED) | st.recursive(
    PACKED_LEAVES,
    lambda inner: (
        st.builds(_packed_array, st.lists(inner, max_size=3), WIDTHS)
        | st.builds(_packed_map, st.lists(st.tuples(PACKED_TEXTS, inner), max_size=3), WIDTHS)
        | st.builds(_packed_map, st.lists(st.tuples(PACKED_LEAVES, inner), max_size=2), WIDTHS)
    ),
    max_leaves=6,
)
NIL = st.just(b"\xc0")
PACKED_FIELDS = (
    st.tuples(st.sampled_from(ID_FIELDS), PACKED_TEXTS | NIL)
    | st.tuples(
        st.just(b"timestamp"), PACKED_INTEGERS | st.sampled_from([_packed_real(1.0, False), _packed_real(1.5, True)])
    )
    | st.tuples(st.just(b"value"), PACKED_REALS | PACKED_INTEGERS | NIL)
    | st.tuples(st.just(b"context"), PACKED_VALUES)
    | st.tuples(st.sampled_from([*FIELDS, b"", b"\xff", b"x" * 40]) | RAW_TEXTS, PACKED_VALUES)
)
USUAL_PACKED: list[Field] = [
    (b"user_id", b"\xa1u"),
    (b"item_id", b"\xa1a"),
    (b"timestamp", _packed_integer(NOW_MS, 0xCF)),
]


def _packed_event(fields: Sequence[Field], width: int) -> bytes:
    return _packed_map([(_packed_text(name, width), value) for name, value in fields], width)


@st.composite
def packed_records(draw: st.DrawFn) -> FakeRecord:
    odd = draw(st.lists(st.tuples(PACKED_FIELDS, st.sampled_from([True, True, True, False])), max_size=3))
    fields = draw(st.permutations(_with_odd(USUAL_PACKED, odd)))
    width = draw(WIDTHS)
    written = [_packed_text(name, width) + value for name, value in fields]
    written += draw(st.sampled_from([*[[]] * 40, [b"\x01\x01"], [b"\xc4\x01a\x01"], [b"\xc0\xc0"]]))
    count = len(written) + draw(st.sampled_from([0] * 40 + [-1, 1]))
    value = MAP.head(count, width) + b"".join(written) + draw(st.sampled_from([b""] * 40 + [b"\x00", b"\xc0", b"\xff"]))
    cut = draw(st.sampled_from([0] * 40 + [1, 2, 7]))
    return FakeRecord(0, _key_of(fields, msgspec.msgpack.decode), value[: len(value) - cut], MSGPACK)


@settings(max_examples=500)
@given(st.lists(packed_records(), max_size=6))
def test_msgpack_is_decoded_alike_however_it_is_written(records: list[FakeRecord]) -> None:
    check_as_one_by_one(records)


@pytest.mark.parametrize("name", [b"timestamp", b"value", b"context", b"session_id"])
def test_every_number_of_msgpack_is_decoded_alike(name: bytes) -> None:
    whole = [_packed_integer(one, code) for one, code in product([*TIMES, *NO_TIMES, 2**64 - 1], INTEGER_FORMATS)]
    reals = [_packed_real(one, single) for one, single in product([*VALUES, float(NOW_MS)], [False, True])]
    for number in whole + reals:
        fields = _with_odd(USUAL_PACKED, [((name, number), True)])
        check_as_one_by_one([FakeRecord(0, b"u", _packed_event(fields, 0), MSGPACK)])


# -- both

RICH_JSON = (
    b'{"user_id":"u","item_id":"\xc3\xa9","timestamp":10,"event_id":"e","session_id":null,"value":-1.5,'
    b'"context":{"a":["\\n\xf0\x9f\x98\x80",true,{}], "b":false}}'
)
RICH_MSGPACK = b"\x87" + b"".join(
    [
        b"\xa7user_id\xa1u\xa7item_id\xd9\x02\xc3\xa9\xa9timestamp\xcd\x04\x00",
        b"\xa8event_id\xda\x00\x01e\xaasession_id\xc0\xa5value\xca\x3f\x80\x00\x00",
        b"\xa7context\x82\xa1a\x94\xa4\xf0\x9f\x98\x80\xc3\xde\x00\x00\xd1\xff\x00\xa1b\xc4\x01\xff",
    ]
)
RICH = [(RICH_JSON, JSON_HEADERS), (RICH_MSGPACK, MSGPACK)]


TWICE = {
    name: [b'"u"', b'"v"', b'""', b"null", b"1"]
    if name in ID_FIELDS
    else [b"1", b"2", b"-1", b"1e13", b"null", b'"u"', b"[]"]
    for name in FIELDS
}


@pytest.mark.parametrize("name", FIELDS)
def test_of_a_field_that_is_there_twice_the_same_one_counts(name: bytes) -> None:
    for first, second in product(TWICE[name], repeat=2):
        fields = _with_odd(USUAL_JSON, [((name, first), True), ((name, second), True)])
        packed = [(one, msgspec.msgpack.encode(json.loads(value))) for one, value in fields]
        check_as_one_by_one(
            [
                FakeRecord(0, b"u", _json_object(fields, b"")),
                FakeRecord(0, b"u", _packed_event(packed, 0), MSGPACK),
            ]
        )


def _damaged(value: bytes, at: int) -> Iterator[bytes]:
    before, behind = value[:at], value[at + 1 :]
    yield before + behind
    for byte in range(256):
        yield before + bytes([byte]) + behind
        yield before + bytes([byte]) + value[at:]


@pytest.mark.parametrize(("value", "headers"), RICH, ids=["json", "msgpack"])
def test_with_any_one_byte_damaged_an_event_is_decoded_alike(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    assert _is_plain([FakeRecord(0, b"u", value, headers)]) == [1]
    for at in range(len(value)):
        check_as_one_by_one([FakeRecord(0, b"u", damaged, headers) for damaged in _damaged(value, at)])


@pytest.mark.parametrize(("value", "headers"), RICH, ids=["json", "msgpack"])
def test_an_event_ends_where_its_record_does_though_the_rest_lies_behind(
    value: bytes, headers: list[tuple[str, bytes]]
) -> None:
    whole = Records.of([FakeRecord(0, b"u", value, headers)])
    index = whole.index.repeat(len(value), axis=0)
    index[:, 5] -= 1 + np.arange(len(value))
    check_as_one_by_one(Records(whole.data, index))


def _sequences() -> Iterator[bytes]:
    """All of one byte and of two, and of three and four those at the bounds of what is UTF-8."""
    yield from (bytes(two) for two in product(range(256), repeat=2))
    edges, last = (0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0), (0x7F, 0x80, 0xBF, 0xC0)
    yield from (bytes(three) for three in product(range(0xDF, 0xF6), edges, last))
    yield from (bytes(four) for four in product(range(0xEF, 0xF8), edges, last, last))


@pytest.mark.parametrize("place", ["id", "name", "context"])
@pytest.mark.parametrize("headers", [JSON_HEADERS, MSGPACK], ids=["json", "msgpack"])
def test_what_is_utf8_is_decoded_alike(place: str, headers: list[tuple[str, bytes]]) -> None:
    write = _json_of if headers is JSON_HEADERS else _msgpack_of
    records = [FakeRecord(0, b"u", write(place, text), headers) for text in _sequences()]
    check_as_one_by_one(records)
    assert 1_000 < sum(_is_plain(records)) < len(records)


def _json_of(place: str, text: bytes) -> bytes:
    texts = [text if place == one else b"a" for one in ("id", "name", "context")]
    return b'{"user_id":"u","item_id":"%s","timestamp":1,"%s":["%s"]}' % tuple(texts)


def _msgpack_of(place: str, text: bytes) -> bytes:
    item, name, inner = (_packed_text(text if place == one else b"a", 0) for one in ("id", "name", "context"))
    return b"\x84\xa7user_id\xa1u\xa7item_id" + item + b"\xa9timestamp\x01" + name + b"\x91" + inner


# -- what is taken at all


def _text(**fields: Any) -> FakeRecord:
    return record(0, "u", "a", **fields)


def _json(rest: str) -> FakeRecord:
    return FakeRecord(0, b"u", f'{{"user_id":"u","item_id":"a","timestamp":{NOW_MS}{rest}}}'.encode(), JSON_HEADERS)


def _packed(**fields: Any) -> FakeRecord:
    return record(0, "u", "a", encoding="msgpack", **fields)


def _packed_in_width(width: int) -> FakeRecord:
    """All lengths in so many bytes, where there is such a form."""
    a, data = _packed_text(b"a", width), _packed_binary(b"\xff", width)
    context = _packed_map([(a, _packed_array([data, a], width)), (a, _packed_map([], width))], width)
    fields = [(b"user_id", _packed_text(b"u", width)), (b"item_id", a), (b"timestamp", b"\x01"), (b"context", context)]
    return FakeRecord(0, b"u", _packed_event(fields, width), MSGPACK)


CONTEXT: dict[str, Any] = {
    "ints": [0, 1, 31, 200, 40_000, 2**32, 2**62, -1, -33, -200, -40_000, -(2**40)],
    "of": [None, True, False, 1.5, {}],
}
NULLS = {"event_id": None, "session_id": None, "value": None, "context": None}
PLAIN = {
    "no headers": _text()._replace(headers=[]),
    "JSON headers": _text(event_id="e", session_id="s", value=1),
    "escapes in the context": _json(r',"context":{"a":"\"\\\/\b\f\n\r\t"}'),
    "characters by number": _json(r',"context":{"a":"\u00fc\u0000\u65E5\uD7ff\uE000\uFFFF"}'),
    "non-ASCII ids": record(0, "ü", "日本😀", event_id="é", session_id="߿"),
    "the longest ids": record(0, "é" * 64, "x" * 128, event_id="e" * 128, session_id="日" * 42),
    "null fields": _text(**NULLS),
    "nested context": _text(context={**CONTEXT, "ints": [0, -1, 10**14]}, other="x" * 5_000),
    "the deepest context": _json(f',"context":{"[" * 16}{"]" * 16}'),
    "white space": _json(' , "context" : [ 1 ,\t2\r\n] ,"value" :\n1.5 '),
    "empty context": _json(',"context":{ },"a":[ ]'),
    "a small value": _json(',"value":-0.000001'),
    "a large value": _json(',"value":999999999998.75'),
    "the largest values": _json(',"value":1000000000000'),
    "the least value": _json(',"value":-1000000000000'),
    "the first time": FakeRecord(0, b"u", b'{"timestamp":0,"item_id":"a","user_id":"u"}'),
    "the last time": record(0, "u", "a", LATEST_MS),
    "packed": _packed(event_id="e", session_id="s", value=1),
    "packed null fields": _packed(**NULLS),
    "packed non-ASCII ids": record(0, "ü", "日本😀", encoding="msgpack", event_id="é", session_id="߿"),
    "packed long ids": record(0, "é" * 64, "x" * 128, encoding="msgpack", event_id="e" * 128),
    "packed context": _packed(context=CONTEXT, data=b"\xff" * 300),
    "packed long texts": _packed(context=["x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 60_000]),
    "packed large containers": _packed(context={"a": [1] * 16, **{f"k{n}": n for n in range(70)}}),
    "a packed map of many": _packed(**{f"k{n}": n for n in range(20)}),
    "packed, the first time": record(0, "u", "a", 0, encoding="msgpack"),
    "packed, the last time": record(0, "u", "a", LATEST_MS, encoding="msgpack"),
    "packed real value": _packed(value=-1e12),
    **{f"packed lengths of {width} bytes": _packed_in_width(width) for width in (0, 1, 2, 4)},
    "packed single": FakeRecord(0, b"u", RICH_MSGPACK, MSGPACK),
}


@pytest.mark.parametrize("name", PLAIN)
def test_usual_events_are_taken_by_the_compiled_decoder(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = PLAIN[name]
    expected = decode(one.value, one.key, one.headers, 2, one.offset, NOW_MS)
    monkeypatch.setattr("operators.columns.decode", None)
    columns, rejected = decode_columns([(Records.of([one]), 2)], NOW_MS)
    assert rejected == []
    assert columns.event(0) == expected


# -- what is looked at


def _is_plain(records: Sequence[FakeRecord] | Records) -> list[int]:
    packed = Records.of(records)
    return _taken(packed.data, packed.index)


def _taken(data: Any, index: Any) -> list[int]:
    is_plain = np.full(len(index), 9, np.uint8)
    decode_plain(data, index, LATEST_MS, is_plain, np.empty(len(index), np.int64))
    return is_plain.tolist()


def _laid_out(value: bytes, headers: bytes) -> Iterator[tuple[bytes, Any]]:
    """Data and index of a record with its parts in every order."""
    parts = (b"u", value, headers)
    for order in permutations(range(3)):
        row, data = np.zeros((1, 8), np.int64), b""
        for part in order:
            row[0, 2 + 2 * part : 4 + 2 * part] = len(data), len(data) + len(parts[part])
            data += parts[part]
        yield data, row


LAID_OUT = [
    laid_out
    for value, headers in RICH
    for laid_out in _laid_out(value, Records.of([FakeRecord(0, None, None, headers)]).data)
]


@pytest.mark.parametrize(("data", "index"), LAID_OUT)
def test_nothing_outside_of_the_data_is_looked_at_though_the_rest_is_there(data: bytes, index: Any) -> None:
    assert _taken(data, index) == [1]
    for at in range(1, len(data)):
        assert _taken(memoryview(data)[:at], index) == [0]
        assert _taken(memoryview(data)[at:], index - [0, 0, *[at] * 6]) == [0]


@pytest.mark.parametrize(("value", "headers"), RICH, ids=["json", "msgpack"])
def test_nothing_behind_the_data_is_read(value: bytes, headers: list[tuple[str, bytes]]) -> None:
    wall, packed_headers = Wall(), Records.of([FakeRecord(0, None, None, headers)]).data
    cut = [value[:at] for at in range(len(value))]
    for last in [*cut, *(damaged for at in range(len(value)) for damaged in _damaged(value, at))]:
        before = len(packed_headers) + 1
        index = np.array([[0, 0, before - 1, before, before, before + len(last), 0, before - 1]])
        _taken(wall.before(packed_headers + b"u" + last), index)


@pytest.mark.parametrize(("data", "index"), LAID_OUT)
@pytest.mark.parametrize("behind", [b" ", b"}", b",", b"0", b"\xc0", b"\x80"])
def test_what_lies_behind_an_event_is_all_one(behind: bytes, data: bytes, index: Any) -> None:
    assert _taken(data + behind, index) == [1]
    assert _taken(memoryview(data + behind)[: len(data)], index) == [1]


@pytest.mark.parametrize(("data", "index"), LAID_OUT)
def test_a_part_that_there_is_not_is_no_plain_event(data: bytes, index: Any) -> None:
    for column, bound in product(range(2, 8), (-1, -2, len(data) + 1, 2**62, -(2**62), 2**63 - 1, -(2**63))):
        lying = index.copy()
        lying[0, column] = bound
        assert _taken(data, lying) == [0]
    for column in (2, 4, 6):
        turned = index.copy()
        turned[0, [column, column + 1]] = index[0, [column + 1, column]]
        assert _taken(data, turned) == [0]
    assert _taken(b"", np.zeros((3, 8), np.int64)) == [0, 0, 0]
    assert _taken(b"", np.full((3, 8), -1, np.int64)) == [0, 0, 0]


@pytest.mark.parametrize(
    ("columns", "plain", "times"), [(7, 2, 2), (9, 2, 2), (8, 1, 2), (8, 3, 2), (8, 2, 1), (8, 2, 3)]
)
def test_columns_of_other_shapes_are_refused(columns: int, plain: int, times: int) -> None:
    index = np.zeros((2, columns), np.int64)
    with pytest.raises(ValueError, match="other shapes"):
        decode_plain(b"", index, NOW_MS, np.empty(plain, np.uint8), np.empty(times, np.int64))
