"""Streams of good and bad records through ``process_batch``: exact states, exact dead letters, the same bytes again."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from operators import limits, state
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.effects import Effects
from operators.fusion import CoVisitationWeights
from operators.lists import Updated, make_lists
from operators.partition import partition_of
from operators.process import process_batch, update_states
from operators.ranking import Policy
from operators.state import UserState
from tests.fakes import NOW_MS, TOPICS, FakeEncoder, FakeRecord, chunk, full_pass, items, record
from tests.oracle import OracleEvent, OracleUser

FUZZED_RECORDS = int(os.environ.get("HEADWATER_FUZZ", "200000"))
PARTITIONS = 3
BATCH_RECORDS = 4_000
MSGPACK = [("content-type", b"application/msgpack")]
ITEMS = [*items(40), "unheard-of"]
NEW_ITEMS = [f"new-{n}" for n in range(12)]


class Core:
    """The core with its states in dictionaries."""

    def __init__(self, policy: Policy | None = None, known_items: int = 40) -> None:
        self.encoder = FakeEncoder(items(known_items))
        self.policy = policy or Policy(list_items=5)
        self.followed: defaultdict[int, LiveCoVisitation] = defaultdict(LiveCoVisitation)
        self.states: defaultdict[UserKey, UserState] = defaultdict(UserState)
        self.popularity: defaultdict[int, Popularity] = defaultdict(Popularity)

    def run(self, chunks: Sequence[Chunk]) -> Effects:
        batch = decode_chunks(chunks, NOW_MS)
        return process_batch(
            batch,
            {user: self.states[user] for user in batch.users},
            {user.partition: self.popularity[user.partition] for user in batch.users},
            self.encoder,
            self.policy,
            topics=TOPICS,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
            covisitation=self.followed if self.policy.covisitation else None,
        )

    def update(self, chunks: Sequence[Chunk]) -> Updated:
        batch = decode_chunks(chunks, NOW_MS)
        return update_states(
            batch,
            {user: self.states[user] for user in batch.users},
            {user.partition: self.popularity[user.partition] for user in batch.users},
            self.encoder,
            topics=TOPICS,
            now_ms=NOW_MS,
            covisitation=self.followed if self.policy.covisitation else None,
            drops_seen=self.policy.seen_items == "drop",
        )

    def lists(self, updated: Updated) -> Effects:
        return make_lists(
            updated, self.encoder, self.policy, topics=TOPICS, withdrawn=frozenset(), now_ms=NOW_MS, mark=str
        )

    def values(self) -> dict[UserKey, bytes]:
        return {user: state.encode(user_state) for user, user_state in self.states.items()}


def assert_effects_add_up(chunks: Sequence[Chunk], effects: Effects) -> None:
    """One state and one list a user; every event caused one list; the counts are those of the records."""
    assert [put.user for put in effects.puts] == [publish.user for publish in effects.lists]
    users = [put.user for put in effects.puts]
    assert len(set(users)) == len(users)
    read = Counter((one.topic, one.partition, row.offset) for one in chunks for row in one.records)
    answered = Counter((letter.topic, letter.partition, letter.record.offset) for letter in effects.dead_letters)
    for publish in effects.lists:
        causes = msgspec.json.decode(publish.value)["caused_by"]
        assert {cause["partition"] for cause in causes} == {publish.user.partition}
        answered.update((cause["topic"], cause["partition"], cause["offset"]) for cause in causes)
    assert answered == read
    counts = effects.counts
    assert counts.records == read.total()
    assert counts.folded + counts.duplicates + counts.late + counts.rejected == counts.records


def assert_states_equal(core: Core, oracles: dict[UserKey, OracleUser]) -> None:
    assert core.states.keys() == oracles.keys()
    for user, oracle in oracles.items():
        user_state = core.states[user]
        history = zip(user_state.history_items, user_state.history_types, user_state.history_times_ms, strict=True)
        assert list(history) == [one.step for one in oracle.history]
        assert user_state.fences == [oracle.fences.get(kind, 0) for kind in range(4)]
        assert (user_state.events_count, user_state.late_count) == (oracle.folded, oracle.late)
        hidden, _ = full_pass(core.encoder, oracle.steps[-400:])  # 0.97**400 of anything older is nothing
        assert user_state.hidden is not None
        np.testing.assert_allclose(user_state.hidden, hidden, atol=2e-4)


class Producer:
    """Draws records of three topics, good and bad, and keeps what the good ones must come to."""

    def __init__(self, seed: int, users: int) -> None:
        self.rng = random.Random(seed)
        self.users = [f"user-{n}" for n in range(users)]
        self.offsets: Counter[tuple[int, int]] = Counter()
        self.now_ms = NOW_MS - 10**9
        self.pending: defaultdict[UserKey, list[OracleEvent]] = defaultdict(list)
        self.oracles: defaultdict[UserKey, OracleUser] = defaultdict(OracleUser)
        self.bad: list[tuple[str, int, FakeRecord]] = []

    def chunks(self, records: int, bad_share: float) -> list[Chunk]:
        drawn: defaultdict[tuple[int, int], list[FakeRecord]] = defaultdict(list)
        for _ in range(records):
            event_type, user = self.rng.randrange(3), self.rng.choice(self.users)
            partition = partition_of(user.encode(), PARTITIONS)
            offset = self.offsets[event_type, partition]
            self.offsets[event_type, partition] += 1
            if self.rng.random() < bad_share:
                row = self._bad(offset, user)
                self.bad.append((TOPICS[event_type], partition, row))
            else:
                row = self._good(event_type, offset, user, partition)
            drawn[event_type, partition].append(row)
        return [chunk(event_type, partition, rows) for (event_type, partition), rows in drawn.items()]

    def settled(self, model: str) -> None:
        for user, events in self.pending.items():
            self.oracles[user].apply(events, model)
        self.pending.clear()

    def _good(self, event_type: int, offset: int, user: str, partition: int) -> FakeRecord:
        rng = self.rng
        self.now_ms += rng.randrange(200)
        time_ms = self.now_ms - (rng.randrange(10**7) if rng.random() < 0.02 else 0)
        event_id = f"e-{rng.randrange(5_000)}" if rng.random() < 0.2 else None
        item = rng.choice(ITEMS)
        self.pending[UserKey(partition, user.encode())].append(OracleEvent(event_type, offset, item, time_ms, event_id))
        encoding = "msgpack" if rng.random() < 0.3 else "json"
        return record(offset, user, item, time_ms, encoding=encoding, event_id=event_id, context={"n": [offset]})

    def _bad(self, offset: int, user: str) -> FakeRecord:
        rng = self.rng
        good = record(offset, user, "item-1", self.now_ms)
        body = good.value or b""
        wrong: dict[str, Any] = rng.choice(
            [
                {"timestamp": None},
                {"timestamp": -rng.randrange(1, 10**9)},
                {"timestamp": NOW_MS + limits.future_skew_ms + 1 + rng.randrange(10**6)},
                {"timestamp": "now"},
                {"item_id": ""},
                {"item_id": "x" * rng.randrange(limits.id_bytes_max + 1, 400)},
                {"item_id": rng.randrange(100)},
                {"item_id": f"a{chr(rng.randrange(32))}"},
                {"event_id": "\x7f"},
                {"value": 1e300},
                {"user_id": "somebody-else"},
            ]
        )
        return rng.choice(
            [
                lambda: good._replace(value=None),
                lambda: good._replace(value=b"\xff" + rng.randbytes(rng.randrange(60))),
                lambda: good._replace(value=b"\xc1" + rng.randbytes(rng.randrange(60)), headers=MSGPACK),
                lambda: good._replace(value=body[: rng.randrange(len(body))]),
                lambda: good._replace(value=b"[" * rng.randrange(1, 300)),
                lambda: good._replace(value=body[:-1] + b',"x":' + b"[" * 40 + b"]" * 40 + b"}"),
                lambda: good._replace(value=body[:-1] + b',"value":' + rng.choice([b"NaN", b"1e999"]) + b"}"),
                lambda: good._replace(key=rng.choice([None, b"", b"other", rng.randbytes(9)])),
                lambda: good._replace(headers=[("content-type", rng.randbytes(5))]),
                lambda: good._replace(headers=[("ce_type", b"refund")]),
                lambda: record(offset, user, "item-1", self.now_ms, **wrong),
            ]
        )()


def test_fuzzed_records_are_one_dead_letter_each_and_the_good_ones_among_them_are_exact() -> None:
    producer, core = Producer(seed=20, users=1_000), Core()
    left = FUZZED_RECORDS
    while left > 0:
        producer.bad.clear()
        chunks = producer.chunks(min(BATCH_RECORDS, left), bad_share=0.85)
        left -= BATCH_RECORDS
        effects = core.run(chunks)
        producer.settled(core.encoder.version)
        assert_effects_add_up(chunks, effects)
        letters = {(letter.topic, letter.partition, letter.record.offset): letter for letter in effects.dead_letters}
        assert len(letters) == len(effects.dead_letters) == len(producer.bad)
        for topic, partition, row in producer.bad:
            kept = letters[topic, partition, row.offset].record
            assert (kept.key, kept.value, kept.headers) == (row.key, row.value, list(row.headers))
    assert_states_equal(core, dict(producer.oracles))


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 40), st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_the_same_batches_give_the_same_bytes(seed: int, users: int, sizes: list[int]) -> None:
    producer = Producer(seed, users)
    batches = [producer.chunks(size, bad_share=0.1) for size in sizes]
    first, second = Core(), Core()
    for chunks in batches:
        effects = first.run(chunks)
        assert effects == second.run(chunks)
        assert_effects_add_up(chunks, effects)
    assert first.values() == second.values()


@settings(max_examples=20)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.lists(st.integers(1, 300), min_size=2, max_size=5),
    st.sampled_from(["keep", "drop"]),
    st.booleans(),
)
def test_lists_are_of_their_moment_whatever_is_folded_before_they_are_made(
    seed: int, users: int, sizes: list[int], seen_items: Literal["keep", "drop"], follows: bool
) -> None:
    producer, weights = Producer(seed, users), CoVisitationWeights(weight=1.0, scale=100.0, new_items=0.0)
    policy = Policy(list_items=5, seen_items=seen_items, covisitation=weights if follows else None)
    batches = [producer.chunks(size, bad_share=0.1) for size in sizes]
    at_once, later = (Core(policy, known_items=3) for _ in range(2))  # too few for a list: popular ones fill it
    updated = [later.update(chunks) for chunks in batches]
    assert [later.lists(one) for one in updated] == [at_once.run(chunks) for chunks in batches]


def in_batches(rows: Sequence[tuple[int, int, FakeRecord]], places: Sequence[int]) -> Iterator[list[Chunk]]:
    """Records in event-time order as batches: within one, the records of a partition are together."""
    for a, b in pairwise([0, *sorted(min(place, len(rows)) for place in places), len(rows)]):
        parts: defaultdict[tuple[int, int], list[FakeRecord]] = defaultdict(list)
        for event_type, partition, row in rows[a:b]:
            parts[event_type, partition].append(row)
        yield [chunk(event_type, partition, part) for (event_type, partition), part in parts.items()]


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 600), max_size=8))
def test_a_stream_in_order_comes_to_the_same_states_in_any_batches(seed: int, users: int, places: list[int]) -> None:
    rng = random.Random(seed)
    offsets: Counter[tuple[int, int]] = Counter()
    rows: list[tuple[int, int, FakeRecord]] = []
    for n in range(600):
        event_type, user = rng.randrange(3), f"user-{rng.randrange(users)}"
        partition = partition_of(user.encode(), PARTITIONS)
        row = record(offsets[event_type, partition], user, rng.choice(ITEMS), NOW_MS - 10**6 + n)
        offsets[event_type, partition] += 1
        rows.append((event_type, partition, row))
    at_once, in_parts = Core(), Core()
    for core, cuts in ((at_once, []), (in_parts, places)):
        for chunks in in_batches(rows, cuts):
            core.run(chunks)
    assert at_once.values() == in_parts.values()
    for partition, popularity in at_once.popularity.items():
        shares, theirs = dict(popularity.top(60)), dict(in_parts.popularity[partition].top(60))
        assert shares.keys() == theirs.keys()
        np.testing.assert_allclose([shares[item] for item in theirs], list(theirs.values()), rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40)
def test_the_same_events_give_the_same_last_lists_in_any_batches(seed: int, follows: bool) -> None:
    """In event-time order: one batch, many, and one event at a time; some users take only what the model lacks."""
    rng = random.Random(seed)
    weights = CoVisitationWeights(weight=1.0, scale=100.0, new_items=0.0) if follows else None
    records = [
        record(n, f"user-{user}", rng.choice(ITEMS if user < 6 else NEW_ITEMS), NOW_MS - 10_000 + n // 2)
        for n, user in enumerate(rng.randrange(9) for _ in range(rng.randint(1, 400)))
    ]
    chunks = [chunk(0, partition_of(one.key or b"", PARTITIONS), [one]) for one in records]
    cuts = sorted(rng.sample(range(len(chunks)), min(5, len(chunks))))
    answers: list[dict[UserKey, bytes]] = []
    for bounds in ([0, len(chunks)], [0, *cuts, len(chunks)], [*range(len(chunks) + 1)]):
        core = Core(Policy(list_items=5, covisitation=weights))
        lists: dict[UserKey, bytes] = {}
        for start, end in pairwise(bounds):
            for published in core.run(chunks[start:end]).lists if start < end else ():
                lists[published.user] = _without_causes(published.value)
        answers.append(lists)
    assert answers[0] == answers[1] == answers[2]
    if len(records) > 300:
        assert (b"co-visitation" if follows else b"popularity") in b"".join(answers[0].values())


def _without_causes(value: bytes) -> bytes:
    decoded = msgspec.json.decode(value)
    return msgspec.json.encode({name: decoded[name] for name in ("user_id", "event_time", "items")})
