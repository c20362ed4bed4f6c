"""An event topic that is deleted and made anew under old states: refused at start, before an event counts as known."""

# pyright: reportUnknownMemberType=false
# aiokafka is not typed throughout.

from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streams.chaos.readback import final_states
from streams.settings import Settings
from streams.worker_process import WorkerProcess
from tests.integration.harness import Producer, create_topics, ends_of, events_of_users, new_settings, run, wait_settled

_USERS = 20


async def _delete(settings: Settings, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker.address)
    await admin.start()
    try:
        await admin.delete_topics([topic])
    finally:
        await admin.close()


def _send(settings: Settings, topic: str) -> dict[tuple[str, int], int]:
    return ends_of(run(Producer(settings).send(events_of_users(topic, _USERS))))


@pytest.mark.kafka
@pytest.mark.timeout(200)
def test_an_event_topic_that_was_made_anew_is_refused(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    view = settings.topics.view
    with WorkerProcess(settings, tmp_path).start() as worker:
        wait_settled(settings, _send(settings, view), 60, [worker])
        assert worker.terminate() == 0
        assert [each.events_count for each in final_states(settings).values()] == [1] * _USERS
        worker.start()  # the topics are the same ones: nothing to refuse
        worker.wait_ready()
        wait_settled(settings, _send(settings, settings.topics.purchase), 60, [worker])
        assert worker.terminate() == 0

        run(_delete(settings, view))
        create_topics(settings)
        _send(settings, view)
        worker.start()
        assert worker.process.wait(90) == 1
        errors = [line for line in worker.log().decode().splitlines() if " ERROR " in line and view in line]
        assert len(errors) == 1, worker.log_tail()
        assert "was deleted and made anew" in errors[0]
        assert "Traceback" not in worker.log().decode()
        assert [each.events_count for each in final_states(settings).values()] == [2] * _USERS
