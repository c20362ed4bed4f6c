"""An encoder that fails at drawn calls: lists are marked, and in the end every state is that of a sound encoder."""

from collections import defaultdict
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators import limits
from operators.batches import UserKey, decode_chunks
from operators.candidates.popularity import Popularity
from operators.effects import Effects
from operators.interest import EncoderError
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState, decode, encode
from tests.fakes import NOW_MS, TOPICS, FakeEncoder, chunk, items, record

USERS = ("ann", "bob", "cyd")
UNKNOWN = "unheard-of"


class Failing(FakeEncoder):
    """Fails while ``advance_fails`` or ``top_k_fails``."""

    advance_fails = top_k_fails = False

    def advance(self, packed: Any) -> Any:
        if self.advance_fails:
            raise EncoderError("planted")
        return super().advance(packed)

    def top_k(self, vectors: Any, k: int) -> Any:
        if self.top_k_fails:
            raise EncoderError("planted")
        return super().top_k(vectors, k)


class Core:
    """The core, whose states travel through their bytes after every batch, as they do through the store."""

    def __init__(self) -> None:
        self.encoder = Failing(items(20))
        self.states: dict[UserKey, bytes] = {}
        self.popularity: defaultdict[int, Popularity] = defaultdict(Popularity)

    def run(self, events: list[tuple[str, str]], start: int, *, yields: bool = False) -> Effects:
        records = [record(start + n, user, item, 1_000 * (start + n)) for n, (user, item) in enumerate(events)]
        batch = decode_chunks([chunk(0, 0, records)], NOW_MS)
        states = {user: decode(self.states[user]) if user in self.states else UserState() for user in batch.users}
        self.popularity[0]
        effects = process_batch(
            batch,
            states,
            self.popularity,
            self.encoder,
            Policy(),
            topics=TOPICS,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
            yields=yields,
        )
        self.states |= {put.user: put.value for put in effects.puts}
        return effects


drawn_events = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from([*items(20), UNKNOWN])), min_size=1, max_size=30
)
unknown_events = st.lists(st.tuples(st.sampled_from(USERS), st.just(UNKNOWN)), min_size=1, max_size=3)
batches = st.lists(
    st.tuples(drawn_events | unknown_events, st.sampled_from(["sound", "advance", "top_k"])),
    min_size=1,
    max_size=8,
)


@given(batches)
def test_after_the_encoders_return_every_state_is_exact(
    drawn: list[tuple[list[tuple[str, str]], str]],
) -> None:
    core, sound = Core(), Core()
    start, steps = 0, defaultdict[str, list[str]](list)
    for events, failure in [*drawn, ([(user, "item-3") for user in USERS], "sound")]:
        core.encoder.advance_fails, core.encoder.top_k_fails = failure == "advance", failure == "top_k"
        effects, expected = core.run(events, start), sound.run(events, start)
        start += len(events)
        for user, item in events:
            steps[user].append(item)
        lists = [msgspec.json.decode(published.value) for published in effects.lists]
        assert len(lists) == len(expected.lists)
        # A list needs the encoder's scores only where the user's history has an item that it knows.
        asks = any(item != UNKNOWN for user, _ in events for item in steps[user])
        fails = failure == "advance" or (failure == "top_k" and asks)
        assert {content["degraded"] for content in lists} == {fails}
        assert effects.counts.degraded_lists == (len(lists) if fails else 0)
        assert effects.counts.yielded_lists == 0
        if fails:
            assert {item["source"] for content in lists for item in content["items"]} <= {"history", "popularity"}
            assert any(content["items"] for content in lists)
        elif all(len(taken) <= limits.history_events_max for taken in steps.values()):
            assert lists == [msgspec.json.decode(published.value) for published in expected.lists]
    for user, value in core.states.items():
        found, wanted = decode(value), decode(sound.states[user])
        assert found.history_items == wanted.history_items
        assert (found.fences, found.events_count, found.late_count) == (
            wanted.fences,
            wanted.events_count,
            wanted.late_count,
        )
        assert found.hidden is not None
        assert found.vector is not None
        # A history that still holds every event: the same numbers. A longer one: of a pass over what it holds.
        if len(steps[user.key.decode()]) <= limits.history_events_max:
            np.testing.assert_allclose(found.vector, wanted.vector, atol=1e-5)
            assert (found.known_count, found.unknown_count) == (wanted.known_count, wanted.unknown_count)
            assert encode(found) == encode(wanted) or np.allclose(found.hidden, wanted.hidden, atol=1e-5)


@given(st.lists(st.tuples(drawn_events, st.booleans()), min_size=1, max_size=6))
def test_where_the_encoder_yields_only_the_lists_are_without_it(
    drawn: list[tuple[list[tuple[str, str]], bool]],
) -> None:
    core, sound = Core(), Core()
    start = 0
    for events, yields in drawn:
        effects, expected = core.run(events, start, yields=yields), sound.run(events, start)
        start += len(events)
        assert effects.puts == expected.puts
        assert [published.user for published in effects.lists] == [published.user for published in expected.lists]
        yielded = len(expected.lists) if yields else 0
        assert (effects.counts.degraded_lists, effects.counts.yielded_lists) == (yielded, yielded)
        for published, full in zip(effects.lists, expected.lists, strict=True):
            content, wanted = msgspec.json.decode(published.value), msgspec.json.decode(full.value)
            assert content["degraded"] == yields
            for name in ("caused_by", "request_id", "event_time"):
                assert content[name] == wanted[name]
            if yields:
                assert {item["source"] for item in content["items"]} <= {"history", "popularity"}
            else:
                assert content == wanted


def test_an_encoder_that_fails_while_it_should_yield_has_failed() -> None:
    core = Core()
    core.encoder.advance_fails = True
    counts = core.run([("ann", "item-1"), ("bob", "item-2")], 0, yields=True).counts
    assert (counts.degraded_lists, counts.yielded_lists) == (2, 0)
