"""Every reason to reject a record, and what is taken from the ones that pass."""

from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import pytest

from operators import limits
from operators.events import CONTENT_TYPES, Event, RejectCode, Rejected, decode, fingerprint_of
from tests.fakes import NOW_MS

GOOD: dict[str, Any] = {"user_id": "u", "item_id": "i", "timestamp": NOW_MS}
MSGPACK = [("content-type", b"application/msgpack")]
Headers = Sequence[tuple[str, bytes]]


def json_of(**fields: Any) -> bytes:
    return msgspec.json.encode({name: value for name, value in {**GOOD, **fields}.items() if value is not ...})


def msgpack_of(**fields: Any) -> bytes:
    return msgspec.msgpack.encode({name: value for name, value in {**GOOD, **fields}.items() if value is not ...})


def decoded(
    value: bytes | None, headers: Headers = (), key: bytes | None = b"u", event_type: int = 0
) -> Event | Rejected:
    return decode(value, key, headers, event_type, 7, NOW_MS)


def taken(value: bytes | None, headers: Headers = (), key: bytes | None = b"u", event_type: int = 0) -> Event:
    event = decoded(value, headers, key, event_type)
    assert isinstance(event, Event), event
    return event


def code_of(value: bytes | None, headers: Headers = (), key: bytes | None = b"u") -> str:
    rejected = decoded(value, headers, key)
    assert isinstance(rejected, Rejected), rejected
    assert rejected.reason
    return rejected.code


def raw_json(fragment: bytes) -> bytes:
    return b'{"user_id":"u","item_id":"i","timestamp":1,' + fragment + b"}"


REJECTED: list[tuple[RejectCode, bytes | None, Headers, bytes | None]] = [
    ("malformed", None, (), b"u"),
    ("malformed", b"", (), b"u"),
    ("malformed", b"not json", (), b"u"),
    ("malformed", json_of()[:-1], (), b"u"),
    ("malformed", json_of() + b"x", (), b"u"),
    ("malformed", b"\xef\xbb\xbf" + json_of(), (), b"u"),
    ("malformed", b'{"user_id":"\xff","item_id":"i","timestamp":1}', (), b"u"),
    ("malformed", b'{"user_id":"\xed\xa0\x80","item_id":"i","timestamp":1}', (), b"u"),
    ("malformed", rb'{"user_id":"\ud800","item_id":"i","timestamp":1}', (), b"u"),
    ("malformed", rb'{"user_id":"u","item_id":"\udc00x","timestamp":1}', (), b"u"),
    ("malformed", raw_json(b'"value":NaN'), (), b"u"),
    ("malformed", raw_json(b'"value":-Infinity'), (), b"u"),
    ("malformed", msgpack_of()[:-1], MSGPACK, b"u"),
    ("malformed", b"\xc1", MSGPACK, b"u"),
    ("malformed", json_of(), [("content-type", None)], b"u"),  # type: ignore[list-item]
    ("malformed", json_of(), [("ce_id", b"\xff")], b"u"),
    ("malformed", json_of(timestamp=...), [("ce_time", b"yesterday")], b"u"),
    ("malformed", json_of(timestamp=...), [("ce_time", b"2023-11-14T22:13:20")], b"u"),
    ("too_large", b" " * (limits.event_bytes_max + 1), (), b"u"),
    ("schema", b"null", (), b"u"),
    ("schema", b"[]", (), b"u"),
    ("schema", json_of(user_id=...), (), b"u"),
    ("schema", json_of(item_id=...), (), b"u"),
    ("schema", json_of(item_id=17), (), b"u"),
    ("schema", json_of(timestamp=...), (), b"u"),
    ("schema", json_of(timestamp="2023-11-14"), (), b"u"),
    ("schema", json_of(timestamp=1.5), (), b"u"),
    ("schema", json_of(timestamp=True), (), b"u"),
    ("schema", json_of(value="12"), (), b"u"),
    ("schema", raw_json(b'"value":1e999'), (), b"u"),
    ("schema", b'{"user_id":"u","item_id":"i","timestamp":1e999}', (), b"u"),
    ("schema", b'{"user_id":"u","item_id":"i","timestamp":' + b"9" * 5_000 + b"}", (), b"u"),
    ("key_mismatch", json_of(), (), None),
    ("key_mismatch", json_of(), (), b""),
    ("key_mismatch", json_of(), (), b"U"),
    ("key_mismatch", json_of(), (), b'"u"'),
    ("future", json_of(timestamp=NOW_MS + limits.future_skew_ms + 1), (), b"u"),
    ("bad_timestamp", json_of(timestamp=-1), (), b"u"),
    ("bad_timestamp", json_of(timestamp=limits.timestamp_ms_max + 1), (), b"u"),
    ("bad_timestamp", json_of(timestamp=NOW_MS * 1000), (), b"u"),
    ("bad_timestamp", b'{"user_id":"u","item_id":"i","timestamp":' + b"9" * 4_000 + b"}", (), b"u"),
    ("bad_timestamp", json_of(timestamp=...), [("ce_time", b"1969-12-31T23:59:59Z")], b"u"),
    ("non_finite", msgpack_of(value=float("nan")), MSGPACK, b"u"),
    ("non_finite", msgpack_of(value=float("-inf")), MSGPACK, b"u"),
    ("non_finite", json_of(value=limits.value_max * 1.01), (), b"u"),
    ("unknown_content_type", json_of(), [("content-type", b"text/csv")], b"u"),
    ("unknown_content_type", json_of(), [("content-type", b"")], b"u"),
    ("unknown_type", json_of(), [("ce_type", b"com.shop.refund")], b"u"),
    ("unknown_type", json_of(), [("ce_type", b"click")], b"u"),
    ("bad_id", json_of(user_id=""), (), b""),
    ("bad_id", json_of(item_id=""), (), b"u"),
    ("bad_id", json_of(event_id=""), (), b"u"),
    ("bad_id", json_of(item_id="x" * (limits.id_bytes_max + 1)), (), b"u"),
    ("bad_id", json_of(item_id="é" * (limits.id_bytes_max // 2 + 1)), (), b"u"),
    ("bad_id", json_of(session_id="s" * (limits.id_bytes_max + 1)), (), b"u"),
    ("bad_id", json_of(item_id="a\x00b"), (), b"u"),
    ("bad_id", json_of(item_id="a\nb"), (), b"u"),
    ("bad_id", json_of(event_id="\x7f"), (), b"u"),
    ("bad_id", json_of(), [("ce_id", b"x" * (limits.id_bytes_max + 1))], b"u"),
    ("too_deep", raw_json(b'"context":' + b"[" * 40 + b"]" * 40), (), b"u"),
    ("too_deep", raw_json(b'"unknown":' + b'{"a":' * 40 + b"1" + b"}" * 40), (), b"u"),
    ("too_deep", raw_json(b'"context":' + b"[" * 20_000 + b"]" * 20_000), (), b"u"),
    ("too_deep", msgpack_of(context=0)[:-1] + b"\x91" * 40 + b"\xc0", MSGPACK, b"u"),
    ("too_deep", msgpack_of(unknown=0)[:-1] + b"\x81\x01" * 20_000 + b"\xc0", MSGPACK, b"u"),
]


@pytest.mark.parametrize(("code", "value", "headers", "key"), REJECTED)
def test_rejects_with_its_code(code: RejectCode, value: bytes | None, headers: Headers, key: bytes | None) -> None:
    assert code_of(value, headers, key) == code


def test_every_code_has_an_example() -> None:
    assert {code for code, *_ in REJECTED} == set(get_args(RejectCode))


def test_takes_every_field() -> None:
    value = json_of(event_id="e-1", session_id="s", value=2.5, context={"page": ["home", {"deep": 1}], "n": None})
    event = taken(value, event_type=2)
    assert event == Event(b"u", "i", 2, NOW_MS, 7, fingerprint_of("e-1"))
    assert event.fingerprint != 0


@pytest.mark.parametrize("context", [None, 1, "text", [], {}, [1, [2]], {"a": {"b": [1.5, None, True]}}])
@pytest.mark.parametrize("name", ["context", "a_field_of_the_future"])
def test_free_form_fields_are_taken_whatever_they_hold(name: str, context: object) -> None:
    plain = taken(json_of())
    assert taken(json_of(**{name: context})) == plain
    assert taken(msgpack_of(**{name: context}), MSGPACK) == plain


def test_optional_fields_may_be_null() -> None:
    event = taken(json_of(event_id=None, session_id=None, value=None, context=None))
    assert event.fingerprint == 0


def test_broad_is_not_deep() -> None:
    broad = [[n] for n in range(200)]
    assert taken(json_of(context=broad)) == taken(msgpack_of(context=broad), MSGPACK)


def test_depth_is_taken_to_its_bound_and_no_further() -> None:
    inside = limits.context_depth_max - 1  # the event itself is the first level
    for depth, accepted in ((inside, True), (inside + 1, False)):
        value = raw_json(b'"context":' + b"[" * depth + b"]" * depth)
        packed = msgpack_of(context=0)[:-1] + b"\x91" * (depth - 1) + b"\x90"
        assert isinstance(decoded(value), Event) is accepted
        assert isinstance(decoded(packed, MSGPACK), Event) is accepted


def test_brackets_inside_strings_do_not_count() -> None:
    assert taken(json_of(context="[{" * 100)).item_id == "i"


def test_bounds_are_inclusive() -> None:
    longest = "é" * (limits.id_bytes_max // 2)
    assert taken(json_of(user_id=longest), key=longest.encode()).key == longest.encode()
    assert taken(json_of(timestamp=NOW_MS + limits.future_skew_ms)).timestamp_ms == NOW_MS + limits.future_skew_ms
    assert taken(json_of(timestamp=0)).timestamp_ms == 0
    assert taken(json_of(value=-limits.value_max)).offset == 7
    padded = json_of().ljust(limits.event_bytes_max)
    assert taken(padded).item_id == "i"


@pytest.mark.parametrize("content_type", sorted(CONTENT_TYPES))
@pytest.mark.parametrize("template", [b"%b", b" %b ", b"%b; charset=utf-8"])
def test_content_types(content_type: bytes, template: bytes) -> None:
    value = json_of() if CONTENT_TYPES[content_type] == "json" else msgpack_of()
    assert taken(value, [("Content-Type", template % content_type.upper())]) == taken(json_of())


def test_msgpack_without_its_header_is_malformed_json() -> None:
    assert code_of(msgpack_of()) == "malformed"


def test_cloudevents_headers_fill_in_what_the_value_lacks() -> None:
    headers = [("ce_id", b"e-9"), ("ce_time", b"2023-11-14T22:13:19.123Z"), ("ce_type", b"com.shop.view")]
    event = taken(json_of(timestamp=...), [*headers, ("ce_specversion", b"1.0"), ("trace", b"\xff\xfe")])
    assert event.timestamp_ms == 1_699_999_999_123
    assert event.fingerprint == fingerprint_of("e-9")


def test_the_value_wins_over_cloudevents_headers() -> None:
    event = taken(json_of(event_id="own"), [("ce_id", b"other"), ("ce_time", b"2020-01-01T00:00:00+01:00")])
    assert (event.fingerprint, event.timestamp_ms) == (fingerprint_of("own"), NOW_MS)


def test_cloudevents_time_is_exact_to_the_millisecond() -> None:
    for ms in range(1000):
        event = taken(json_of(timestamp=...), [("ce_time", b"2022-03-04T05:06:07.%03d+02:00" % ms)])
        assert event.timestamp_ms == 1_646_363_167_000 + ms


def test_cloudevents_type_is_that_of_the_topic() -> None:
    headers = [("ce_type", b"purchase")]
    assert taken(json_of(), headers, event_type=2).type == 2
    assert code_of(json_of(), headers) == "unknown_type"


def test_fingerprints_tell_ids_apart_and_are_frozen() -> None:
    digests = {fingerprint_of(f"e-{n}") for n in range(10_000)}
    assert len(digests) == 10_000
    assert all(0 < digest < 2**64 for digest in digests)
    # Stored states hold these digests: another function would fold every event of a redelivery again.
    assert fingerprint_of("e-1") == 0x3D21BC8729ACD985
