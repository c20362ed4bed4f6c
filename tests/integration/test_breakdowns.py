"""What a broker refuses in mid-run: the worker ends with one line, nothing is committed, and repair makes it exact."""

# pyright: reportUnknownMemberType=false
# aiokafka is not typed throughout.

from pathlib import Path

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.chaos.readback import final_states
from streams.settings import Settings
from streams.topics import changelog_topic
from streams.worker_process import WorkerProcess
from tests.integration.harness import (
    admin_client,
    committed,
    create_topics,
    new_settings,
    run,
    send_of_users,
    wait_settled,
)
from tests.last_words import the_only_error

_USERS = 40


async def _set_record_bytes_max(settings: Settings, topic: str, value: int) -> None:
    async with admin_client(settings) as admin:
        config = {"max.message.bytes": str(value)}
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs=config)])


@pytest.mark.kafka
@pytest.mark.timeout(200)
@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_a_changelog_that_takes_no_large_record(kafka: str, tmp_path: Path, delivery: str) -> None:
    settings = new_settings(kafka, tmp_path, delivery=delivery)
    create_topics(settings)
    changelog = changelog_topic(settings.worker.app_id)
    run(_set_record_bytes_max(settings, changelog, 500))
    ends = send_of_users(settings, settings.topics.purchase, _USERS)
    with WorkerProcess(settings, tmp_path).start() as worker:
        assert worker.process.wait(90) == 1
        the_only_error(worker.log(), changelog, beside="Coordinator")
        assert max(committed(settings).values(), default=0) <= 0
        run(_set_record_bytes_max(settings, changelog, 1_000_000))
        worker.start()
        quiet = {tp: -1 for tp in committed(settings) if tp not in ends and delivery == "at_least_once"}
        wait_settled(settings, {**quiet, **ends}, 60, [worker])
        assert worker.terminate() == 0
    assert [each.events_count for each in final_states(settings).values()] == [1] * _USERS
