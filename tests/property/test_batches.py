"""A batch of chunks against its records one by one: whose each event is, in which order, and where a bad record was."""

from collections import defaultdict

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators import limits
from operators.batches import Chunk, UserKey, decode_chunks
from operators.columns import Columns
from operators.events import Event, Rejected, decode
from tests.fakes import NOW_MS, FakeRecord, record

TOPICS = ("view", "click", "purchase")
ONE = st.tuples(
    st.sampled_from("uvw"),
    st.integers(0, 3),
    st.sampled_from(["json", "json", "json", "msgpack"]),
    st.sampled_from([b"", b"", b"", b"", b"}"]),
)
STANDS = st.tuples(
    st.integers(0, 2) | st.just(5_000),
    st.integers(-1, 2) | st.just(limits.timestamp_ms_max),
    st.integers(0, 3),
    st.integers(0, 2) | st.sampled_from([2**6, 2**7, 2**20, 2**63 - 1]),
)
"""Group, time, type and offset; of the last ones some make the four wider than a word, and some do not quite."""
CHUNKS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.lists(ONE, max_size=9)), max_size=9)


@settings(max_examples=200)
@given(CHUNKS)
def test_the_chunks_of_a_batch_are_decoded_as_their_records_one_by_one(
    drawn: list[tuple[int, int, list[tuple[str, int, str, bytes]]]],
) -> None:
    chunks: list[Chunk] = []
    events: defaultdict[UserKey, list[Event]] = defaultdict(list)
    refused: list[tuple[str, int, int, str]] = []
    offsets: defaultdict[tuple[int, int], int] = defaultdict(int)
    for event_type, partition, bodies in drawn:
        records: list[FakeRecord] = []
        for user, ago_ms, encoding, tail in bodies:
            offset = offsets[event_type, partition]
            offsets[event_type, partition] += 1
            good = record(offset, user, f"i{offset}", timestamp=NOW_MS - ago_ms, encoding=encoding)
            one = good._replace(value=(good.value or b"") + tail)
            records.append(one)
            outcome = decode(one.value, one.key, one.headers, event_type, offset, NOW_MS)
            if isinstance(outcome, Rejected):
                refused.append((TOPICS[event_type], partition, offset, outcome.code))
            else:
                events[UserKey(partition, outcome.key)].append(outcome)
        chunks.append(Chunk.of(TOPICS[event_type], event_type, partition, records))
    batch = decode_chunks(chunks, NOW_MS)
    assert batch.users == list(events)
    of_users = [[batch.events.event(at) for at in range(*batch.bounds[n : n + 2])] for n in range(len(batch.users))]
    in_order = [
        sorted(of_user, key=lambda event: (event.timestamp_ms, event.type, event.offset)) for of_user in events.values()
    ]
    assert of_users == in_order
    assert [
        (dead.topic, dead.partition, dead.record.offset, dead.rejected.code) for dead in batch.dead_letters
    ] == refused
    assert batch.records == sum(len(chunk.records) for chunk in chunks)


@settings(max_examples=300)
@given(st.lists(STANDS, max_size=12))
@example([(0, 0, 0, 0), (1, 2**41, 0, 2**20 - 1), (0, 2**42 - 1, 1, 0), (1, 0, 0, 2**19)])  # 64 bits
@example([(0, 0, 0, 0), (1, 2**41, 0, 2**19 - 1), (0, 2**42 - 1, 1, 0), (1, 0, 0, 2**18)])  # 63 bits
def test_events_are_grouped_in_the_order_of_time_type_and_offset(stands: list[tuple[int, int, int, int]]) -> None:
    events = Columns.of([Event(b"u", "a", kind, time_ms, offset, 0) for _, time_ms, kind, offset in stands])
    order = events.grouped(np.array([group for group, *_ in stands], np.int64))
    assert order.tolist() == sorted(range(len(stands)), key=stands.__getitem__)
