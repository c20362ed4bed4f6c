"""Erasure on a real Apache Kafka, with kills in the middle: the id goes from the files of worker and broker."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra import broker
from operators.erasure import digest_of
from streams.clients.erase import erase
from streams.clients.errors import InputError
from streams.clients.inspect import inspect
from streams.clients.topics import create_topics
from streams.settings import Settings
from streams.topics import changelog_topic
from tests.integration.harness import (
    KAFKA_PROPERTIES,
    Outgoing,
    Producer,
    WorkerProcess,
    committed,
    new_settings,
    partition_of,
    read_topic,
    run,
)

pytestmark = pytest.mark.kafka

VICTIM = "victim-7f3a9c41e0"
TIMES_MS = (1_767_225_600_000, 1_767_225_601_000, 1_767_225_602_000)
KILLS = 2
AT_ONCE = {
    "segment.ms": "300",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": "100",
    "max.compaction.lag.ms": "300",
}
"""Compaction within seconds; by default it is hours to days."""


def event(settings: Settings, user: str, time_ms: int) -> Outgoing:
    body = {"user_id": user, "item_id": "1082185", "timestamp": time_ms}
    return Outgoing(settings.topics.view, user.encode(), msgspec.json.encode(body))


def neighbour(settings: Settings) -> str:
    """A user of the victim's partition."""
    count = settings.topics.partitions
    at = partition_of(VICTIM.encode(), count)
    return next(user for user in map(str, range(100)) if partition_of(user.encode(), count) == at)


def files_with(text: str, *places: Path) -> list[str]:
    found = subprocess.run(["grep", "-rlaF", text, *map(str, places)], capture_output=True, text=True, check=False)
    return found.stdout.split()


def wait_for(what: Callable[[], Any], worker: WorkerProcess, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert worker.is_running(), worker.log_tail()
        assert time.monotonic() < deadline, f"it did not come to be:\n{worker.log_tail()}"
        time.sleep(0.1)


class Scene:
    """A broker whose cleaner never rests, its topics, and a worker."""

    def __init__(self, running: broker.Broker, home: Path, delivery: str) -> None:
        assert running.data_dir is not None
        self.settings = settings = new_settings(running.address, home, partitions=2, delivery=delivery)
        self.lists, self.changelog = settings.topics.recommendations, changelog_topic(settings.worker.app_id)
        create_topics(settings, {self.lists: AT_ONCE, self.changelog: AT_ONCE})
        self.logs = running.data_dir / "log"
        self.worker = WorkerProcess(settings, home)
        self.sent = 0

    def produce(self, *events: Outgoing) -> None:
        run(Producer(self.settings).send(events))
        self.sent += len(events)
        view = self.settings.topics.view
        wait_for(
            lambda: (
                sum(at for (topic, _), at in committed(self.settings).items() if topic == view and at > 0) == self.sent
            ),
            self.worker,
        )

    def receipts(self) -> list[dict[str, Any]]:
        records = read_topic(self.settings, self.settings.topics.receipts, 1)
        return [{**msgspec.json.decode(record.value), "bytes": record.key + record.value} for record in records]

    def topic_files(self) -> list[Path]:
        return [path for topic in (self.lists, self.changelog) for path in self.logs.glob(f"{topic}-[0-9]*")]

    def is_known(self) -> bool:
        try:
            return inspect(self.settings, VICTIM)["state"] is not None
        except InputError:
            return False


@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_an_erased_id_is_gone_from_every_file_of_ours(tmp_path: Path, delivery: str) -> None:
    properties = {**KAFKA_PROPERTIES, "log.cleaner.backoff.ms": "100"}
    with broker.start("kafka", properties=properties) as running:
        scene = Scene(running, tmp_path, delivery)
        with scene.worker.start() as worker:
            worker.wait_ready()
            other = neighbour(scene.settings)
            scene.produce(*(event(scene.settings, VICTIM, at) for at in TIMES_MS), event(scene.settings, other, 5))
            assert scene.is_known()
            assert files_with(VICTIM, *scene.topic_files()), "what is not there cannot be seen to go"
            _erase_among_kills(scene)
            _check_receipts(scene, once=delivery == "exactly_once")
            assert not scene.is_known()
            scene.produce(*(event(scene.settings, VICTIM, at) for at in TIMES_MS))
            assert not scene.is_known(), "older events brought the user back"
            _check_files(scene, other)
            scene.produce(event(scene.settings, VICTIM, TIMES_MS[-1] + 1))
            assert inspect(scene.settings, VICTIM)["state"]["events_count"] == 1
            assert worker.terminate() == 0


def _erase_among_kills(scene: Scene) -> None:
    """The worker dies soon after each of the requests; a last one is left to be carried out."""
    for n in range(KILLS):
        (asked,) = erase(scene.settings, [VICTIM], until_ms=TIMES_MS[-1], timeout_s=0)
        assert asked.receipt is None
        time.sleep(0.15 * n)
        scene.worker.kill()
        scene.worker.start().wait_ready()
    (done,) = erase(scene.settings, [VICTIM], until_ms=TIMES_MS[-1], timeout_s=60)
    assert done.receipt is not None, scene.worker.log_tail()


def _check_receipts(scene: Scene, *, once: bool) -> None:
    receipts = scene.receipts()
    assert not once or len(receipts) == KILLS + 1
    assert len({receipt["request_id"] for receipt in receipts}) == KILLS + 1
    for receipt in receipts:
        assert receipt["digest"] == digest_of(VICTIM.encode()).hex()
        assert receipt["erased_until"] == TIMES_MS[-1]
        assert VICTIM.encode() not in receipt["bytes"]


def _check_files(scene: Scene, other: str) -> None:
    assert files_with(VICTIM, scene.worker.data_dir) == [], "in the state store's files"
    deadline = time.monotonic() + 90
    filler = 10
    while left := files_with(VICTIM, *scene.topic_files()):
        # The segment that is written to is never compacted, and a new one begins with a record only.
        scene.produce(event(scene.settings, other, filler))
        filler += 1
        assert time.monotonic() < deadline, f"compaction leaves {left}"
        time.sleep(0.5)
    assert files_with(VICTIM, *scene.logs.glob(f"{scene.settings.topics.view}-*")), (
        "the source topics keep it until their retention: the documents say so"
    )
