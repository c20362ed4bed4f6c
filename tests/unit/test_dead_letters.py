"""Dead letters: what their headers say, and that they fit their topic whatever the record was."""

from typing import Any

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from operators import limits
from operators.batches import DeadLetter
from operators.events import Rejected, decode
from streams.dead_letters import headers_of, key_of, value_of
from streams.settings import TopicSettings
from streams.topics import topic_specs
from tests.fakes import NOW_MS, FakeRecord

LARGE = 3_000_000
"""Bytes of what a batch that is small on the wire can hold, and the dead-letter topic does not take."""
MANY_HEADERS = [("trace", b"x")] * 100_000


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


def told(of: DeadLetter) -> dict[str, bytes]:
    return {name: value for name, value in headers_of(of) if name.startswith("dl_")}


def test_a_key_beyond_what_the_topic_takes_is_cut_and_says_so() -> None:
    value = b"v" * 1_000
    fits = limits.dead_letter_record_bytes_max - len(value)
    whole = letter(FakeRecord(1, b"k" * fits, value))
    assert (key_of(whole), value_of(whole)) == (whole.record.key, value)
    assert "dl_key_truncated_from" not in told(whole)
    larger = letter(FakeRecord(1, b"k" * (fits + 1), value))
    assert (key_of(larger), value_of(larger)) == (whole.record.key, value)
    assert told(larger)["dl_key_truncated_from"] == str(fits + 1).encode()
    assert "dl_truncated_from" not in told(larger)


def test_headers_beyond_what_the_topic_takes_are_left_out_and_counted() -> None:
    key, value = b"k" * 1_000, b"v" * 1_000
    fits = limits.dead_letter_record_bytes_max - 2_000 - len("trace") - len("ключ".encode()) - 2 * 10
    for surplus in (0, 1):
        own = [("trace", b"t" * (fits + surplus)), ("ключ", b""), ("dl_code", b"x" * LARGE)]  # the last never stays
        of = letter(FakeRecord(1, key, value, own))
        assert (key_of(of), value_of(of)) == (key, value)
        kept = [header for header in headers_of(of) if not header[0].startswith("dl_")]
        assert kept == ([] if surplus else own[:2])
        assert told(of).get("dl_headers_left_out") == (b"2" if surplus else None)


def test_a_header_without_a_value_stays() -> None:
    nothing: Any = None  # Kafka has such, and aiokafka hands them on
    assert headers_of(letter(FakeRecord(1, b"k", b"v", [("flag", nothing)])))[5:] == [("flag", None)]


@pytest.mark.parametrize("key", [None, b"k", b"k" * LARGE])
@pytest.mark.parametrize("value", [None, b"v", b"v" * limits.dead_letter_bytes_max, b"v" * LARGE])
@pytest.mark.parametrize("own", [[], MANY_HEADERS, [("trace", b"t" * LARGE)], [("n" * LARGE, b"")]])
def test_every_letter_fits_its_topic(key: bytes | None, value: bytes | None, own: list[tuple[str, bytes]]) -> None:
    record = FakeRecord(2**63 - 1, key, value, own)
    largest = DeadLetter("t" * 249, 2**31 - 1, record, Rejected("unknown_content_type", "r" * 1_000))
    topics = TopicSettings()
    (spec,) = [one for one in topic_specs(topics, "app") if one.name == topics.dead_letter]
    batch: Any = BatchBuilder(limits.produce_batch_bytes_max, 0)
    batch.append(key=key_of(largest), value=value_of(largest), timestamp=None, headers=headers_of(largest))
    assert batch.size() <= int(spec.config["max.message.bytes"])
