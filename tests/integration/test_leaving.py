"""A worker that is asked to end tells the group, so that its partitions do not wait for its session to run out."""

import time
from pathlib import Path

import pytest

from tests.integration.harness import WorkerProcess, create_topics, new_settings

_ATTEMPTS = 5


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
