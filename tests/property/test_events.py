"""``decode`` answers every input, and JSON and msgpack of one event alike."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators import limits
from operators.columns import decode_columns
from operators.events import CONTENT_TYPES, Event, Rejected, decode
from operators.records import Records
from tests.fakes import NOW_MS, FakeRecord, record

HEADER_NAMES = st.sampled_from(["content-type", "Content-Type", "ce_id", "ce_time", "ce_type", "x"]) | st.text()
HEADER_VALUES = (
    st.binary(max_size=40)
    | st.none()
    | st.sampled_from([*CONTENT_TYPES, b"view", b"2023-11-14T22:13:20Z", b"0001-01-01T00:00:00+23:59", b"9999-W01-1"])
)
HEADERS = st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=4)
IDS = st.text(min_size=1, max_size=20) | st.text(alphabet="aé\u0000\u007f\U0001f600", max_size=150)
FREE_FORM = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=60,
)
BODIES = st.fixed_dictionaries(
    {"user_id": IDS, "item_id": IDS, "timestamp": st.integers(-10, 2**53) | st.integers(0, NOW_MS)},
    optional={
        "event_id": IDS | st.none(),
        "session_id": IDS | st.none(),
        "value": st.floats() | st.integers(-(2**60), 2**60) | st.none(),
        "context": FREE_FORM,
        "unknown": FREE_FORM,
    },
)
WRONG = st.none() | st.booleans() | st.floats() | st.text(max_size=3) | st.integers() | st.lists(st.integers())
MSGPACK = [("content-type", b"application/msgpack")]


def checked(value: Any, key: Any, headers: Any, event_type: int = 0) -> Event | Rejected:
    outcome = decode(value, key, headers, event_type, 5, NOW_MS)
    if isinstance(outcome, Rejected):
        assert outcome.reason
        return outcome
    assert isinstance(outcome, Event)
    assert outcome.key == key
    assert 0 < len(outcome.item_id.encode()) <= limits.id_bytes_max
    assert "\x00" not in outcome.item_id
    assert limits.timestamp_ms_min <= outcome.timestamp_ms <= NOW_MS + limits.future_skew_ms
    assert 0 <= outcome.fingerprint < 2**64
    assert (outcome.type, outcome.offset) == (event_type, 5)
    return outcome


@settings(max_examples=400)
@given(st.binary(max_size=200) | st.none(), st.binary(max_size=10) | st.none(), HEADERS, st.integers(0, 2))
@example(b"[" * 60_000, b"u", [], 0)
@example(b"\x91" * 60_000, b"u", MSGPACK, 0)
@example(b"\xdd\xff\xff\xff\xff", b"u", MSGPACK, 0)
@example(b"\xdf\xff\xff\xff\xff", b"u", MSGPACK, 0)
def test_any_bytes_and_headers_are_answered(value: Any, key: Any, headers: Any, event_type: int) -> None:
    checked(value, key, headers, event_type)


@settings(max_examples=400)
@given(BODIES, st.data())
def test_mutated_events_are_answered(body: dict[str, Any], data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        body[data.draw(st.sampled_from(sorted(body)))] = data.draw(WRONG)
    packed = data.draw(st.booleans())
    value = bytearray(_encoded(body, packed))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(value) - 1))
        value[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        if not value:
            break
    key = data.draw(st.just(str(body["user_id"]).encode()) | st.binary(max_size=3) | st.none())
    checked(bytes(value), key, [*(MSGPACK if packed else []), *data.draw(HEADERS)])


def _encoded(body: dict[str, Any], packed: bool) -> bytes:
    try:
        return (msgspec.msgpack if packed else msgspec.json).encode(body)
    except (OverflowError, ValueError):  # an integer beyond 64 bits has no msgpack
        return msgspec.json.encode(body)


@settings(max_examples=200)
@given(BODIES)
def test_json_and_msgpack_of_one_event_are_answered_alike(body: dict[str, Any]) -> None:
    value = body.get("value")
    if isinstance(value, float) and not abs(value) < float("inf"):
        body["value"] = None  # JSON has no such number
    key = body["user_id"].encode()
    of_json = checked(msgspec.json.encode(body), key, [])
    of_msgpack = checked(msgspec.msgpack.encode(body), key, MSGPACK)
    if isinstance(of_json, Event):
        assert of_json == of_msgpack
    else:
        assert isinstance(of_msgpack, Rejected)
        assert of_json.code == of_msgpack.code


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()), st.integers(0, NOW_MS))
def test_what_is_taken_is_what_was_sent(text: str, timestamp_ms: int) -> None:
    body = {"user_id": text, "item_id": text[::-1], "timestamp": timestamp_ms}
    event = checked(msgspec.json.encode(body), text.encode(), [])
    assert event == Event(text.encode(), text[::-1], 0, timestamp_ms, 5, 0)


def check_as_one_by_one(records: Sequence[FakeRecord] | Records) -> None:
    packed, middle = Records.of(records), len(records) // 3
    columns, rejected = decode_columns([(packed.part(0, middle), 1), (packed.part(middle), 1)], NOW_MS)
    refused = dict(rejected)
    taken = [n for n in range(len(records)) if n not in refused]
    assert (len(columns.keys), [n for n, _ in rejected]) == (len(taken), sorted(refused))
    outcomes = refused | {n: columns.event(at) for at, n in enumerate(taken)}
    for n, one in enumerate(records):
        headers: Any = one.headers
        assert outcomes[n] == decode(one.value, one.key, headers, 1, one.offset, NOW_MS)


NEARLY_PLAIN = st.fixed_dictionaries(
    {"user_id": st.just("u"), "item_id": st.text(alphabet='ab1\\"\u007f\u0001 é', min_size=1, max_size=4)},
    optional={
        "timestamp": st.integers(NOW_MS - 10, NOW_MS + limits.future_skew_ms + 2),
        "event_id": st.text(alphabet="x", max_size=130) | st.none(),
        "session_id": st.text(alphabet="x", max_size=130),
        "value": st.sampled_from([0.0, -1e12, 1e12, 1.1e12, 10**13, -(10**13)]),
        "context": FREE_FORM,
    },
)


MUTATED = st.tuples(NEARLY_PLAIN, st.sampled_from([b"", b"", b"", b"}", b"\xff", b"1"]), st.booleans(), st.booleans())


@settings(max_examples=300)
@given(st.lists(MUTATED, max_size=40), st.booleans())
def test_a_chunk_is_decoded_as_its_records_one_by_one(drawn: list[Any], packed: bool) -> None:
    headers = MSGPACK if packed else []
    records = list[FakeRecord]()
    for n, (body, tail, keyed, mixed) in enumerate(drawn):
        value = _encoded(body, packed) + tail
        key = body["user_id"].encode() if keyed or n % 7 else b"other"
        records.append(FakeRecord(10 + n, key, value, [("ce_id", b"x")] if mixed and n % 5 == 0 else headers))
    check_as_one_by_one(records)


def _odd(n: int) -> dict[str, FakeRecord]:
    """Records that are no plain events: some of them ``decode`` takes, some it refuses."""
    good = record(n, "u", f"item-{n}")
    value = good.value or b""
    text, nested = value.decode()[:-1], limits.context_depth_max + 1
    return {
        "more headers": good._replace(headers=[("ce_id", b"x")]),
        "another format": record(n, "u", f"item-{n}", encoding="msgpack"),
        "says msgpack": good._replace(headers=MSGPACK),
        "no key": good._replace(key=None),
        "no value": good._replace(value=None),
        "another key": good._replace(key=b"v"),
        "cut": good._replace(value=value[:-1]),
        "too large": good._replace(value=value + b" " * limits.event_bytes_max),
        "too deep": good._replace(value=f'{text},"context":{"[" * nested}{"]" * nested}}}'.encode()),
        "deep text": good._replace(value=f'{text},"context":"{"[" * nested}"}}'.encode()),
        "control": record(n, "u", "a\u0001"),
        "delete": record(n, "u", "a\u007f"),
        "future": record(n, "u", "a", timestamp=NOW_MS + limits.future_skew_ms + 1),
        "huge": record(n, "u", "a", value=1e13),
    }


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["json", "msgpack"]),
    st.lists(st.sampled_from(["u", "u", "u", "v", "uv", "vu", "ü"]), min_size=5, max_size=60),
    st.lists(st.tuples(st.integers(0, 59), st.sampled_from(sorted(_odd(0)))), max_size=6),
)
def test_a_few_odd_records_change_nothing_for_their_neighbours(
    encoding: str, users: list[str], odd: list[tuple[int, str]]
) -> None:
    records = [record(n, user, f"item-{n}", encoding=encoding) for n, user in enumerate(users)]
    for place, kind in odd:
        records[place % len(users)] = _odd(place % len(users))[kind]
    check_as_one_by_one(records)


@pytest.mark.parametrize("count", [499, 500, 501, 1_003])
def test_odd_records_of_a_large_batch_change_nothing_for_their_neighbours(count: int) -> None:
    for odd in ([], [0], [count - 1], [count // 2, count // 2 + 1], range(0, count, 97)):
        records = [record(n, "u", f"item-{n}") for n in range(count)]
        for place in odd:
            records[place] = _odd(place)["control"]
        check_as_one_by_one(records)


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_plain_events_are_decoded_all_at_once(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {
        "event_id": "cj-1",
        "session_id": "s",
        "value": 1.29,
        "context": {"title": 'a "brød"', "n": [1]},
    }
    records = [record(n, "u", f"item-{n}", encoding=encoding, **fields) for n in range(100)]
    monkeypatch.setattr("operators.columns.decode", None)
    columns, rejected = decode_columns([(Records.of(records), 2)], NOW_MS)
    assert (columns.item_ids, rejected) == ([f"item-{n}" for n in range(100)], [])


def test_plain_events_of_one_user_that_follow_each_other_share_their_key() -> None:
    records = [record(n, user, "a") for n, user in enumerate(["u-1", "u-1", "u", "u-1", "u-2", "u-2", "u-2"])]
    records[5] = _odd(5)["control"]
    columns, rejected = decode_columns([(Records.of(records), 2)], NOW_MS)
    assert [place for place, _ in rejected] == [5]
    assert columns.keys == [b"u-1", b"u-1", b"u", b"u-1", b"u-2", b"u-2"]
    assert [one is other for one, other in pairwise(columns.keys)] == [True, False, False, False, True]
