"""A batch of chunks against its records one by one: whose each event is, in which order, and where a bad record was."""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from operators.batches import Chunk, UserKey, decode_chunks
from operators.events import Event, Rejected, decode
from tests.fakes import NOW_MS, FakeRecord, record

TOPICS = ("view", "click", "purchase")
ONE = st.tuples(
    st.sampled_from("uvw"),
    st.integers(0, 3),
    st.sampled_from(["json", "json", "json", "msgpack"]),
    st.sampled_from([b"", b"", b"", b"", b"}"]),
)
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
