"""Topics of every compression that Apache Kafka knows: the broker compresses, both of our clients read."""

import json
import random
from pathlib import Path
from typing import Final

import pytest

from models.runtime import DEFAULT_ARTEFACT
from streams.clients.kafka import Partition, consumer
from streams.clients.reading import end_offsets, read
from streams.clients.topics import create_topics
from streams.settings import Settings
from streams.topics import topic_specs
from tests.integration.harness import Producer, WorkerProcess, new_settings, run, wait_settled
from tests.integration.oracle import Oracle, final_states, make_events, note

_EVENTS: Final = 300
_ITEMS: Final = json.loads((DEFAULT_ARTEFACT / "vocabulary.json").read_text())[1:200]


def _users_with_lists(settings: Settings) -> set[str]:
    topic = settings.topics.recommendations
    with consumer(settings.broker) as client:
        ends = end_offsets(client, [Partition(topic, number) for number in range(settings.topics.partitions)])
        return {json.loads(record.value or b"")["user_id"] for record in read(client, dict.fromkeys(ends, 0), ends)}


@pytest.mark.kafka
@pytest.mark.timeout(180)
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_compressed_events_are_folded_and_answered(codec: str, kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path, partitions=2)
    specs = topic_specs(settings.topics, settings.worker.app_id)
    create_topics(settings, {spec.name: {"compression.type": codec} for spec in specs})
    oracle = Oracle(settings.topics.events)
    events = make_events(settings, random.Random(6), _EVENTS, 20, _ITEMS)
    note(oracle, events, run(Producer(settings).send(events)))
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, oracle.ends, 60, [worker])
        assert worker.terminate() == 0
        worker.wipe()
        worker.start().wait_ready()  # from a changelog that is compressed too
        assert worker.terminate() == 0
    states = final_states(settings)
    verdict = oracle.judge(states, late_allowed=True)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, [])
    assert _users_with_lists(settings) == set(states)
