"""Topics that are deleted, or deleted and made anew: one line, nothing committed, and exact after the repair."""

# pyright: reportUnknownMemberType=false
# aiokafka is not typed throughout.

from pathlib import Path

import msgspec
import pytest

from streams.chaos.readback import final_states
from streams.settings import Settings
from streams.topics import changelog_topic
from tests.integration.harness import (
    WorkerProcess,
    admin_client,
    committed,
    create_topics,
    new_settings,
    read_topic,
    run,
    send_of_users,
    wait_settled,
)
from tests.last_words import the_only_error

_USERS = 20
_NOTICED_S_MAX = 45.0
"""A worker looks every five seconds; the rest is a loaded machine's."""


async def _delete(settings: Settings, topic: str) -> None:
    async with admin_client(settings) as admin:
        await admin.delete_topics([topic])


def _send(settings: Settings, topic: str) -> dict[tuple[str, int], int]:
    return send_of_users(settings, topic, _USERS)


def _counts(settings: Settings) -> list[int]:
    return [each.events_count for each in final_states(settings).values()]


def _the_only_error(worker: WorkerProcess, topic: str) -> str:
    """What the worker, which ends by itself, says of the topic."""
    assert worker.process.wait(_NOTICED_S_MAX) == 1, worker.log_tail()
    return the_only_error(worker.log(), topic, of=" streams.")


def _under_another_app(settings: Settings) -> Settings:
    worker = msgspec.structs.replace(settings.worker, app_id=f"{settings.worker.app_id}-2")
    return msgspec.structs.replace(settings, worker=worker)


def _assert_rebuilt(settings: Settings, home: Path, counts: list[int]) -> None:
    """The next step that the refusals name: another app, and states made anew of what the event topics have."""
    following = _under_another_app(settings)
    create_topics(following)
    ends = {(topic, n): 0 for topic in settings.topics.events for n in range(settings.topics.partitions)}
    for topic in settings.topics.events:
        for record in read_topic(settings, topic):
            ends[topic, record.partition] = max(record.offset + 1, ends[topic, record.partition])
    with WorkerProcess(following, home, "another").start() as worker:
        wait_settled(following, {place: end for place, end in ends.items() if end}, 60, [worker])
        assert worker.terminate() == 0
    assert _counts(following) == counts


@pytest.mark.kafka
@pytest.mark.timeout(200)
def test_an_event_topic_that_was_made_anew_is_refused(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    view = settings.topics.view
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, _send(settings, view), 60, [worker])
        assert worker.terminate() == 0
        assert _counts(settings) == [1] * _USERS
        worker.start()  # the topics are the same ones: nothing to refuse
        worker.wait_ready()
        wait_settled(settings, _send(settings, settings.topics.purchase), 60, [worker])

        run(_delete(settings, view))  # while the worker runs
        create_topics(settings)
        _send(settings, view)
        assert "was deleted and made anew" in _the_only_error(worker, view)
        worker.start()
        assert "was deleted and made anew" in _the_only_error(worker, view)
        assert _counts(settings) == [2] * _USERS
    _assert_rebuilt(settings, tmp_path, [2] * _USERS)  # the purchase, and the view of the new topic


@pytest.mark.kafka
@pytest.mark.timeout(200)
@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_recommendations_are_deleted_in_mid_run(kafka: str, tmp_path: Path, delivery: str) -> None:
    settings = new_settings(kafka, tmp_path, delivery=delivery)
    create_topics(settings)
    recommendations, purchase = settings.topics.recommendations, settings.topics.purchase
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, _send(settings, settings.topics.view), 60, [worker])
        before = committed(settings)
        run(_delete(settings, recommendations))
        ends = _send(settings, purchase)
        assert "was deleted" in _the_only_error(worker, recommendations)
        assert committed(settings) == before
        create_topics(settings)
        worker.start()
        wait_settled(settings, ends, 60, [worker])
        assert worker.terminate() == 0
    assert _counts(settings) == [2] * _USERS
    assert len({record.key for record in read_topic(settings, recommendations)}) == _USERS


@pytest.mark.kafka
@pytest.mark.timeout(240)
@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_the_changelog_is_deleted_in_mid_run(kafka: str, tmp_path: Path, delivery: str) -> None:
    settings = new_settings(kafka, tmp_path, delivery=delivery)
    create_topics(settings)
    changelog = changelog_topic(settings.worker.app_id)
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, _send(settings, settings.topics.view), 60, [worker])
        before = committed(settings)
        run(_delete(settings, changelog))
        _send(settings, settings.topics.purchase)
        assert "was deleted" in _the_only_error(worker, changelog)
        assert committed(settings) == before
        # An empty changelog beside states on the disk, and beside none: never as if there had been no events.
        create_topics(settings)
        worker.start()
        assert "is ahead of its changelog" in _the_only_error(worker, changelog)
        worker.wipe()
        worker.start()
        assert "the changelog holds no state" in _the_only_error(worker, "deleted or emptied")
        assert committed(settings) == before
    _assert_rebuilt(settings, tmp_path, [2] * _USERS)
