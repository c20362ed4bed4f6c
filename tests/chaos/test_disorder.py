"""A stream in which events come twice, late, early and at once: every user ends in event-time order."""

import json
import random
import time
from pathlib import Path
from typing import Any, Final

import pytest

from models.runtime import DEFAULT_ARTEFACT
from streams.settings import Settings
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
from tests.integration.oracle import HISTORY, Oracle, final_states, keys_and_values

ITEMS: Final = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:400]
EVENTS, USERS = 12_000, 60
DAY_MS: Final = 24 * 3600 * 1000
NEAR, FAR = 300, 9_000
"""Places by which events are moved: a few of a user's own events, and more than its history holds."""


def _moments(rng: random.Random, now_ms: int) -> list[dict[str, Any]]:
    """Events in event-time order, five of them to a millisecond now and then."""
    time_ms, events = now_ms - 2 * DAY_MS, list[dict[str, Any]]()
    for n in range(EVENTS):
        time_ms += 0 if rng.random() < 0.3 else rng.randrange(1, 2_000)
        user = f"user-{rng.randrange(USERS)}"
        events.append({"user_id": user, "item_id": rng.choice(ITEMS), "timestamp": time_ms, "event_id": f"e{n}"})
    return events


def _disordered(rng: random.Random, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some moved by a little, some by a lot, some a day slow, some sent again soon, some again much later."""
    keyed: list[tuple[float, dict[str, Any]]] = []
    for at, event in enumerate(events):
        draw = rng.random()
        if draw < 0.05:
            event = {**event, "timestamp": event["timestamp"] - DAY_MS}  # noqa: PLW2901  # of a clock a day slow
        keyed.append((at + (rng.uniform(0, NEAR) if draw < 0.3 else FAR if draw > 0.97 else 0), event))
        if rng.random() < 0.1:
            keyed.append((at + (rng.uniform(0, NEAR) if rng.random() < 0.8 else FAR), event))
    return [event for _, event in sorted(keyed, key=lambda pair: pair[0])]


def _ahead(rng: random.Random, now_ms: int, count: int) -> list[dict[str, Any]]:
    """Of a clock that is a day fast."""
    return [
        {"user_id": f"user-{rng.randrange(USERS)}", "item_id": rng.choice(ITEMS), "timestamp": now_ms + DAY_MS + n}
        for n in range(count)
    ]


def _records(settings: Settings, rng: random.Random, events: list[dict[str, Any]]) -> list[Outgoing]:
    topics = {f"e{n}": settings.topics.events[rng.randrange(3)] for n in range(EVENTS)}  # an id comes on one topic
    return [
        Outgoing(
            topics.get(event.get("event_id", ""), settings.topics.view),
            event["user_id"].encode(),
            json.dumps(event).encode(),
        )
        for event in events
    ]


@pytest.mark.kafka
@pytest.mark.timeout(180)
def test_a_disordered_stream_converges_to_event_time_order(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path, batch_events_max=200)
    create_topics(settings)
    rng, now_ms = random.Random(1), time.time_ns() // 1_000_000
    good, ahead = _disordered(rng, _moments(rng, now_ms)), _ahead(rng, now_ms, 100)
    assert len(good) > EVENTS + 1_000
    oracle = Oracle(settings.topics.events)
    with WorkerProcess(settings, tmp_path).start() as worker:
        worker.wait_ready()
        for batch in (good[: EVENTS // 2], good[EVENTS // 2 :]):
            for place, record in _sent(settings, _records(settings, random.Random(2), batch)):
                oracle.add(place, record.value or b"")
        refused = [place for place, _ in _sent(settings, _records(settings, rng, ahead))]
        for place in refused:
            oracle.note_end(place)
        wait_settled(settings, oracle.ends, 120, [worker])
        assert worker.terminate() == 0
    verdict = oracle.judge(final_states(settings), late_allowed=True)
    assert (verdict.lost, verdict.doubled, verdict.wrong[:3]) == (0, 0, [])
    assert EVENTS / 100 < verdict.late < EVENTS / 5, f"moved by {FAR} places is beyond {HISTORY} events"
    lists = keys_and_values(read_topic(settings, settings.topics.recommendations))
    assert oracle.list_problems(lists, in_order=False)[:3] == []
    letters = [dict(letter.headers) for letter in read_topic(settings, settings.topics.dead_letter, 1)]
    found = [Place(h["dl_topic"].decode(), int(h["dl_partition"]), int(h["dl_offset"])) for h in letters]
    assert sorted(found) == sorted(refused)
    assert {headers["dl_code"] for headers in letters} == {b"future"}


def _sent(settings: Settings, records: list[Outgoing]) -> list[tuple[Place, Outgoing]]:
    places = run(Producer(settings).send(records))
    return list(zip(places, records, strict=True))
