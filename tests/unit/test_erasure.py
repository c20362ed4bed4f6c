"""Erasure in the core: what goes, what stays, and what cannot bring a user back."""

from typing import Any

import msgspec
import numpy as np
import pytest

from operators import state
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.popularity import Popularity
from operators.effects import Effects
from operators.erasure import ERASURE, ErasureRequest, decode_erasure, digest_of, husk_key
from operators.events import Rejected
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from tests.fakes import NOW_MS, FakeEncoder, FakeRecord, chunk, items, record

SOURCES = ("view", "click", "purchase", "erase")
ANN = UserKey(0, b"ann-the-user")
MSGPACK = [("content-type", b"application/msgpack")]


class Core:
    """The core over states in memory, as the shell keeps them."""

    def __init__(self) -> None:
        self.stored: dict[UserKey, bytes] = {}
        self.lists: dict[UserKey, Any] = {}
        self.encoder = FakeEncoder(items(9))
        self.popularity = {0: Popularity(), 1: Popularity()}

    def run(self, *chunks: Chunk) -> Effects:
        batch = decode_chunks(chunks, NOW_MS)
        states = {user: self.load(user) for user in batch.touched}
        effects = process_batch(
            batch,
            states,
            self.popularity,
            self.encoder,
            Policy(list_items=3),
            topics=SOURCES,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
        )
        for erase in effects.erasures:
            if erase.husk is not None:
                self.stored.pop(erase.user, None)
                self.stored[UserKey(erase.user.partition, erase.husk[0])] = erase.husk[1]
                self.lists.pop(erase.user, None)
        self.stored.update(effects.puts)
        self.lists.update({user: msgspec.json.decode(value) for user, value in effects.lists})
        return effects

    def load(self, user: UserKey) -> UserState:
        husk = UserKey(user.partition, husk_key(user.key))
        value = self.stored.get(user) or self.stored.get(husk)
        return UserState() if value is None else state.decode(value)


def erasing(offset: int, until_ms: int, user: UserKey = ANN, **fields: Any) -> Chunk:
    body = {"user_id": user.key.decode(), "timestamp": until_ms, **fields}
    return Chunk.of("erase", ERASURE, user.partition, [FakeRecord(offset, user.key, msgspec.json.encode(body))])


def viewing(offset: int, *times_ms: int) -> Chunk:
    user = ANN.key.decode()
    return chunk(0, 0, [record(offset + n, user, f"item-{n}", time_ms) for n, time_ms in enumerate(times_ms)])


def test_an_erased_user_leaves_nothing_but_a_husk_that_does_not_name_them() -> None:
    core = Core()
    core.run(viewing(0, 1_000, 2_000))
    effects = core.run(erasing(4, 5_000, request_id="request-1"))
    assert effects.puts == []
    assert effects.lists == []
    (erase,) = effects.erasures
    assert erase.next_offset == 5
    assert ANN not in core.stored
    assert ANN not in core.lists
    kept = b"".join(key.key + value for key, value in core.stored.items()) + b"".join(erase.receipt)
    assert ANN.key not in kept
    assert b"item-0" not in kept
    assert erase.receipt[0] == b"request-1"
    receipt = msgspec.json.decode(erase.receipt[1])
    assert receipt == {
        "request_id": "request-1",
        "digest": digest_of(ANN.key).hex(),
        "erased_until": 5_000,
        "erased_at": NOW_MS,
        "partition": 0,
        "offset": 4,
    }
    assert effects.counts.erasures == effects.counts.records == 1


def test_older_events_do_not_bring_the_user_back_and_newer_ones_begin_a_fresh_one() -> None:
    core = Core()
    core.run(viewing(0, 1_000, 2_000))
    core.run(erasing(0, 5_000))
    again = core.run(viewing(2, 1_000, 5_000))
    assert (again.counts.erased, again.counts.folded, again.puts, again.lists) == (2, 0, [], [])
    core.run(viewing(4, 5_001))
    fresh = core.load(ANN)
    assert (fresh.events_count, fresh.history_items, fresh.erased_until_ms) == (1, ["item-0"], 5_000)
    core.run(viewing(5, 4_999))
    assert core.load(ANN).history_times_ms == [5_001]
    assert [cause["offset"] for cause in core.lists[ANN]["caused_by"]] == [5]


def test_it_is_all_one_whether_newer_events_come_before_the_request_with_it_or_after_it() -> None:
    before, together, after = Core(), Core(), Core()
    before.run(viewing(0, 1_000, 2_000, 6_000, 7_000))
    effects = before.run(erasing(0, 5_000))
    assert effects.erasures[0].husk is None
    together.run(viewing(0, 1_000), erasing(0, 5_000))
    together.run(chunk(0, 0, viewing(0, 1_000, 2_000, 6_000, 7_000).records.part(1)), erasing(0, 5_000))
    after.run(erasing(0, 5_000))
    after.run(viewing(0, 1_000, 2_000, 6_000, 7_000))
    states = [core.load(ANN) for core in (before, together, after)]
    for found in states:
        assert found.history_times_ms == [6_000, 7_000]
        assert found.events_count == 2
        assert found.hidden is not None and states[0].hidden is not None
        np.testing.assert_array_equal(found.hidden, states[0].hidden)
    ranked = [[item["item_id"] for item in core.lists[ANN]["items"]] for core in (before, together, after)]
    assert ranked[0] == ranked[1] == ranked[2] != []
    assert before.lists[ANN]["caused_by"] == [{"topic": "erase", "partition": 0, "offset": 0}]
    assert before.lists[ANN]["event_time"] == 7_000


def test_a_request_that_is_read_again_leaves_who_has_come_back() -> None:
    core = Core()
    core.run(viewing(0, 1_000))
    core.run(erasing(0, 5_000))
    core.run(viewing(1, 6_000))
    before = core.load(ANN)
    effects = core.run(erasing(0, 5_000))
    assert effects.erasures[0].husk is None
    assert state.encode(core.load(ANN)) == state.encode(before)
    assert ANN in core.lists, "the first list may not have been delivered: it is published again"


def test_a_request_that_is_read_again_withdraws_the_list_again() -> None:
    core = Core()
    core.run(erasing(0, 5_000))
    effects = core.run(erasing(0, 5_000))
    assert effects.erasures[0].husk is not None
    assert effects.erasures[0].receipt == core.run(erasing(0, 5_000)).erasures[0].receipt


def test_a_later_request_never_takes_back_an_earlier_one() -> None:
    core = Core()
    core.run(erasing(0, 5_000))
    core.run(erasing(1, 3_000))
    core.run(viewing(0, 4_000))
    assert ANN not in core.stored
    core.run(erasing(2, 9_000))
    core.run(viewing(1, 8_000))
    assert ANN not in core.stored


def test_an_id_erases_nobody_else() -> None:
    core = Core()
    bob = UserKey(1, b"bob")
    core.run(viewing(0, 1_000), chunk(0, 1, [record(0, "bob", "item-1", 1_000)]))
    core.run(erasing(0, 5_000))
    assert core.stored.keys() == {bob, UserKey(0, husk_key(ANN.key))}


def decoded(value: bytes | None, key: bytes | None = b"u", headers: Any = ()) -> ErasureRequest | Rejected:
    return decode_erasure(value, key, headers, 3, NOW_MS)


def test_a_request_in_msgpack_and_one_with_the_time_of_a_cloud_event() -> None:
    body = {"user_id": "u", "timestamp": 7}
    assert decoded(msgspec.msgpack.encode(body), headers=MSGPACK) == ErasureRequest(b"u", 7, 3, None)
    headers = [("ce_time", b"1970-01-01T00:00:02Z"), ("ce_type", b"shop.erase")]
    assert decoded(b'{"user_id": "u"}', headers=headers) == ErasureRequest(b"u", 2_000, 3, None)


@pytest.mark.parametrize(
    ("value", "key", "code"),
    [
        (None, b"u", "malformed"),
        (b"{", b"u", "malformed"),
        (b"[" * 60_000, b"u", "schema"),
        (b" " * 70_000, b"u", "too_large"),
        (b'{"user_id": "u"}', b"u", "schema"),
        (b'{"user_id": 5, "timestamp": 1}', b"u", "schema"),
        (b'{"user_id": "u", "timestamp": -1}', b"u", "bad_timestamp"),
        (b'{"user_id": "u", "timestamp": %d}' % (NOW_MS + 10**6), b"u", "future"),
        (b'{"user_id": "", "timestamp": 1}', b"", "bad_id"),
        (b'{"user_id": "u", "timestamp": 1, "request_id": "u"}', b"u", "bad_id"),
        (b'{"user_id": "u", "timestamp": 1}', b"v", "key_mismatch"),
        (b'{"user_id": "u", "timestamp": 1}', None, "key_mismatch"),
    ],
)
def test_what_is_no_request_becomes_a_dead_letter(value: bytes | None, key: bytes | None, code: str) -> None:
    outcome = decoded(value, key)
    assert isinstance(outcome, Rejected)
    assert outcome.code == code
    effects = Core().run(Chunk.of("erase", ERASURE, 0, [FakeRecord(3, key, value)]))
    assert [letter.rejected.code for letter in effects.dead_letters] == [code]
    assert (effects.erasures, effects.counts.rejected) == ((), 1)
