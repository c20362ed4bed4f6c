"""A worker that is asked to end tells the group, for which nobody then waits, and ends whatever the broker does."""

import os
import signal
import time
from pathlib import Path

import pytest

from infra import broker
from operators import limits
from streams.chaos.readback import final_states
from tests.integration.harness import (
    WorkerProcess,
    create_topics,
    new_settings,
    send_of_users,
    wait_settled,
)

_ATTEMPTS = 5
_USERS = 20
_SPARE_S = 20.0
"""Of a loaded machine."""


@pytest.mark.kafka
def test_a_worker_that_is_stopped_while_it_joins_leaves_the_group(kafka: str, tmp_path: Path) -> None:
    settings = new_settings(kafka, tmp_path)
    create_topics(settings)
    for _ in range(_ATTEMPTS):  # the moment between joining and being ready is short
        worker = WorkerProcess(settings, tmp_path).start()
        while b"Joined group" not in worker.log():
            assert worker.is_running(), worker.log_tail()
            time.sleep(0.002)
        assert worker.terminate() == 0
        if b"stopped while starting" in worker.log():
            assert b"LeaveGroup request succeeded" in worker.log(), worker.log_tail()
            return
    raise AssertionError("the worker was always ready before it was stopped")


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_worker_whose_broker_is_silent_ends_in_time(tmp_path: Path) -> None:
    with broker.start("kafka") as frozen:
        settings = new_settings(frozen.address, tmp_path)
        create_topics(settings)
        with WorkerProcess(settings, tmp_path).start().wait_ready() as worker:
            os.kill(frozen.pid, signal.SIGSTOP)
            try:
                worker.process.send_signal(signal.SIGTERM)
                assert worker.process.wait(limits.stop_max_s + _SPARE_S) == 1
            finally:
                os.kill(frozen.pid, signal.SIGCONT)
            assert "has not ended in good order within" in worker.last_words()


@pytest.mark.kafka
@pytest.mark.timeout(200)
@pytest.mark.parametrize("delivery", ["at_least_once", pytest.param("exactly_once", marks=pytest.mark.slow)])
def test_a_worker_that_wakes_up_without_its_partitions_is_stopped_at_once(
    kafka: str, tmp_path: Path, delivery: str
) -> None:
    """It has nothing to finish, and hears only while it stops that the group has gone on without it."""
    settings = new_settings(kafka, tmp_path, delivery=delivery, session_timeout_s=2.0)
    create_topics(settings)
    with WorkerProcess(settings, tmp_path).start().wait_ready() as worker:
        wait_settled(settings, send_of_users(settings, settings.topics.view, _USERS), 60, [worker])
        worker.suspend()
        with WorkerProcess(settings, tmp_path, "another").start().wait_ready() as another:
            wait_settled(settings, send_of_users(settings, settings.topics.purchase, _USERS), 60, [another])
            worker.process.send_signal(signal.SIGTERM)
            worker.resume()
            assert worker.process.wait(limits.stop_max_s + _SPARE_S) == 0, worker.log_tail()
            assert not [line for line in worker.log().splitlines() if b" streams." in line and b" ERROR " in line]
            assert b"its partitions have gone to another worker" in worker.log(), worker.log_tail()
            # Nobody stands in its way.
            wait_settled(settings, send_of_users(settings, settings.topics.click, _USERS), 60, [another])
            assert another.terminate() == 0
    assert [state.events_count for state in final_states(settings).values()] == [3] * _USERS
