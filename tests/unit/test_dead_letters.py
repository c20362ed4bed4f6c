"""The headers of a dead letter."""

from operators import limits
from operators.batches import DeadLetter
from operators.events import Rejected, decode
from streams.dead_letters import headers_of, value_of
from tests.fakes import NOW_MS, FakeRecord


def letter(record: FakeRecord, reason: str = "why") -> DeadLetter:
    return DeadLetter("click", 3, record, Rejected("schema", reason))


def test_say_what_was_wrong_and_where_it_came_from() -> None:
    assert headers_of(letter(FakeRecord(91, b"k", b"v"))) == [
        ("dl_code", b"schema"),
        ("dl_reason", b"why"),
        ("dl_topic", b"click"),
        ("dl_partition", b"3"),
        ("dl_offset", b"91"),
    ]


def test_keep_the_records_own_headers_and_replace_those_of_an_earlier_dead_letter() -> None:
    own = [("trace", b"\xff"), ("dl_code", b"old"), ("trace", b"again")]
    headers = headers_of(letter(FakeRecord(1, None, None, own)))
    assert headers[5:] == [("trace", b"\xff"), ("trace", b"again")]
    assert [value for name, value in headers if name == "dl_code"] == [b"schema"]


def test_reasons_are_bounded_and_stay_utf_8() -> None:
    for reason in ("x" * 10_000, "é" * 10_000, "x" + "é" * 10_000, "xx\U0001f600" * 1_000, "lone \ud800 surrogate"):
        value = dict(headers_of(letter(FakeRecord(1, None, None), reason)))["dl_reason"]
        assert len(value) <= limits.reason_bytes_max
        assert len(value) >= min(len(reason), limits.reason_bytes_max - 3)
        assert value.decode()


def test_a_rejected_record_of_long_foreign_headers_has_a_short_reason() -> None:
    time_header = ("ce_time", "когда-то".encode() * 500)
    value = b'{"user_id":"u","item_id":"i"}'
    rejected = decode(value, b"u", [time_header], 0, 1, NOW_MS)
    assert isinstance(rejected, Rejected)
    headers = dict(headers_of(DeadLetter("view", 0, FakeRecord(1, b"u", value, [time_header]), rejected)))
    assert len(headers["dl_reason"]) <= limits.reason_bytes_max
    assert headers["dl_reason"].decode()
    assert headers["ce_time"] == time_header[1]


def test_a_value_beyond_what_the_topic_takes_is_cut_and_says_so() -> None:
    whole = letter(FakeRecord(1, b"k", b"x" * limits.dead_letter_bytes_max))
    assert value_of(whole) == whole.record.value
    assert "dl_truncated_from" not in dict(headers_of(whole))
    larger = letter(FakeRecord(1, b"k", b"x" * (limits.dead_letter_bytes_max + 1)))
    assert value_of(larger) == whole.record.value
    assert dict(headers_of(larger))["dl_truncated_from"] == str(limits.dead_letter_bytes_max + 1).encode()
