"""Workers that die, join and leave while events flow: no event lost, none folded twice, for any user."""

import time
from pathlib import Path

import pytest

from tests.chaos.flow import Flow

KILLS = 5
BURST = 2_500
MISSED_AFTER_S = 2.0
"""A killed worker's partitions are free after this time."""


def _kill_again_and_again(flow: Flow, *, kills: int, burst: int, wiped: bool) -> None:
    with flow.worker("worker") as worker:
        for _ in range(kills):
            worker.start().wait_ready()
            flow.burst(burst)
            flow.pause(0.1, 1.0)
            worker.kill()
            if wiped:
                worker.wipe()
        flow.burst(16_000 - KILLS * BURST if kills == KILLS else burst)
        worker.start()
        flow.finish([worker], f"{kills} kills, disk {'wiped' if wiped else 'kept'}")


@pytest.mark.kafka
@pytest.mark.timeout(150)
@pytest.mark.parametrize("disk", ["kept", "wiped"])
def test_killed_five_times(kafka: str, tmp_path: Path, disk: str) -> None:
    flow = Flow(kafka, tmp_path, seed=1, session_timeout_s=MISSED_AFTER_S)
    _kill_again_and_again(flow, kills=KILLS, burst=BURST, wiped=disk == "wiped")


@pytest.mark.timeout(120)
def test_killed_twice_on_the_embedded_broker(embedded: str, tmp_path: Path) -> None:
    flow = Flow(embedded, tmp_path, seed=2, users=200)
    _kill_again_and_again(flow, kills=2, burst=1_500, wiped=False)


@pytest.mark.kafka
@pytest.mark.timeout(120)
def test_one_of_two_workers_is_killed(kafka: str, tmp_path: Path) -> None:
    flow = Flow(kafka, tmp_path, seed=3, session_timeout_s=MISSED_AFTER_S)
    with flow.worker("first") as first, flow.worker("second") as second:
        first.start().wait_ready()
        flow.burst(3_000, rounds=20, pause_s=0.1)
        second.start().wait_ready()
        flow.burst(3_000, rounds=20, pause_s=0.1)
        flow.pause(0.5, 1.5)
        first.kill()
        flow.join()
        flow.burst(1_000)
        flow.finish([second], "one of two killed")


@pytest.mark.kafka
@pytest.mark.timeout(150)
def test_workers_join_and_leave(kafka: str, tmp_path: Path) -> None:
    flow = Flow(kafka, tmp_path, seed=4, types=(2,), session_timeout_s=MISSED_AFTER_S)
    with flow.worker("stays") as stays, flow.worker("comes") as comes:
        stays.start().wait_ready()
        flow.burst(9_000, rounds=180, pause_s=0.1)
        for _ in range(2):
            comes.start().wait_ready()
            flow.pause(0.5, 1.5)
            assert comes.terminate() == 0, comes.log_tail()
            flow.pause(0.2, 1.0)
        comes.wipe()
        comes.start()
        time.sleep(3)
        comes.kill()
        flow.finish([stays], "joined three times, left twice, killed once")
