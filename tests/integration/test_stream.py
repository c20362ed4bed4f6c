"""A stream of events through the embedded broker and a worker, every user checked against the oracle."""

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from infra.broker.probe import claim_port
from models.runtime import DEFAULT_ARTEFACT, OnnxEncoder
from operators.candidates.popularity import Popularity
from operators.ranking import rank
from operators.tastes import Tastes
from streams.policy import policy_of
from streams.settings import Settings
from tests.integration.bad_records import KINDS, make_bad_records
from tests.integration.harness import (
    Outgoing,
    Place,
    Producer,
    WorkerProcess,
    create_topics,
    new_settings,
    read_topic,
    run,
    wait_settled,
)
from tests.integration.oracle import Oracle, final_lists, final_states, keys_and_values, make_events, note

ITEMS = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:400]
UNKNOWN_ITEMS = [f"unheard-of-{n}" for n in range(20)]
EVENTS, USERS, BAD = 20_000, 200, 200


class Stream(NamedTuple):
    """Settings, what was produced, and a worker that has processed all of it."""

    settings: Settings
    oracle: Oracle
    bad: dict[Place, Outgoing]
    worker: WorkerProcess
    home: Path
    is_aligned: bool
    """No partition went on without a topic that was fetched too late, which is a matter of the machine's load."""


@pytest.fixture(scope="module")
def stream(embedded: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stream]:
    home = tmp_path_factory.mktemp("stream")
    settings = new_settings(embedded, home, web_port=claim_port(0))
    create_topics(settings)
    rng = random.Random(1)
    events = make_events(settings, rng, EVENTS, USERS, [*ITEMS, *UNKNOWN_ITEMS])
    bad = [*make_bad_records(settings, rng, BAD - 1), _large_record(settings)]
    everything: list[tuple[Outgoing, bool]] = [(event, True) for event in events]
    for record in bad:
        at = rng.randrange(len(everything))
        # The worker merges topics by record time, so a bad record has the time of its surroundings.
        everything.insert(at, (record._replace(timestamp_ms=everything[at][0].timestamp_ms), False))
    places = Producer(settings).send([record for record, _ in everything])
    oracle = Oracle(settings.topics.events)
    placed = list(zip(everything, run(places), strict=True))
    note(oracle, [r for (r, good), _ in placed if good], [p for (_, good), p in placed if good])
    rejected = {place: record for (record, good), place in placed if not good}
    for place in rejected:
        oracle.note_end(place)
    with WorkerProcess(settings, home).start() as worker:
        wait_settled(settings, oracle.ends, 60, [worker])
        is_aligned = worker.metrics()["headwater_unaligned_total"] == 0
        yield Stream(settings, oracle, rejected, worker, home, is_aligned)


def _large_record(settings: Settings) -> Outgoing:
    """As large as brokers take by default; its dead letter has headers on top."""
    return Outgoing(settings.topics.view, b"user-1", b"x" * 1_000_000, None, (), 0)


def test_every_user_is_exact(stream: Stream) -> None:
    verdict = stream.oracle.judge(final_states(stream.settings), late_allowed=not stream.is_aligned)
    assert verdict.wrong == []
    assert (verdict.lost, verdict.doubled) == (0, 0)


def test_every_event_is_named_by_a_list(stream: Stream) -> None:
    records = read_topic(stream.settings, stream.settings.topics.recommendations)
    # Chunks of two topics that overlap in time may fall into two batches, so not every last list is of the last event.
    assert stream.oracle.list_problems(keys_and_values(records), in_order=False) == []
    for content in (json.loads(record.value) for record in records):
        assert [item["rank"] for item in content["items"]] == list(range(1, len(content["items"]) + 1))
        assert content["model_version"]
    assert all(len(content["items"]) == 10 for content in final_lists(stream.settings).values())


def test_the_last_list_of_a_user_is_made_of_all_events(stream: Stream) -> None:
    """Which of the last events it names depends on how batches fell; what is in it does not."""
    worker = stream.settings.worker
    states, lists = final_states(stream.settings), final_lists(stream.settings)
    users = sorted(states)
    assert users == sorted(lists)
    policy = policy_of(msgspec.structs.replace(worker, explain=False), None)
    encoder = OnnxEncoder(DEFAULT_ARTEFACT, providers="cpu")
    tastes = Tastes.of([states[user] for user in users], encoder)
    ranked = rank(tastes, [Popularity()] * len(users), encoder, policy, frozenset())
    for user, items in zip(users, ranked, strict=True):
        assert [item["item_id"] for item in lists[user]["items"]] == [item.item_id for item in items], user


def test_each_bad_record_is_one_dead_letter(stream: Stream) -> None:
    letters = read_topic(stream.settings, stream.settings.topics.dead_letter, 1)
    found: dict[Place, int] = {}
    for letter in letters:
        headers = dict(letter.headers)
        place = Place(headers["dl_topic"].decode(), int(headers["dl_partition"]), int(headers["dl_offset"]))
        found[place] = found.get(place, 0) + 1
        original = stream.bad[place]
        assert (letter.key, letter.value) == (original.key, original.value)
        assert letter.headers[-len(original.headers) :] == original.headers or not original.headers
        assert headers["dl_code"]
        assert headers["dl_reason"]
    assert found == dict.fromkeys(stream.bad, 1)
    assert len(stream.bad) == BAD > len(KINDS)


def test_a_withdrawn_item_leaves_the_lists(stream: Stream) -> None:
    settings = stream.settings
    before = final_lists(settings)["user-3"]["items"]
    gone = before[0]["item_id"]
    run(Producer(settings).send([Outgoing(settings.topics.catalog, gone.encode(), None, partition=0)]))
    time.sleep(1)  # the worker follows the topic by itself
    _produce(stream, make_events(settings, random.Random(2), 400, USERS, ITEMS, first=EVENTS))
    lists = {user: content for user, content in final_lists(settings).items() if _is_new(content)}
    assert len(lists) > 100
    assert not any(item["item_id"] == gone for content in lists.values() for item in content["items"])
    back = json.dumps({"item_id": gone}).encode()
    run(Producer(settings).send([Outgoing(settings.topics.catalog, gone.encode(), back, partition=0)]))


def _is_new(content: dict[str, int]) -> bool:
    return content["event_time"] >= 1_700_000_000_000 + 1000 * EVENTS


def test_a_stopped_worker_goes_on_where_it_was(stream: Stream) -> None:
    settings, oracle, worker = stream.settings, stream.oracle, stream.worker
    assert worker.is_running()
    more = make_events(settings, random.Random(3), 6_000, USERS, ITEMS, first=EVENTS + 400)
    run(_note(stream, more))
    started = time.monotonic()
    assert worker.terminate() == 0
    assert time.monotonic() - started < 10
    lists = len(read_topic(settings, settings.topics.recommendations))
    worker.start().wait_ready()
    wait_settled(settings, oracle.ends, 60, [worker])
    verdict = oracle.judge(final_states(settings), late_allowed=True)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, [])
    records = read_topic(settings, settings.topics.recommendations)
    assert len(records) >= lists
    assert oracle.list_problems(keys_and_values(records), in_order=False) == []


def test_a_worker_with_nothing_new_publishes_nothing(stream: Stream) -> None:
    settings, worker = stream.settings, stream.worker
    assert worker.terminate() == 0
    topics = [settings.topics.recommendations, f"{settings.worker.app_id}-users-changelog"]
    before = [len(read_topic(settings, topic)) for topic in topics]
    worker.start().wait_ready()
    time.sleep(2)
    assert [len(read_topic(settings, topic)) for topic in topics] == before
    assert stream.oracle.judge(final_states(settings), late_allowed=True).wrong == []


def test_known_event_ids_are_folded_once(stream: Stream) -> None:
    again = make_events(stream.settings, random.Random(4), 200, USERS, ITEMS, first=EVENTS + 6_400)
    _produce(stream, [record for event in again for record in (event, event)])
    verdict = stream.oracle.judge(final_states(stream.settings), late_allowed=True)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, [])


def _produce(stream: Stream, events: list[Outgoing]) -> None:
    run(_note(stream, events))
    wait_settled(stream.settings, stream.oracle.ends, 30, [stream.worker])


async def _note(stream: Stream, events: list[Outgoing]) -> None:
    note(stream.oracle, events, await Producer(stream.settings).send(events))
