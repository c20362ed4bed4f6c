"""A live worker and a plain loop over ``process_batch`` come to the same states and lists."""

import json
import random
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.choose_fusion import write_fusion
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators import state
from operators.batches import Chunk, UserKey, decode_chunks
from operators.candidates.live_covisitation import LiveCoVisitation
from operators.candidates.popularity import Popularity
from operators.fusion import CoVisitationWeights, Fusion
from operators.process import process_batch
from operators.ranking import Policy
from operators.state import UserState
from streams.settings import Settings
from tests.integration.harness import (
    Outgoing,
    Producer,
    WorkerProcess,
    create_topics,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import Oracle, final_lists, final_states, make_events, note

ITEMS = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:2000]
NOW_MS = 1_750_000_000_000
CHUNK = 37
TOLERANCE = 1e-5
"""Of numbers that one encoder call computes for several users: they depend on who else is in the call."""


# Events of several topics come out of order within a chunk, and are then encoded anew from the history: only
# where that holds all of a user's events (25 on the average) is it the pass over all of them.
@pytest.mark.parametrize(("types", "users"), [((2,), 40), ((0, 1, 2), 160)], ids=["one topic", "three topics"])
def test_live_and_replay_agree(embedded: str, tmp_path: Path, types: tuple[int, ...], users: int) -> None:
    settings = new_settings(embedded, tmp_path, seen_items="drop")
    create_topics(settings)
    events = make_events(settings, random.Random(5), 4_000, users, ITEMS, types=types)
    oracle = Oracle(settings.topics.events)
    note(oracle, events, run(Producer(settings).send(events)))
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, oracle.ends, 60, [worker])
        assert worker.terminate() == 0
    live, live_lists = final_states(settings), final_lists(settings)
    replayed, replayed_lists = _replay(settings)
    assert live.keys() == replayed.keys()
    for user, one in live.items():
        _same(one, replayed[user])
        ids = [[item["item_id"] for item in lists[user]["items"]] for lists in (live_lists, replayed_lists)]
        assert ids[0] == ids[1], user


def test_live_and_replay_agree_on_co_visitation(embedded: str, tmp_path: Path) -> None:
    """Also across an orderly stop, after which another worker goes on from the changelog alone."""
    model = tmp_path / "model"
    shutil.copytree(DEFAULT_ARTEFACT, model)
    weights = CoVisitationWeights(weight=3.0, scale=1_000.0, new_items=0.0)
    write_fusion(model, Fusion(repeat_weight=0.0, covisitation=weights))
    settings = new_settings(embedded, tmp_path, seen_items="drop", covisitation=True, model_dir=str(model))
    create_topics(settings)
    rng = random.Random(6)
    items = [*ITEMS[:300], *(f"new-{n}" for n in range(30))]
    events = [
        Outgoing(settings.topics.click, user.encode(), json.dumps(event).encode(), None, ())
        for n in range(3_000)
        for user in [f"user-{rng.randrange(60)}"]
        for event in [{"user_id": user, "item_id": rng.choice(items), "timestamp": NOW_MS - 10_000_000 + 1_000 * n}]
    ]
    oracle = Oracle(settings.topics.events)
    for part, name in ((events[:1_700], "first"), (events[1_700:], "second")):
        note(oracle, part, run(Producer(settings).send(part)))
        home = tmp_path / name
        home.mkdir()
        with WorkerProcess(_moved(settings, home), home, name).start() as worker:
            wait_settled(settings, oracle.ends, 60, [worker])
            assert worker.terminate() == 0
    lists, replayed = final_lists(settings), _replay(settings, weights)[1]
    assert lists.keys() == replayed.keys()
    sources: set[str] = set()
    for user, one in lists.items():
        both = [[(item["item_id"], item["source"]) for item in of["items"]] for of in (one, replayed[user])]
        assert both[0] == both[1], user
        sources |= {source for _, source in both[0]}
    assert sources >= {"encoder", "co-visitation"}
    assert any(item["item_id"].startswith("new-") for one in lists.values() for item in one["items"])


def _moved(settings: Settings, home: Path) -> Settings:
    worker = msgspec.structs.replace(settings.worker, data_dir=str(home / "state"))
    return msgspec.structs.replace(settings, worker=worker)


def _same(one: UserState, other: UserState) -> None:
    """Byte for byte, once the encoder's floats are found close and taken from one side."""
    for numbers, others in ((one.hidden, other.hidden), (one.vector, other.vector)):
        assert numbers is not None
        assert others is not None
        np.testing.assert_allclose(numbers, others, rtol=TOLERANCE, atol=TOLERANCE)
    other.hidden, other.vector = one.hidden, one.vector
    assert state.encode(one) == state.encode(other)


def _replay(
    settings: Settings, weights: CoVisitationWeights | None = None
) -> tuple[dict[str, UserState], dict[str, dict[str, list[dict[str, str]]]]]:
    """All events of all topics in event-time order, in batches of another size than the worker's."""
    records = [
        (event_type, record)
        for event_type, topic in enumerate(settings.topics.events)
        for record in read_topic(settings, topic)
    ]
    records.sort(key=lambda pair: json.loads(pair[1].value)["timestamp"])
    encoder = OnnxEncoder(DEFAULT_ARTEFACT, providers="cpu")
    states: dict[UserKey, UserState] = {}
    popularity = {partition: Popularity() for partition in range(settings.topics.partitions)}
    followed = {partition: LiveCoVisitation() for partition in range(settings.topics.partitions)}
    lists: dict[str, dict[str, list[dict[str, str]]]] = {}
    for start in range(0, len(records), CHUNK):
        part = records[start : start + CHUNK]
        chunks = [Chunk.of(record.topic, event_type, record.partition, [record]) for event_type, record in part]
        batch = decode_chunks(chunks, NOW_MS)
        effects = process_batch(
            batch,
            {user: states.setdefault(user, UserState()) for user in batch.users},
            popularity,
            encoder,
            Policy(seen_items="drop", covisitation=weights),
            topics=settings.topics.events,
            withdrawn=frozenset(),
            now_ms=NOW_MS,
            covisitation=followed if weights else None,
        )
        lists.update({published.user.key.decode(): json.loads(published.value) for published in effects.lists})
    return {user.key.decode(): found for user, found in states.items()}, lists
