"""One batch through the core: effects, counts, causes; tests/property/test_process.py streams at random."""

from collections import defaultdict
from typing import Any

import msgspec

from operators import state
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.popularity import Popularity
from operators.effects import Counts, Effects
from operators.process import process_batch
from operators.ranking import Policy
from operators.records import PackedRecord
from operators.state import UserState
from tests.fakes import NOW_MS, TOPICS, FakeEncoder, FakeRecord, chunk, items, record


class Core:
    """The core with its states in dictionaries."""

    def __init__(self, encoder: FakeEncoder | None = None) -> None:
        self.encoder = encoder or FakeEncoder(items(30))
        self.states: defaultdict[UserKey, UserState] = defaultdict(UserState)
        self.popularity: defaultdict[int, Popularity] = defaultdict(Popularity)

    def run(self, *chunks: Chunk) -> Effects:
        batch = decode_chunks(chunks, NOW_MS)
        return process_batch(
            batch,
            {user: self.states[user] for user in batch.users},
            {user.partition: self.popularity[user.partition] for user in batch.users},
            self.encoder,
            Policy(),
            topics=TOPICS,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
        )


def listed(effects: Effects) -> dict[bytes, Any]:
    return {publish.user.key: msgspec.json.decode(publish.value) for publish in effects.lists}


def test_one_list_and_one_state_for_each_user_of_a_batch() -> None:
    effects = Core().run(
        chunk(0, 3, [record(10, "ann", "item-1", 1_000), record(11, "bob", "item-2", 2_000)]),
        chunk(2, 3, [record(90, "ann", "item-3", 3_000), record(91, "ann", "item-4", 4_000)]),
    )
    assert [put.user for put in effects.puts] == [UserKey(3, b"ann"), UserKey(3, b"bob")]
    assert [publish.user for publish in effects.lists] == [UserKey(3, b"ann"), UserKey(3, b"bob")]
    ann = state.decode(effects.puts[0].value)
    assert (ann.history_items, ann.fences) == (["item-1", "item-3", "item-4"], [11, 0, 92, 0])


def test_a_list_says_what_caused_it() -> None:
    effects = Core().run(
        chunk(0, 3, [record(10, "ann", "item-1", 5_000)]),
        chunk(2, 3, [record(90, "ann", "item-3", 3_000), record(91, "ann", "item-4", 4_000)]),
    )
    ann = listed(effects)[b"ann"]
    assert ann["caused_by"] == [
        {"topic": "purchase", "partition": 3, "offset": 90},
        {"topic": "purchase", "partition": 3, "offset": 91},
        {"topic": "view", "partition": 3, "offset": 10},
    ]
    assert (ann["request_id"], ann["user_id"]) == ("view-3-10", "ann")
    assert (ann["event_time"], ann["generated_at"]) == (5_000, NOW_MS)
    assert (ann["model_version"], ann["variant"], ann["degraded"]) == ("fake-1", "default", False)
    assert len(ann["items"]) == 10


def test_counts_add_up() -> None:
    core = Core()
    core.run(chunk(0, 0, [record(n, "ann", "item-1", 100_000 + n) for n in range(50)]))
    effects = core.run(
        chunk(
            0,
            0,
            [
                record(49, "ann", "item-1", 100_049),
                record(50, "ann", "item-2", 99_000),
                record(51, "ann", "item-3", 200_000),
                record(52, "bob", "unheard-of", 1_000),
                FakeRecord(53, b"ann", b"{"),
            ],
        )
    )
    assert effects.counts == Counts(
        records=5, folded=2, duplicates=1, late=1, rejected=1, unknown_items=1, popularity_lists=1
    )


def test_a_dead_letter_holds_the_record_and_where_it_came_from() -> None:
    bad = FakeRecord(17, b"k", b"\xff", [("h", b"v")])
    effects = Core().run(chunk(1, 2, [bad]))
    assert (effects.puts, effects.lists) == ([], [])
    (letter,) = effects.dead_letters
    assert (letter.topic, letter.partition, letter.rejected.code) == ("click", 2, "malformed")
    assert letter.record == PackedRecord(17, 0, b"k", b"\xff", [("h", b"v")])


def test_replayed_events_publish_the_same_list_again_and_change_no_state() -> None:
    core = Core()
    batch = chunk(0, 0, [record(n, "ann", f"item-{n}", 1_000 * n) for n in range(4)])
    first = core.run(batch)
    again = core.run(batch)
    assert again.puts == first.puts
    assert again.lists == first.lists
    assert again.counts == Counts(records=4, duplicates=4)
    assert core.popularity[0].events == 4


def test_the_same_user_id_on_two_partitions_is_two_states() -> None:
    effects = Core().run(
        chunk(0, 0, [record(0, "ann", "item-1", 1_000)]), chunk(0, 1, [record(0, "ann", "item-2", 1_000)])
    )
    assert [put.user.partition for put in effects.puts] == [0, 1]
    assert [state.decode(put.value).history_items for put in effects.puts] == [["item-1"], ["item-2"]]


def test_an_empty_batch_has_no_effects() -> None:
    assert Core().run() == Effects([], [], [], Counts())
    assert Core().run(chunk(0, 0, [])) == Effects([], [], [], Counts())


def test_a_state_is_not_tied_to_its_batch() -> None:
    core = Core()
    core.run(chunk(0, 0, [record(n, f"user-{n}", "item-1", 1_000) for n in range(20)]))
    for user_state in core.states.values():
        assert user_state.hidden is not None
        assert user_state.vector is not None
        assert user_state.hidden.base is None
        assert user_state.vector.base is None
